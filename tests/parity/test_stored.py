"""All model variants of the released code, by stored runs of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from castssl.checkpoints.load import load_official
from castssl.checkpoints.official_model import Official
from castssl.pooling.graph import GraphPool
from castssl.types import View
from tests.parity import published as layouts
from tests.parity import stored

SIZES = (16, 9, 6, 4, 2)
NAMES = {"moco": "cast", "deit": "cast_deit", "hier2": "cast_deit_hier", "hier3": "cast_deit_hier"}
NAMES |= {"seg_pretrain": "cast_seg", "seg_segmentation": "cast_seg", "seg_deit": "cast_seg_deit"}
HEADS = {"family_head": "coarser.0", "manufacturer_head": "coarser.1"}
ROUNDING = {"seg_segmentation": 2e-5}
"""Released outputs further than 1e-5 from float64, since features are averaged by pixel in float32."""
ORIGINALS = Path(os.environ.get("CASTSSL_GOLDEN", "no such folder"))


def model_of(run: stored.Run, variant: str) -> Official:
    return load_official(
        run.state, sizes=SIZES, stage="segmentation" if variant == "seg_segmentation" else None
    )


def outputs(model: Official, run: stored.Run) -> list[Tensor]:
    out: Any = model(run.image, run.segments)
    return [out] if isinstance(out, Tensor) else list(out)


@pytest.mark.parametrize("variant", stored.VARIANTS)
def test_outputs_of_a_stored_run(variant: str) -> None:
    run = stored.load(variant)
    model = model_of(run, variant)
    assert (model.variant, run.facts["num_clusters"]) == (NAMES[variant], "[9, 6, 4, 2]")
    got = outputs(model, run)
    assert len(got) == len(run.outputs)
    for ours, theirs in zip(got, run.outputs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=ROUNDING.get(variant, 1e-5), rtol=0)


def test_the_dense_model_rounds_less_than_the_released_code() -> None:
    """Against float64: what ``ROUNDING`` allows is the stored run's own rounding."""
    run = stored.load("seg_segmentation")
    model = model_of(run, "seg_segmentation")
    with torch.no_grad():
        ours = model(run.image, run.segments)
        exact = model.double()(run.image.double(), run.segments)
    errors = [float((each - exact).abs().max()) for each in (ours, run.outputs[0])]
    assert errors[0] < errors[1] < ROUNDING["seg_segmentation"]
    assert errors[0] < 1e-5


@pytest.mark.parametrize("variant", [v for v in stored.VARIANTS if v not in {"deit", "seg_deit"}])
def test_every_stage_of_a_stored_run(variant: str) -> None:
    """Picks are identical; the other two runs have no intermediates."""
    run = stored.load(variant)
    model, view = model_of(run, variant), View(run.image, run.segments)
    with torch.no_grad():
        hierarchy, pooled = model.encoder.trace(view, model.sizes(view), stages=5)
    for level in (1, 2, 3, 4):
        pooling, tokens = model.encoder.poolings[level - 1], hierarchy.stages[level - 1]
        assert isinstance(pooling, GraphPool)
        with torch.no_grad():
            logits, picks = pooling.logits(tokens, model.encoder.sizes[level])
        assert torch.equal(picks, run.inter[f"sampled_inds{level}"])
        assert torch.equal(tokens.mass == 0, run.inter[f"padding_mask{level}"])
        # Five times a cosine: float32 alone moves it by more than 1e-5.
        torch.testing.assert_close(logits, run.inter[f"logit{level}"], atol=4e-5, rtol=0)
        torch.testing.assert_close(tokens.x, run.inter[f"block{level}"], atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(pooled[level - 1].x, run.inter[f"centroid{level}"], atol=1e-5, rtol=1e-6)
        if f"out{level}" in run.inter:
            torch.testing.assert_close(tokens.cls[:, 0], run.inter[f"out{level}"], atol=1e-5, rtol=0)


def gradients(model: Official, variant: str, names: set[str]) -> dict[str, Tensor]:
    """Our gradients by published (plain) names; zeros where the released code has them and we have none."""
    named = {k.removeprefix("encoder."): p for k, p in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for name in names:
        ours = layouts.encoder_name(name)
        first, _, last = ours.partition(".")
        parameter = named.pop(f"{HEADS[first]}.{last}" if first in HEADS else ours)
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if name == "pos_embed":  # the class token's row of the table has the class token's own gradient
            cls = model.encoder.cls_token.grad
            assert cls is not None
            grad = torch.cat([cls, grad.flatten(2).transpose(1, 2)], 1)
        found[name] = grad
    assert not [name for name, p in named.items() if p.grad is not None]
    return found


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Both are digests; 1e-4 relative, above what float32 leaves of sums that cancel."""
    floor = 1e-7 * max(float(v[0]) for v in theirs.values())
    for name, expected in theirs.items():
        difference = (ours[name] - expected).abs().max()
        assert difference <= 1e-4 * expected[0] + floor, (name, difference, expected[0])


@pytest.mark.parametrize("variant", stored.VARIANTS)
def test_gradients_of_a_stored_run(variant: str) -> None:
    run = stored.load(variant)
    model = model_of(run, variant)
    loss = torch.stack([out.square().mean() for out in outputs(model, run)]).sum()
    torch.testing.assert_close(loss, run.loss, atol=1e-6, rtol=1e-5)
    loss.backward()
    found = gradients(model, variant, set(run.gradients))
    compare({name: stored.digest(grad) for name, grad in found.items()}, run.gradients)


def test_a_digest_sees_a_change_anywhere() -> None:
    gradient = torch.randn(48, 48)
    for place in (0, 1000, 2303):
        changed = gradient.clone()
        changed.view(-1)[place] += 0.1
        with pytest.raises(AssertionError):
            compare({"w": stored.digest(changed)}, {"w": stored.digest(gradient)})


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="CASTSSL_GOLDEN names no folder of the original files")
@pytest.mark.parametrize("variant", stored.VARIANTS)
def test_against_the_original_file(variant: str, tmp_path: Path) -> None:
    """Nothing was lost on the way to the shipped file, and each element of each gradient agrees."""
    run, whole = stored.load(variant), load_file(ORIGINALS / f"{variant}.safetensors")
    assert torch.equal(run.image, whole["input.image"])
    assert all(torch.equal(run.state[k[6:]], v) for k, v in whole.items() if k.startswith("state."))
    assert len(run.state) == sum(k.startswith("state.") for k in whole)
    model = model_of(run, variant)
    torch.stack([out.square().mean() for out in outputs(model, run)]).sum().backward()
    theirs = {k.removeprefix("grad."): v for k, v in whole.items() if k.startswith("grad.")}
    floor = 1e-7 * max(float(v.norm()) for v in theirs.values())
    for name, got in gradients(model, variant, set(theirs)).items():
        assert (got - theirs[name]).norm() <= 1e-4 * theirs[name].norm() + floor, name
