"""Mask queries against encoders that are run by hand, block by block, with the queries as further tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.models.create import create
from castssl.models.mask_queries import JOINED, OWN, QUERIES, MaskQueries, Predictions, joinable, joint_mask
from castssl.models.recorded import record
from castssl.modes import evaluating
from castssl.types import Tokens, View
from tests.models.test_segmentation_heads import tokens

CLASSES = 3
ENCODERS = ["nano", "nano_seg", "nano_vit", "timm:test_vit", "timm:test_convnext"]


def view(images: int = 2, side: int = 32) -> View:
    """Squares of 4 pixels as superpixels; the second image has fewer of them."""
    draw = torch.Generator().manual_seed(0)
    at = torch.arange(side) * 8 // side
    segments = (at[:, None] * 8 + at).int().repeat(images, 1, 1)
    segments[1:] = segments[1:] // 2
    return View(torch.randn(images, 3, side, side, generator=draw), segments)


def model(name: str, *, own: bool = False, **options: Any) -> tuple[Encoder, MaskQueries]:
    torch.manual_seed(0)
    encoder = create(name, **{"image_size": 32, **options})
    return encoder, MaskQueries(encoder, CLASSES, own=own)


def predict(encoder: Encoder, head: MaskQueries, shown: View) -> Predictions:
    found: Predictions = head(encoder, lambda: encoder.dense(shown))
    return found


def recomputed(head: MaskQueries, queries: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Classes and masks from queries and mask features."""
    normed = F.layer_norm(queries, queries.shape[-1:], head.norm.weight, head.norm.bias, 1e-6)
    embedded = head.embed[2](F.gelu(head.embed[0](normed)))
    return head.classify(normed), head.embed[4](F.gelu(embedded)) @ features.mT


def test_queries_are_tokens_of_a_casts_blocks() -> None:
    """The oracle calls stem, blocks and poolings one by one; its poolings see no queries."""
    encoder, head = model("nano")
    part: Any = encoder.eval()
    head.eval()
    shown = view()
    found = predict(encoder, head, shown)
    state, queries, stages = part.tokenise(shown, 64), head.queries.expand(2, -1, -1), []
    parents = torch.arange(64).expand(2, -1)
    for stage in range(3):
        if stage:
            pooled = part.poolings[stage - 1](state, part.sizes[stage])
            mass = (pooled.assign * state.mass[..., None]).sum(1)
            parents = pooled.assign.argmax(-1).gather(1, parents)
            state = Tokens(pooled.x, pooled.cls, mass)
        present = F.pad(state.mass > 0, (1, 0), value=True)
        [block] = part.stages[stage].blocks
        needs = record(block, torch.cat([state.cls, state.x], 1), present[:, None, None])
        mask = F.pad(present, (QUERIES, 0), value=True)[:, None, None]
        x = block(torch.cat([queries, state.cls, state.x], 1), attn_mask=mask)
        queries, cls, x = x.split([QUERIES, 1, state.x.shape[1]], 1)
        state = Tokens(x, cls, state.mass, needs["keys"], needs["received"])
        stages.append(x.gather(1, parents[..., None].expand(-1, -1, 64)))
    features = head.fine(torch.cat([*stages[:2], part.norm(stages[2])], -1))
    classes, masks = recomputed(head, queries, features)
    torch.testing.assert_close(found.classes[0], classes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.masks[0], masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.tokens.labels, shown.segments)


def test_queries_are_tokens_of_a_vits_last_blocks() -> None:
    encoder, head = model("timm:test_vit")
    network: Any = getattr(encoder.eval(), "network")  # noqa: B009
    head.eval()
    shown = view()
    found = predict(encoder, head, shown)
    x = network.norm_pre(network._pos_embed(network.patch_embed(shown.image)))
    count = head.layers
    assert count == min(JOINED, len(network.blocks))
    x = torch.cat([head.queries.expand(2, -1, -1), network.blocks[:-count](x)], 1)
    x = network.blocks[-count:](x)
    patches = network.norm(x)[:, QUERIES + network.num_prefix_tokens :]
    maps = head.upscale(head.fine(patches).mT.unflatten(2, (2, 2)))
    classes, masks = recomputed(head, x[:, :QUERIES], maps.flatten(2).mT)
    torch.testing.assert_close(found.classes[0], classes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.masks[0], masks, atol=1e-4, rtol=1e-4)
    assert found.tokens.grid == (8, 8), "patches of 16 pixels are upscaled to a stride of 4"
    assert found.tokens.labels[0].unique(return_counts=True)[1].tolist() == [16] * 64


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_all_parameters_learn_from_all_predictions(name: str, own: bool) -> None:
    encoder, head = model(name, own=own)
    found = predict(encoder.train(), head.train(), view())
    blocks = [] if own else joinable(encoder)
    assert len(found.masks) == 1 + (min(JOINED, len(blocks)) or OWN)
    assert found.masks.shape[:-1] == (len(found.masks), 2, QUERIES)
    assert found.scores().shape == (2, found.tokens.x.shape[1], CLASSES)
    (found.masks.mean() + found.classes.square().mean()).backward()
    assert not [name for name, p in head.named_parameters() if p.grad is None]


@pytest.mark.parametrize("own", [False, True])
def test_the_encoder_is_left_as_it_was(own: bool) -> None:
    encoder, head = model("nano", own=own)
    shown = view()
    with evaluating(encoder):
        before = encoder.dense(shown).x
        predict(encoder, head.eval(), shown)
        torch.testing.assert_close(encoder.dense(shown).x, before, rtol=0, atol=0)


def test_own_blocks_read_the_encoders_layers() -> None:
    """The stages of a CAST, four blocks of a ViT, the fused tokens alone; these stay as without queries."""
    for name, count in (("nano", 3), ("nano_seg", 1), ("timm:test_vit", 4), ("timm:test_convnext", 1)):
        encoder, head = model(name, own=True)
        encoder.eval()
        found, layers = head._read(encoder, lambda: encoder.dense(view()))  # noqa: B023
        assert len(layers) == len(head.adapters) == min(count, len(joinable(encoder)) or count)
        torch.testing.assert_close(found.x, encoder.dense(view()).x, rtol=0, atol=0)
        torch.testing.assert_close(layers[-1], found.x[..., -layers[-1].shape[-1] :])


@pytest.mark.parametrize("own", [False, True])
def test_padding_changes_nothing(own: bool) -> None:
    encoder, head = model("nano", own=own)
    encoder.eval()
    head.eval()
    shown = view()
    alone = predict(encoder, head, View(*(part[1:] for part in shown)))
    both = predict(encoder, head, shown)
    torch.testing.assert_close(both.masks[:, 1:], alone.masks, atol=1e-4, rtol=1e-4)
    tight: Any = encoder
    few = encoder.dense(View(*(part[1:] for part in shown)), (34, 32, 16, 8))
    assert few.x.shape[1] < both.tokens.x.shape[1]
    found = head(encoder, lambda: tight.dense(View(*(part[1:] for part in shown)), (34, 32, 16, 8)))
    torch.testing.assert_close(found.masks[0], alone.masks[0, :, :, :34], atol=1e-4, rtol=1e-4)


def test_a_query_in_training_sees_the_inside_of_its_mask() -> None:
    """What lies outside of each mask changes, and no query notices; without masks all do."""
    torch.manual_seed(0)
    inside = torch.rand(2, 5, 7) > 0.5
    x = torch.randn(2, 5 + 1 + 7, 16)
    other = torch.cat([x[:, :6], torch.randn(2, 7, 16)], 1)
    mask = joint_mask(None, inside, 5, 8)
    assert mask is not None
    for image in range(2):
        for query in range(5):
            mixed = x.clone()
            outside = 6 + (~inside[image, query]).nonzero()[:, 0]
            mixed[image, outside] = other[image, outside]
            out = [F.scaled_dot_product_attention(r, r, r, attn_mask=mask[:, 0]) for r in (x, mixed)]
            torch.testing.assert_close(out[0][image, query], out[1][image, query])
            assert len(outside) == 0 or not torch.allclose(out[0][image, 6], out[1][image, 6])


def test_masks_of_padding_and_of_queries_join() -> None:
    present = torch.tensor([[True, True, False]])[:, None, None]
    inside = torch.tensor([[[False, True]]])
    expected = torch.tensor(
        [[True, True, False, False], [True, True, True, False]] + [[True, True, True, False]] * 2
    )
    mask = joint_mask(present, inside, 1, 3)
    assert mask is not None
    assert torch.equal(mask[0, 0], expected)
    bias, wide = torch.tensor([0.0, 0.5, 0.0]), torch.tensor([0.0, 0.0, 0.5, 0.0])
    bias = torch.where(present, bias, -torch.inf)
    added = joint_mask(bias, inside, 1, 3)
    assert added is not None
    torch.testing.assert_close(added[0, 0], torch.where(expected, wide, -torch.inf))
    assert joint_mask(None, None, 1, 3) is None
    padded = joint_mask(present, None, 1, 3)
    assert padded is not None
    assert torch.equal(padded, F.pad(present, (1, 0), value=True))


def test_masks_leave_block_by_block() -> None:
    _, head = model("timm:test_vit", own=True)
    assert head.keep.tolist() == [1] * OWN
    head.anneal(1.5 / (OWN + 2))
    torch.testing.assert_close(head.keep, torch.tensor([0.5**0.9] + [1.0] * (OWN - 1)))
    head.anneal(5 / (OWN + 2))
    assert head.keep.tolist() == [0] * 4 + [1] * (OWN - 4)
    head.anneal(1.0)
    assert not head.keep.any()
    head.disable_masks()
    head.anneal(0.01)
    assert not head.keep.any()


def test_scores_are_sums_over_queries() -> None:
    draw = torch.Generator().manual_seed(0)
    found = tokens()
    classes, masks = (torch.randn(3, 2, 4, count, generator=draw) for count in (CLASSES + 1, 6))
    scores = Predictions(classes, masks, found).scores()
    expected = torch.zeros(2, 6, CLASSES)
    for image in range(2):
        for query in range(4):
            share = classes[-1, image, query].softmax(0)[:CLASSES]
            expected[image] += masks[-1, image, query].sigmoid()[:, None] * share
    torch.testing.assert_close(scores, expected)


def test_a_grid_is_upscaled_to_a_stride_of_four() -> None:
    for name, doublings in (("nano", 0), ("nano_vit", 1), ("timm:test_vit", 2)):
        encoder, head = model(name, image_size=64)
        assert len(head.upscale) == doublings, name
        found = predict(encoder.eval(), head.eval(), view(side=64)).tokens
        assert found.grid == ((16, 16) if doublings else None)
