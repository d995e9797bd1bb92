"""A small recipe that is sound, or has one fault: what ``castssl check run`` must find."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl import distributed
from castssl.config import RunConfig, launch
from castssl.contracts import Model, Objective
from castssl.data.inventory import Inventory
from castssl.labels import LabelTree
from castssl.objectives.moco import similarities
from castssl.testing import samples
from castssl.training.optim import build_optimizer
from castssl.training.run import start
from castssl.types import Batch, Hierarchy, Outcome, View

BATCHES = 3
"""Of an epoch."""
SIZE = 8
"""Images of a batch, over all processes."""
Fault = Literal[
    "none",
    "repeats",
    "forgets",
    "neighbors",
    "frozen",
    "exported",
    "compiled",
    "random",
    "clock",
    "overlaps",
    "stream",
    "short",
]


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A small recipe."""

    epochs: int = 2
    fault: Fault = "none"


class Loader:
    """Batches that follow from epoch and number alone; each process gets its half."""

    waited = 0.0

    def __init__(self, fault: Fault) -> None:
        self.fault, self.epoch, self.start = fault, 0, 0
        self.resumable = fault != "stream"

    def __len__(self) -> int:
        return 1 if self.fault == "short" else BATCHES

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.epoch, self.start = epoch, start - (self.fault == "repeats" and start > 0)

    def names(self, epoch: int, batch: int) -> list[str]:
        return []

    def inventory(self) -> Inventory:
        return {"images": len(self) * SIZE}

    def __iter__(self) -> Iterator[Batch]:
        share = SIZE // distributed.world()
        first = 0 if self.fault == "overlaps" else distributed.rank() * share
        for number in range(self.start, len(self)):
            whole = samples.batch(2, LabelTree.none(), SIZE, seed=10 * self.epoch + number)
            views = [View(*(field[first : first + share] for field in view)) for view in whole.views]
            yield Batch(views, whole.target[first : first + share])


class Encoder(samples.SampleEncoder):
    """An encoder without fault, or with one."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, view: View) -> Hierarchy:
        """The stages; the last class token is changed by the fault."""
        hierarchy = super().forward(view)
        last = hierarchy.stages[-1]
        return hierarchy._replace(stages=(*hierarchy.stages[:-1], last._replace(cls=self._change(last.cls))))

    def _change(self, cls: Tensor) -> Tensor:
        if self.fault == "neighbors":
            # Neighbors are pairs, which the halves of a batch keep, so that two processes equal one.
            index = torch.arange(cls.shape[0])  # Of len(cls), an exported graph would take the number.
            return cls + cls[torch.where(index % 2 == 0, index + 1, index - 1).clamp(max=cls.shape[0] - 1)]
        if self.fault == "frozen" and cls.shape[0] == 2:
            return cls + 1
        if self.fault == "exported" and torch.compiler.is_exporting():
            return cls + 1
        if self.fault == "compiled" and torch.compiler.is_dynamo_compiling():
            return cls + 1
        return cls + torch.rand(()) if self.fault == "random" else cls


class Contrast(Objective):
    """A view is to be nearer to the other view of its image than to those of all other images."""

    views = 2

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault, self.model = fault, Model(Encoder(fault))

    def forward(self, batch: Batch) -> Outcome:
        """The contrastive loss over the images of all processes, or by mistake over those of this one."""
        q, k = (self.model.feature(view) for view in batch.views)
        if self.fault == "forgets":
            logits, own = F.normalize(q, dim=1) @ F.normalize(k.detach(), dim=1).T / 0.2, torch.arange(len(q))
        else:
            logits, own = similarities(q, k.detach(), 0.2)
        loss = F.cross_entropy(logits, own)
        return Outcome(loss * (1 + time.time() % 1) if self.fault == "clock" else loss, {})


def main(cfg: Config) -> None:
    """Train, and evaluate nothing."""
    run, accelerator = start(cfg)
    objective, loader = Contrast(cfg.fault), Loader(cfg.fault)
    optimizer = build_optimizer(objective, lr=1e-3)
    model, optimizer = run.prepare(objective, optimizer)
    for step, batch in run.steps(loader):
        with accelerator.accumulate(model):
            outcome = model(batch)
            accelerator.backward(run.finite(outcome.loss))
            optimizer.step()
            optimizer.zero_grad()
        run.report(step, outcome.logs)
    run.finish()


if __name__ == "__main__":
    launch(main, Config)
