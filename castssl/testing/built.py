"""How the objective checks handle a subject: build it with labels that fit, and train it a little."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import nn

from castssl.contracts import Objective, Target
from castssl.errors import CastError, ContractError
from castssl.testing import samples
from castssl.testing.claims import Subject, make
from castssl.types import Batch, LabelTree


class Built(NamedTuple):
    """An objective, and the label tree that it was built for."""

    objective: Objective
    tree: LabelTree

    @property
    def module(self) -> nn.Module:
        """The objective as the module that it is."""
        return cast(nn.Module, self.objective)

    def batch(self, size: int = 4, *, seed: int = 0) -> Batch:
        """A batch that fits."""
        return samples.batch(self.objective.views, self.tree, size, seed=seed)


def build(subject: Subject, *, seed: int = 0) -> Built:
    """The subject around a sample encoder, with a label tree that fits its target.

    Raises:
        ContractError: if no sample tree fits.
        CastError, ValueError: as the factory raises them for the last tree.
    """
    refusal: Exception | None = None
    for tree in samples.TREES:
        try:
            torch.manual_seed(seed)
            objective: Objective = make("objectives", subject, samples.SampleEncoder(), tree, seed=seed)
        except (CastError, ValueError) as cause:
            refusal = cause
            continue
        if _suits(getattr(objective, "target", "none"), tree):
            return Built(objective, tree)
    if refusal is not None:
        raise refusal
    raise ContractError("no sample label tree fits its target: set target to 'none', 'path' or 'multihot'")


def _suits(target: Target, tree: LabelTree) -> bool:
    if target == "path":
        return tree.levels > 0 and tree.exclusive
    return tree.levels == 0 if target == "none" else not tree.exclusive


def take_step(built: Built, optimizer: torch.optim.Optimizer, batch: Batch, progress: float) -> float:
    """One optimizer step and its hook; the loss before it."""
    loss = built.objective(batch).loss
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    built.objective.after_step(progress)
    return float(loss.detach())


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters."""
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)


def trained(subject: Subject) -> Built:
    """The subject in training mode after two steps, so that every part of its state has moved."""
    built = build(subject)
    built.objective.train()
    optimizer = adamw(built.module)
    for step in range(2):
        take_step(built, optimizer, built.batch(seed=step), (step + 1) / 8)
    return built
