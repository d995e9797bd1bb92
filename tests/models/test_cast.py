"""CAST itself: independence of the batch, shapes without data, ablation shapes, counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from castssl.contracts import Encoder
from castssl.encoder_config import EncoderConfig
from castssl.models.blocks import Stage
from castssl.models.cast import CAST
from castssl.models.create import create
from castssl.models.fuse import FusedCAST
from castssl.models.presets import PRESETS
from castssl.pooling.graph import GraphPool
from castssl.pooling.sample import RandomSampling
from castssl.types import Hierarchy, Tokens, View


def view(batch: int, side: int = 64, cells: int = 8, seed: int = 0) -> View:
    """Random images over blocks of random size, so that some labels are missing at the stem's grid."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 3, side, side, generator=generator)
    edges = torch.rand(batch, side, generator=generator).cumsum(1)
    label = (edges / edges[:, -1:] * cells).clamp(max=cells - 1).int()
    return View(image, label[:, :, None] * cells + label[:, None])


def small(**options: object) -> CAST:
    torch.manual_seed(0)
    settings: dict[str, object] = {"dim": 24, "heads": 3, "image_size": 64, "stride": 8} | options
    return CAST((1, 1, 1, 0), (64, 16, 8, 4), lambda d: GraphPool(d, heads=3), **settings).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("membership", ["nearest", "area"])
def test_an_image_alone_and_in_a_batch_agree(membership: str) -> None:
    model = small(membership=membership)
    images = view(4)
    with torch.no_grad():
        together = model.segment(images)
        for i in range(4):
            alone = model.segment(View(images.image[i : i + 1], images.segments[i : i + 1]))
            for a, b in zip(alone.stages, together.stages, strict=True):
                torch.testing.assert_close(a.cls, b.cls[i : i + 1], atol=1e-5, rtol=0)
                torch.testing.assert_close(a.x, b.x[i : i + 1], atol=1e-5, rtol=0)
    if membership == "nearest":
        assert (together.stages[0].mass == 0).any(), "the case should have padding"


def test_more_room_for_tokens_changes_nothing() -> None:
    model = small()
    with torch.no_grad():
        tight, roomy = (model(view(2), sizes=(n, 16, 8, 4)).stages[-1].cls for n in (64, 90))
    torch.testing.assert_close(tight, roomy, atol=1e-5, rtol=0)


def test_mass_is_conserved_through_all_stages() -> None:
    hierarchy = small().segment(view(3))
    for stage in hierarchy.stages:
        torch.testing.assert_close(stage.mass.sum(1), torch.full((3,), 64.0), atol=1e-3, rtol=0)


def test_labels_are_nested_and_mark_lost_segments() -> None:
    images = view(2)
    hierarchy = small().segment(images)
    labels = [hierarchy.labels(s) for s in range(4)]
    lost = (
        hierarchy.stages[0].mass.gather(1, images.segments.flatten(1).long()).view(images.segments.shape) == 0
    )
    for fine, coarse in pairwise(labels):
        for image in range(2):
            pairs = {
                (int(f), int(c)) for f, c in zip(fine[image].flatten(), coarse[image].flatten(), strict=True)
            }
            assert len(pairs) == len({f for f, _ in pairs}), "a fine segment has one parent"
    assert all(torch.equal(level == -1, lost) for level in labels)
    assert torch.equal(labels[0][~lost], images.segments.long()[~lost])


def test_the_coarsest_pooling_runs_only_for_the_hierarchy_and_is_frozen() -> None:
    model = small()
    calls: list[int] = []
    model.poolings[2].register_forward_hook(lambda *_: calls.append(1))
    assert len(model(view(1)).stages) == 3
    assert not calls
    assert len(model.segment(view(1)).stages) == 4
    assert len(calls) == 1
    assert not any(p.requires_grad for p in model.poolings[2].parameters())
    assert all(p.requires_grad for p in model.poolings[1].parameters())


def test_equal_sizes_pool_nothing() -> None:
    model = CAST((1, 1), (64, 64), GraphPool, dim=24, heads=3, image_size=64)
    hierarchy = model(view(2))
    assert not list(model.poolings.parameters())
    assign = hierarchy.assigns[0]
    assert torch.equal(assign, torch.diag_embed((hierarchy.stages[0].mass > 0).float()))


def test_received_attention_reaches_the_pooling_that_asks() -> None:
    model = CAST(
        (2, 1), (64, 8), lambda d: GraphPool(d, heads=3, centroids="received"), dim=24, heads=3, image_size=64
    ).eval()
    tokens = model.tokenise(view(2), 64)
    after = model.stages[0](tokens, model.pooling(0).needs)
    assert after.keys is None
    # Each of the valid queries hands out 1; the class token receives the rest.
    valid = (tokens.mass > 0).sum(1)
    assert (after.received.sum(1) < valid + 1).all()
    assert (after.received[tokens.mass == 0] == 0).all()
    plain = model.stages[0](tokens)
    torch.testing.assert_close(plain.x, after.x)
    model(view(2))


def test_recorded_attention_equals_its_definition() -> None:
    model = small()
    tokens = model.tokenise(view(1), 64)
    got = model.stages[0](tokens, frozenset({"keys", "received"}))
    block: Any = model.stages[0].blocks[0]  # type: ignore[index]
    x = torch.cat([tokens.cls, tokens.x], 1)[0]
    rows = [i for i in range(65) if i == 0 or tokens.mass[0, i - 1] > 0]
    q, k, _ = block.attn.qkv(block.norm1(x)).view(65, 3, 3, 8).unbind(1)
    expected = torch.zeros(65)
    for head in range(3):
        for i in rows:
            weights = torch.stack([q[i, head] @ k[j, head] / 8**0.5 for j in rows]).softmax(0)
            for j, weight in zip(rows, weights, strict=True):
                expected[j] += weight / 3
    torch.testing.assert_close(got.received[0], expected[1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got.keys[0], k[1:].mean(1))


@pytest.mark.parametrize("name", PRESETS)
def test_forward_needs_no_data(name: str) -> None:
    """No shape depends on values, and nothing is read back from the device."""
    with FakeTensorMode():
        # A thousand farthest points take a thousand steps, and tome_small does not mean them anyway.
        model = create(name, pooling="random" if name == "tome_small" else "graph")
        image = torch.empty(2, 3, 224, 224)
        assert isinstance(model, CAST)
        hierarchy = model.segment(View(image, torch.zeros(2, 224, 224, dtype=torch.int32)))
    assert [s.x.shape[1] for s in hierarchy.stages] == list(PRESETS[name].sizes)


def one_graph(model: Encoder, images: View) -> None:
    """The compiled hierarchy is the eager one, and there is no graph break."""
    compiled = torch.compile(model.segment, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.manual_seed(1)
        expected = model.segment(images).stages[-1].cls
        torch.manual_seed(1)
        found: Hierarchy = compiled(images)
        torch.testing.assert_close(found.stages[-1].cls, expected)
    torch.compiler.reset()


def two_stages(name: str, **options: Any) -> EncoderConfig:
    """A preset with a block in each of two stages, which compile ten times as fast as all."""
    cells = (32 // PRESETS[name].stride) ** 2
    sizes = (cells, 4 if name != "nano_vit" else cells)
    return replace(PRESETS[name], depths=(1, 1), sizes=sizes, image_size=32, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cast_nano", {}),
        ("cast_nano", {"pooling": "graph:centroids=random"}),
        ("cast_nano", {"pooling": "graph:centroids=received"}),
        ("cast_nano", {"pooling": "random"}),
        ("nano_vit", {}),
        ("nano_seg", {}),
        ("nano_seg", {"dense": True}),
    ],
)
def test_each_kind_of_model_compiles_as_one_graph(name: str, options: dict[str, Any]) -> None:
    """All presets, with all stages, are in tests/slow/test_compile.py."""
    config = two_stages(name, **options)
    one_graph(create(config).eval(), view(2, 32, 32 // config.stride))


@pytest.mark.parametrize(
    ("name", "total"),
    [("cast_small", 28_339_864), ("cast_small_deep", 35_437_720), ("cast_base", 111_799_624)],
)
def test_parameters_by_the_published_counts(name: str, total: int) -> None:
    model = create(name)
    dim = model.dim
    # The published count holds a 1000-way head and a second class token of zeros.
    assert sum(p.numel() for p in model.parameters()) == total - (1000 * dim + 1000) - dim


def test_fused_tokens_stand_in_for_the_class_token() -> None:
    model = create("cast_small_seg", image_size=64, sizes=(64, 16, 8, 4)).eval()
    assert isinstance(model, FusedCAST)
    images = view(2)
    with torch.no_grad():
        hierarchy, fused = model.fuse(images)
        valid = hierarchy.stages[0].mass > 0
        mean = torch.stack([fused[i, 1:][valid[i]].mean(0) for i in range(2)])
        torch.testing.assert_close(model(images).stages[-1].cls[:, 0], mean)
    assert all(p.requires_grad for p in model.poolings.parameters())


def test_autocast_keeps_mass_and_assign_in_float32() -> None:
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        hierarchy = model.segment(view(2))
    assert {a.dtype for a in hierarchy.assigns} == {torch.float32}
    torch.testing.assert_close(hierarchy.stages[-1].mass.sum(1), torch.full((2,), 64.0), atol=1e-2, rtol=0)


def test_a_one_color_image_segments() -> None:
    images = view(2)
    hierarchy = small().segment(View(torch.zeros_like(images.image), images.segments))
    labels: Tensor = hierarchy.labels(3)
    assert labels.max() < 4
    assert torch.isfinite(hierarchy.stages[-1].cls).all()


@pytest.mark.parametrize(
    ("depths", "sizes", "message"),
    [
        ((1, 1), (8,), "one size per stage"),
        ((1, 1), (8, 16), "fine to coarse"),
        ((1, 0, 1), (8, 4, 2), "only the last stage"),
    ],
)
def test_impossible_shapes_are_refused(depths: tuple[int, ...], sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CAST(depths, sizes, RandomSampling, dim=24, heads=3)


def received(dim: int) -> GraphPool:
    return GraphPool(dim, heads=3, centroids="received")


def visited(kind: str) -> CAST:
    """Models of two and one blocks, whose poolings read what the last block's attention recorded."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"dim": 24, "heads": 3, "image_size": 64, "stride": 8}
    options |= {"padding": "reference"} if kind == "reference" else {}
    made = FusedCAST if kind == "fused" else CAST
    return made((2, 1, 0), (64, 16, 8), received, **options).eval()


def fields(hierarchy: Hierarchy) -> list[Tensor]:
    stages = [field for stage in hierarchy.stages for field in stage if field is not None]
    return [hierarchy.segments, *hierarchy.assigns, *stages]


def claim_same(found: Hierarchy, expected: Hierarchy) -> None:
    for a, b in zip(fields(found), fields(expected), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["mask", "reference", "fused"])
def test_visits_that_change_nothing_are_the_forward_pass_bit_for_bit(kind: str, half: bool) -> None:
    model, seen = visited(kind), list[tuple[int, Tokens]]()

    def visit(stage: int, tokens: Tokens) -> Tensor:
        seen.append((stage, tokens))
        return tokens.x

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = model.visit_blocks(view(2), visit)
        claim_same(found, model(view(2)))
    assert [stage for stage, _ in seen] == [0, 0, 1]
    assert model.visits == (2, 1)
    for stage, last in enumerate((seen[1][1], seen[2][1])):
        assert torch.equal(last.x, found.stages[stage].x)
        assert torch.equal(last.mass, found.stages[stage].mass)
        if stage == 0:
            assert torch.equal(last.cls, found.stages[stage].cls)
        elif kind != "fused":
            assert torch.equal(model.norm(last.cls), found.stages[stage].cls)


@pytest.mark.parametrize("kind", ["mask", "reference", "fused"])
@pytest.mark.parametrize("at", range(3))
def test_what_a_visit_returns_goes_on(kind: str, at: int) -> None:
    """The oracle: a hook that changes what the block itself returns."""
    model, calls = visited(kind), [0]
    block = [block for stage in model.stages for block in cast(Stage, stage).blocks][at]

    def visit(stage: int, tokens: Tokens) -> Tensor:
        calls[0] += 1
        return tokens.x * 2 - 1 if calls[0] == at + 1 else tokens.x

    with torch.no_grad():
        plain, found = model(view(2)), model.visit_blocks(view(2), visit)
        hook = block.register_forward_hook(lambda *now: torch.cat([now[2][:, :1], now[2][:, 1:] * 2 - 1], 1))
        claim_same(found, model(view(2)))
        hook.remove()
    assert not torch.equal(found.stages[-1].x, plain.stages[-1].x)
    if at == 1:
        first, before = found.stages[0], plain.stages[0]
        assert first.received is not None
        assert before.received is not None
        assert torch.equal(first.received, before.received), "recorded of the attention before the visit"


def test_gradients_pass_through_what_a_visit_returns() -> None:
    model, scale = visited("mask"), torch.ones((), requires_grad=True)
    for stage in model.stages:
        cast(Stage, stage).checkpointing = True
    model.visit_blocks(view(2), lambda stage, tokens: tokens.x * scale).stages[-1].cls.sum().backward()
    assert scale.grad is not None
    assert scale.grad != 0
