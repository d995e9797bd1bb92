"""H-CAST's objective, built from published checkpoints, against stored runs of the released code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from castssl.checkpoints.classifier import load_classifier
from castssl.objectives.tree_kl import TreeKL
from castssl.types import View
from tests.parity import published as layouts
from tests.parity import stored
from tests.parity.test_stored import SIZES, compare

LEVELS = {"hier2": ("family_head", "head"), "hier3": ("manufacturer_head", "family_head", "head")}
"""The published heads, coarse to fine; what the released code returns is fine to coarse."""


def objective_of(run: stored.Run) -> TreeKL:
    objective = load_classifier(run.state, sizes=SIZES).objective
    assert isinstance(objective, TreeKL)
    assert not objective.training
    return objective


@pytest.mark.parametrize("variant", LEVELS)
def test_it_predicts_the_stored_outputs(variant: str) -> None:
    run = stored.load(variant)
    objective = objective_of(run)
    assert int(run.segments.max()) + 1 == objective.encoder.sizes[0], "else other tokens would be empty"
    with torch.no_grad():
        found = objective.predict(View(run.image, run.segments))
    assert list(found) == [f"level{level}" for level in range(len(run.outputs))]
    assert objective.stages == tuple(range(-1, -1 - len(run.outputs), -1))
    for ours, theirs in zip(found.values(), reversed(run.outputs), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", LEVELS)
def test_its_gradients_are_the_stored_ones(variant: str) -> None:
    run = stored.load(variant)
    objective = objective_of(run)
    logits = objective.predict(View(run.image, run.segments)).values()
    loss = torch.stack([out.square().mean() for out in logits]).sum()
    torch.testing.assert_close(loss, run.loss, atol=1e-6, rtol=1e-5)
    loss.backward()
    named = {name.removeprefix("encoder."): p.grad for name, p in objective.model.named_parameters()}
    heads = {name: f"level_heads.{level}" for level, name in enumerate(LEVELS[variant])}
    compare({name: stored.digest(_gradient(named, name, heads)) for name in run.gradients}, run.gradients)


def _gradient(named: dict[str, Tensor | None], published: str, heads: dict[str, str]) -> Tensor:
    """Ours of a published tensor; zeros where the released code has some and ours are none."""
    ours = layouts.encoder_name(published)
    first, _, last = ours.partition(".")
    found = named[f"{heads[first]}.{last}" if first in heads else ours]
    if published == "pos_embed":  # the class token's row of the table has the class token's own gradient
        cls = named["cls_token"]
        assert cls is not None
        assert found is not None
        return torch.cat([cls, found.flatten(2).transpose(1, 2)], 1)
    return torch.zeros(1) if found is None else found
