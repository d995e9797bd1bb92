"""Prompt tokens in single blocks of a CAST."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from castssl import create
from castssl.types import Hierarchy, View
from castssl_baselines.prompting import Prompting, blocks_of, prompted

SIDE = 32


def view(batch: int = 3, cells: int = 4) -> View:
    """Random images on a grid; the last cell of the first image is part of the one before: padding."""
    draw = torch.Generator().manual_seed(0)
    at = torch.arange(SIDE) * cells // SIDE
    segments = (at[:, None] * cells + at).int().repeat(batch, 1, 1)
    segments[0].clamp_(max=cells * cells - 2)
    return View(torch.randn(batch, 3, SIDE, SIDE, generator=draw), segments)


def made(name: str = "nano_vit", sizes: tuple[int, ...] = (16, 16, 16), **options: Any) -> Any:
    torch.manual_seed(0)
    encoder: Any = create(name, **{"image_size": SIDE, "sizes": sizes, **options})
    return encoder.eval()


def prompts(encoder: Any, *blocks: int, count: int = 5) -> list[Prompting]:
    """Prompts of their own for each of these blocks, hooked to it."""
    draw, found = torch.Generator().manual_seed(1), []
    for block in blocks:
        prompting = Prompting(encoder.dim, count)
        prompting.tokens.data = torch.randn(count, encoder.dim, generator=draw)
        prompting.hook(blocks_of(encoder)[block])
        found.append(prompting)
    return found


def run(encoder: Any, images: View, promptings: list[Prompting]) -> tuple[Hierarchy, list[Tensor]]:
    """The hierarchy of a prompted pass, and what became of the prompts."""
    with prompted(encoder, promptings):
        hierarchy = encoder(images)
        after = [prompting.after for prompting in promptings]
    return hierarchy, [each for each in after if each is not None]


def same(a: Hierarchy, b: Hierarchy) -> bool:
    return all(
        torch.equal(x.cls, y.cls) and torch.equal(x.x, y.x) for x, y in zip(a.stages, b.stages, strict=True)
    )


def test_they_join_one_block_and_leave_again() -> None:
    model, images = made(), view()
    with torch.no_grad():
        tokens = model.stages[0](model.tokenise(images, 16))
        plain = model(images)
        given = prompts(model, 1)
        prompted_, (after,) = run(model, images, given)
        x = torch.cat([tokens.cls, tokens.x, given[0].tokens.expand(3, -1, -1)], 1)
        mask = torch.cat([torch.ones(3, 1), tokens.mass, torch.ones(3, 5)], 1)[:, None, None] > 0
        expected = model.stages[1].blocks[0](x, attn_mask=mask)
    assert torch.equal(plain.stages[0].cls, prompted_.stages[0].cls)
    assert torch.equal(prompted_.stages[1].cls, expected[:, :1])
    assert torch.equal(prompted_.stages[1].x, expected[:, 1:17])
    assert torch.equal(after, expected[:, 17:])
    assert [stage.x.shape[1] for stage in prompted_.stages] == [16, 16, 16]
    assert not torch.allclose(plain.stages[2].cls, prompted_.stages[2].cls)


@pytest.mark.parametrize("padding", ["mask", "reference"])
def test_a_bias_of_the_tokens_attention_is_none_of_the_prompts(padding: Any) -> None:
    model = made(padding=padding)
    with torch.no_grad(), prompted(model, given := prompts(model, 1)):
        tokens = model.stages[0](model.tokenise(view(), 16))
        plain, after = model.stages[1](tokens), given[0].after
        zero, again = model.stages[1](tokens._replace(bias=torch.zeros(3, 16))), given[0].after
    torch.testing.assert_close(zero.x, plain.x)
    torch.testing.assert_close(again, after)


@pytest.mark.parametrize("padding", ["mask", "reference"])
def test_outside_and_without_prompts_it_is_the_plain_model_bit_for_bit(padding: Any) -> None:
    model = made(padding=padding)
    with torch.no_grad():
        plain = model(view())
        given = prompts(model, 0, 1)
        assert same(run(model, view(), [])[0], plain)
        assert not same(run(model, view(), given)[0], plain)
        assert same(model(view()), plain)
    assert given[0].after is None


def test_an_error_inside_leaves_the_plain_model() -> None:
    model = made()
    plain, given = model(view()), prompts(model, 1)

    def fail(*_: object) -> None:
        raise RuntimeError("stop")

    hook = model.norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop"), prompted(model, given):
        model(view())
    hook.remove()
    assert same(model(view()), plain)
    assert given[0].after is None


def test_padding_is_hidden_from_prompts_and_they_are_not() -> None:
    model, images = made(), view()
    given = prompts(model, 0)
    with torch.no_grad():
        tokens = model.tokenise(images, 16)
        assert tokens.mass[0, 15] == 0
        noise = tokens._replace(x=tokens.x + (tokens.mass == 0)[..., None])
        found = []
        for each in (tokens, noise):
            with prompted(model, given):
                model.stages[0](each)
                found.append(given[0].after)
    torch.testing.assert_close(found[0], found[1])


def test_prompts_do_not_see_other_images() -> None:
    model, images = made(), view()
    given = prompts(model, 0, 2)
    with torch.no_grad():
        _, together = run(model, images, given)
        _, alone = run(model, View(images.image[1:2], images.segments[1:2]), given)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=0)


def test_each_keeps_what_became_of_its_own_tokens_in_any_order() -> None:
    model, images = made(), view()
    given = prompts(model, 0, 2)
    with torch.no_grad():
        _, forth = run(model, images, given)
        _, back = run(model, images, given[::-1])
    assert all(torch.equal(a, b) for a, b in zip(forth, back[::-1], strict=True))
    assert not torch.equal(*forth)


def test_pooling_goes_on_beside_them() -> None:
    model, images = made("nano", (64, 8, 4)), view(cells=8)
    with torch.no_grad():
        hierarchy, after = run(model, images, prompts(model, 0, 1))
        received = made("nano", (64, 8, 4), pooling="graph:centroids=received")
        _, others = run(received, images, prompts(received, 0))
    assert [stage.x.shape[1] for stage in hierarchy.stages] == [64, 8, 4]
    assert [tuple(assign.shape[1:]) for assign in hierarchy.assigns] == [(64, 8), (8, 4)]
    assert [tuple(each.shape) for each in after] == [(3, 5, 64)] * 2
    assert len(others) == 1


def test_the_fused_variant_takes_them_too() -> None:
    model = made("cast_small_seg", (16, 8, 6, 4))
    with torch.no_grad():
        plain = model(view())
        hierarchy, (after,) = run(model, view(), prompts(model, 10, count=2))
    assert after.shape == (3, 2, 384)
    assert not torch.allclose(hierarchy.stages[-1].cls, plain.stages[-1].cls)


def test_blocks_are_those_of_all_stages_in_their_order() -> None:
    model = made()
    assert blocks_of(model) == [stage.blocks[0] for stage in model.stages]
    assert len(blocks_of(made("cast_small", (16, 8, 6, 4)))) == 11


def test_half_precision_goes_through() -> None:
    model = made()
    with torch.autocast("cpu", torch.bfloat16):
        _, (after,) = run(model, view(), prompts(model, 1))
    assert after.isfinite().all()


def test_no_shape_depends_on_data() -> None:
    prompting = Prompting(384, 7)  # Its start looks at the numbers that it draws.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model: Any = create("hier_vit_small")
        images = View(torch.empty(2, 3, 224, 224), torch.zeros(2, 224, 224, dtype=torch.int32))
        prompting.hook(blocks_of(model)[9])
        _, (after,) = run(model, images, [prompting])
    assert after.shape == (2, 7, 384)


def test_it_compiles_as_one_graph_with_prompts_and_one_without() -> None:
    model, images = made(), view()
    given = prompts(model, 0, 1)
    with torch.no_grad():
        plain, (expected, after) = model(images), run(model, images, given)
        model.compile(fullgraph=True, backend="eager")
        for _ in range(2):
            torch.testing.assert_close(model(images).stages[-1].cls, plain.stages[-1].cls)
            found, compiled = run(model, images, given)
            torch.testing.assert_close(found.stages[-1].cls, expected.stages[-1].cls)
            torch.testing.assert_close(compiled, after)
    torch.compiler.reset()


def test_blocks_that_are_computed_anew_have_the_same_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        model = made().train()
        given = prompts(model, 0, 1)
        for stage in model.stages:
            stage.checkpointing = checkpointing
        hierarchy, after = run(model, view(), given)
        torch.autograd.backward(hierarchy.stages[-1].cls.sum() + after[0].sum())
        assert all(stage.checkpointing is checkpointing for stage in model.stages)
        found.append([p.grad for p in (*model.parameters(), *(each.tokens for each in given))])
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_a_copy_of_both_has_prompts_of_its_own() -> None:
    model, images = made(), view()
    given = prompts(model, 1)
    with torch.no_grad():
        before, _ = run(model, images, given)
        copied, (theirs,) = deepcopy((model, given))
        theirs.tokens.mul_(-1)
        moved, _ = run(copied, images, [theirs])
        assert same(run(model, images, given)[0], before)
        assert not same(moved, before)
        assert same(copied(images), model(images))
