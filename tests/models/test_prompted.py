"""Prompt tokens in single blocks."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from timm.models.vision_transformer import Block
from torch._subclasses.fake_tensor import FakeTensorMode

from castssl.models.cast import CAST
from castssl.models.create import create
from castssl.models.prompted import Prompts
from castssl.types import Hierarchy, View

SIDE = 32


def view(batch: int = 3, cells: int = 4) -> View:
    """Random images on a grid; the last cell of the first image is part of the one before: padding."""
    draw = torch.Generator().manual_seed(0)
    at = torch.arange(SIDE) * cells // SIDE
    segments = (at[:, None] * cells + at).int().repeat(batch, 1, 1)
    segments[0].clamp_(max=cells * cells - 2)
    return View(torch.randn(batch, 3, SIDE, SIDE, generator=draw), segments)


def made(name: str = "nano_vit", sizes: tuple[int, ...] = (16, 16, 16), **options: Any) -> CAST:
    torch.manual_seed(0)
    return cast(CAST, create(name, image_size=SIDE, sizes=sizes, **options)).eval()


def prompts(*blocks: int, count: int = 5) -> dict[int, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {block: torch.randn(count, 64, generator=draw) for block in blocks}


def same(a: Hierarchy, b: Hierarchy) -> bool:
    return all(
        torch.equal(x.cls, y.cls) and torch.equal(x.x, y.x) for x, y in zip(a.stages, b.stages, strict=True)
    )


def test_they_join_one_block_and_leave_again() -> None:
    model, images, given = made(), view(), prompts(1)
    with torch.no_grad():
        plain, prompted = model(images), model(images, prompts=given)
        tokens = model.stages[0](model.tokenise(images, 16))
        x = torch.cat([tokens.cls, tokens.x, given[1].expand(3, -1, -1)], 1)
        mask = torch.cat([torch.ones(3, 1), tokens.mass, torch.ones(3, 5)], 1)[:, None, None] > 0
        expected = cast(Any, model.stages[1]).blocks[0](x, attn_mask=mask)
    assert torch.equal(plain.stages[0].cls, prompted.stages[0].cls)
    torch.testing.assert_close(prompted.stages[1].cls, expected[:, :1])
    torch.testing.assert_close(prompted.stages[1].x, expected[:, 1:17])
    torch.testing.assert_close(prompted.prompts[0], expected[:, 17:])
    assert [stage.x.shape[1] for stage in prompted.stages] == [16, 16, 16]
    assert not torch.allclose(plain.stages[2].cls, prompted.stages[2].cls)
    assert plain.prompts == ()


@pytest.mark.parametrize("padding", ["mask", "reference"])
def test_no_prompts_are_the_plain_model_bit_for_bit(padding: Any) -> None:
    model = made(padding=padding)
    with torch.no_grad():
        assert same(model(view()), model(view(), prompts={}))


def test_padding_is_hidden_from_prompts_and_they_are_not() -> None:
    model, images = made(), view()
    with torch.no_grad():
        tokens = model.tokenise(images, 16)
        assert tokens.mass[0, 15] == 0
        noise = tokens._replace(x=tokens.x + (tokens.mass == 0)[..., None])
        found = []
        for each in (tokens, noise):
            through = Prompts(prompts(0), 3)
            model.stages[0](each, (), through)
            found.append(through.after[0])
    torch.testing.assert_close(found[0], found[1])


def test_prompts_do_not_see_other_images() -> None:
    model, images = made(), view()
    with torch.no_grad():
        together = model(images, prompts=prompts(0, 2))
        alone = model(View(images.image[1:2], images.segments[1:2]), prompts=prompts(0, 2))
    for a, b in zip(together.prompts, alone.prompts, strict=True):
        torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=0)


def test_their_order_is_that_of_the_blocks() -> None:
    model, images, given = made(), view(), prompts(0, 2)
    with torch.no_grad():
        forth = model(images, prompts=given).prompts
        back = model(images, prompts=dict(reversed(given.items()))).prompts
    assert all(torch.equal(a, b) for a, b in zip(forth, back, strict=True))


def test_pooling_goes_on_beside_them() -> None:
    model, images = made("nano", (64, 8, 4)), view(cells=8)
    with torch.no_grad():
        hierarchy = model(images, prompts=prompts(0, 1))
        fused = made("nano", (64, 8, 4), pooling="graph:centroids=received")(images, prompts=prompts(0))
    assert [stage.x.shape[1] for stage in hierarchy.stages] == [64, 8, 4]
    assert [tuple(assign.shape[1:]) for assign in hierarchy.assigns] == [(64, 8), (8, 4)]
    assert [tuple(after.shape) for after in hierarchy.prompts] == [(3, 5, 64)] * 2
    assert len(fused.prompts) == 1


def test_the_fused_variant_takes_them_too() -> None:
    model = made("cast_small_seg", (16, 8, 6, 4))
    given = {10: torch.randn(2, 384)}
    with torch.no_grad():
        hierarchy = model(view(), prompts=given)
        assert hierarchy.prompts[0].shape == (3, 2, 384)
        assert not torch.allclose(hierarchy.stages[-1].cls, model(view()).stages[-1].cls)


@pytest.mark.parametrize("block", [3, -1])
def test_a_block_that_is_not_there(block: int) -> None:
    with pytest.raises(ValueError, match=r"the encoder has 0 to 2"):
        made()(view(), prompts=prompts(block))
    assert made().prompt_blocks == 3


def test_half_precision_goes_through() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        after = made()(view(), prompts=prompts(1)).prompts[0]
    assert after.isfinite().all()


def test_no_shape_depends_on_data() -> None:
    with FakeTensorMode():
        model = create("hier_vit_small")
        images = View(torch.empty(2, 3, 224, 224), torch.zeros(2, 224, 224, dtype=torch.int32))
        hierarchy = cast(CAST, model)(images, prompts={9: torch.empty(7, 384)})
    assert hierarchy.prompts[0].shape == (2, 7, 384)


def test_it_compiles_as_one_graph() -> None:
    model, images, given = made(), view(), prompts(0, 1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        found, expected = compiled(images, prompts=given), model(images, prompts=given)
    torch.testing.assert_close(found.stages[-1].cls, expected.stages[-1].cls)
    torch.testing.assert_close(found.prompts, expected.prompts)
    torch.compiler.reset()


def test_all_blocks_are_counted() -> None:
    through, block = Prompts({}, 2), Block(8, 2)
    for _ in range(2):
        through.through(block, torch.randn(1, 3, 8), None)
    assert (through.passed, through.after) == (2, [])
