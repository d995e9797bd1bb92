"""ToMe of ``plugins/castssl-clustering`` against stored merges of the released code, and both its placements.

The released code alternates over all tokens, the class token first, and never merges that one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from castssl import registry
from castssl.models.cast import CAST
from castssl.models.create import create
from castssl.models.flops import PUBLISHED, account
from castssl.models.presets import PRESETS
from castssl.types import Hierarchy, Pooled, Tokens, View

FILE = Path(__file__).parent / "golden" / "operators.safetensors"
PER_LAYER = PRESETS["tome_small"].sizes
"""16 tokens fewer after each of eleven blocks (all but the last matter to the class token)."""


def merge(metric: Tensor, x: Tensor, mass: Tensor, size: int) -> Pooled:
    tokens = Tokens(x, x[:, :1], mass.squeeze(-1), keys=metric)
    return registry.build("pooling", "tome", x.shape[-1])(tokens, size)


@pytest.mark.parametrize("case", ["tome0", "tome2"])
def test_one_round_beside_a_class_token(case: str) -> None:
    """Same merges, means and order; ``tome2`` is the paper's own 196 tokens and r = 16."""
    stored = {k.split(".")[1]: v for k, v in load_file(FILE).items() if k.startswith(case)}
    assert stored["class_token"] == 1
    size = stored["x"].shape[1] - 1 - int(stored["r"])
    out = merge(stored["metric"][:, 1:], stored["x"][:, 1:], stored["size"][:, 1:], size)
    assert torch.equal(out.assign.transpose(1, 2), stored["source"][:, 1:, 1:])
    mass = (out.assign * stored["size"][:, 1:]).sum(1)
    torch.testing.assert_close(mass, stored["merged_size"][:, 1:, 0])
    torch.testing.assert_close(out.x, stored["merged"][:, 1:], atol=1e-6, rtol=1e-5)


def test_one_round_without_a_class_token() -> None:
    """There the first token is among those that look for a partner; backwards, the last one is."""
    stored = {k.split(".")[1]: v for k, v in load_file(FILE).items() if k.startswith("tome1")}
    assert stored["class_token"] == 0
    metric, x, mass = (stored[name].flip(1) for name in ("metric", "x", "size"))
    out = merge(metric, x, mass, x.shape[1] - int(stored["r"]))
    ours, theirs = out.assign.flip(1).transpose(1, 2), stored["source"]
    for image in range(len(theirs)):
        # Their unmerged tokens come in order of likeness.
        row = ours[image].argmax(-1).argsort(), theirs[image].argmax(-1).argsort()
        assert torch.equal(ours[image][row[0]], theirs[image][row[1]])
        torch.testing.assert_close(
            out.x[image][row[0]], stored["merged"][image][row[1]], atol=1e-6, rtol=1e-5
        )


def encoded(sizes: tuple[int, ...], depths: tuple[int, ...]) -> tuple[CAST, Hierarchy]:
    """A narrow CAST with ToMe, and what it makes of two images, one of them with 20 segments missing."""
    torch.manual_seed(0)
    model = CAST(depths, sizes, lambda dim: registry.build("pooling", "tome", dim), dim=24, heads=2)
    side = torch.arange(224) // 16
    segments = (side[:, None] * 14 + side).int().repeat(2, 1, 1)
    segments[1] = segments[1].clamp(max=175)
    return model, model(View(torch.randn(2, 3, 224, 224), segments))


@pytest.mark.parametrize(
    ("sizes", "depths"),
    [((196, 64, 32, 16), (1, 1, 1, 1)), (PER_LAYER, (1,) * 11)],
    ids=["borders", "layers"],
)
def test_both_placements(sizes: tuple[int, ...], depths: tuple[int, ...]) -> None:
    model, hierarchy = encoded(sizes, depths)
    assert tuple(stage.x.shape[1] for stage in hierarchy.stages) == sizes
    for stage, size in zip(hierarchy.stages, sizes, strict=True):
        assert (stage.mass > 0).sum(1).tolist() == [size, min(size, 176)]
        assert stage.mass.sum(1).tolist() == [784, 784]
        if stage is not hierarchy.stages[0]:
            # Each superpixel has four cells, but for the one that is larger.
            assert stage.bias is not None
            torch.testing.assert_close(stage.bias[0].exp(), stage.mass[0] / 4)
            assert stage.bias[1].exp().sum() - (stage.mass[1] <= 0).sum() == pytest.approx(176, abs=1e-3)
    assert set(hierarchy.labels(-1).flatten().tolist()) == set(range(sizes[-1]))
    hierarchy.stages[-1].cls.square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


def test_the_preset_keeps_what_the_paper_keeps() -> None:
    """Layer by layer the tokens of the released code, without its last merge, which no class token sees."""
    released = [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21]  # Counted, with the class token.
    assert tuple(count - 1 for count in released[:-1]) == PER_LAYER[1:]


def test_the_preset_costs_more_than_cast_and_less_than_a_vit() -> None:
    counted = account(create("tome_small", pooling="tome"))
    cast, vit = (
        PUBLISHED[known].paper for known in (("cast_small", (196, 64, 32, 16)), ("vit_small", (196,)))
    )
    assert cast < counted.macs / 1e9 < vit
    assert counted.published[0] == 21_228_184  # As vit_small_superpixels: merging has no weights.


def test_a_layer_of_cast_merges_what_the_paper_merges() -> None:
    """From the keys that the block really had, 196 tokens become 180."""
    _, hierarchy = encoded(PER_LAYER, (1,) * 11)
    first, second = hierarchy.stages[:2]
    assert first.keys is not None
    alike = torch.nn.functional.normalize(first.keys[0], dim=-1)
    closest = (alike[1::2] @ alike[::2].T).max(-1)
    leaving = closest.values.topk(16).indices
    into = hierarchy.assigns[0][0].argmax(-1)
    assert torch.equal(into[1::2][leaving], into[::2][closest.indices[leaving]])
    assert second.mass[0].sum() == 784
