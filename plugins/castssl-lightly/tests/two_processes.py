"""What each of two processes does: one loss of each objective on its own images, and the gradient of DDP."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from castssl import distributed
from castssl.labels import LabelTree
from castssl.testing.claims import make
from castssl.testing.samples import SampleEncoder, batch

IMAGES = 6


def losses(rank: int, path: str, specs: list[str]) -> None:
    """Write, by spec, the mean loss, the gradients and the buffers to ``path``."""
    found = {spec: one(rank, spec) for spec in specs}
    if distributed.is_main():
        torch.save(found, path)


def one(rank: int, spec: str) -> dict[str, Any]:
    """In evaluation mode where there is batch norm, whose statistics would be those of one process."""
    torch.manual_seed(0)  # Of the encoder.
    objective = cast(nn.Module, make("objectives", spec, SampleEncoder(), LabelTree.none()))
    objective.train(spec.startswith("dino"))
    wrapped = DistributedDataParallel(objective)
    loss = wrapped(batch(2, LabelTree.none(), IMAGES, seed=rank)).loss
    loss.backward()
    gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return {
        "loss": distributed.mean(loss),
        "gradients": gradients,
        "buffers": dict(objective.named_buffers()),
    }
