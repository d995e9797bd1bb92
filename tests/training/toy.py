"""A recipe as small as can be: the real loop around a toy objective, run as a process by the tests."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from castssl import distributed
from castssl.config import FREE, MEASURES, RunConfig, launch
from castssl.data.inventory import Inventory
from castssl.training.optim import build_optimizer, set_rate
from castssl.training.run import start
from castssl.training.schedule import warmup_cosine
from castssl.types import Batch, Outcome, View

SIDE = 4


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A toy recipe."""

    data: str = "toy:/images"
    lr: float = 0.05
    images: int = 24
    batch_size: int = 4
    """Images of all processes together."""
    dropout: float = 0.5
    plain: bool = False
    """Without batch norm."""
    nan_at: int = 0
    """Step from which on the loss is not a number; 0 = never."""
    nan_rank: int = 0
    """The process on which it is."""
    poison_at: int = 0
    """Step after which a weight is infinite; 0 = never."""
    pause: float = field(default=0.0, metadata=FREE)
    """Seconds that a step sleeps."""
    slow: float = field(default=0.0, metadata=FREE)
    """Seconds that a batch takes to come."""
    workers: int = field(default=0, metadata=FREE)
    promise: int = field(default=0, metadata=FREE)
    """Batches that the loader adds to the true number of an epoch."""
    broken: tuple[int, ...] = field(default=(), metadata=FREE)
    """Images that cannot be read; the next one takes the place of each."""
    other: int = field(default=0, metadata=FREE)
    """Which images there are: another number, others."""
    center: int = field(default=0, metadata=MEASURES)
    """Nothing depends on it, but the results could."""
    stream: bool = False
    """Whether the loader is a stream, whose length is a guess."""


class Pictures(Dataset[Tensor]):
    """Map-style images that are a pure function of their index."""

    def __init__(self, count: int, broken: tuple[int, ...]) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        index += index in self.broken
        return torch.from_numpy(np.random.default_rng(index).random((3, SIDE, SIDE), np.float32))


class Loader:
    """Batches in an order that depends on the epoch alone; each rank gets its share of every batch."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.waited, self.epoch, self.first = cfg, 0.0, 0, 0
        self.resumable = not cfg.stream
        self.images, self.bad = cfg.images, dict[str, str]()

    def __len__(self) -> int:
        return self.cfg.images // self.cfg.batch_size + self.cfg.promise

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.epoch, self.first = epoch, 0 if self.cfg.stream else start

    def inventory(self) -> Inventory:
        return {"images": self.images, "source": f"toy{self.cfg.other}"}

    def names(self, epoch: int, batch: int) -> list[str]:
        return [] if self.cfg.stream else [f"picture {epoch}.{batch} of {distributed.rank()}"]

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.default_rng([self.cfg.seed, self.epoch]).permutation(self.cfg.images).tolist()
        size = self.cfg.batch_size
        count = len(order) // size
        batches = [order[at * size : (at + 1) * size] for at in range(self.first, count)]
        mine = [batch[distributed.rank() :: distributed.world()] for batch in batches]
        how: dict[str, Any] = {"num_workers": self.cfg.workers}
        if self.cfg.workers:
            how["multiprocessing_context"] = "fork"
        images: DataLoader[Tensor] = DataLoader(
            Pictures(self.cfg.images, self.cfg.broken), batch_sampler=mine, **how
        )
        for indices, image in zip(mine, images, strict=True):
            self.bad |= {f"picture {index}": "torn" for index in indices if index in self.cfg.broken}
            time.sleep(self.cfg.slow)
            self.waited += self.cfg.slow
            count = len(image)
            segments = torch.zeros(count, SIDE, SIDE, dtype=torch.int32)
            yield Batch([View(image, segments)], torch.zeros(count, 0, dtype=torch.long))


class Objective(nn.Module):
    """Learns to rebuild images; has dropout, batch norm, a average and a buffer, as the real ones have."""

    steps: Tensor

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        size = 3 * SIDE * SIDE
        self.cfg = cfg
        norm = nn.Identity() if cfg.plain else nn.BatchNorm1d(8)
        self.net = nn.Sequential(nn.Linear(size, 8), norm, nn.Dropout(cfg.dropout), nn.Linear(8, size))
        self.average = nn.Linear(size, 8).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, batch: Batch) -> Outcome:
        x = batch.views[0].image.flatten(1)
        loss = (self.net(x) - x).pow(2).mean() + 0.0 * self.average(x).sum()
        if self.cfg.nan_at == int(self.steps) + 1 and distributed.rank() == self.cfg.nan_rank:
            loss = loss * float("nan")
        draws = random.random() + np.random.random()  # noqa: NPY002
        return Outcome(loss, {"draws": torch.tensor(draws), "norm": x.detach().norm()})

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        linear: nn.Linear = self.net[0]  # type: ignore[assignment]
        self.average.weight.lerp_(linear.weight, 0.1 * (1 - progress))
        self.steps += 1
        if self.cfg.poison_at and int(self.steps) == self.cfg.poison_at:
            linear.weight[0, 0] = float("inf")


def main(cfg: Config) -> Mapping[str, Tensor]:
    run, accelerator = start(cfg)
    objective, loader = Objective(cfg), Loader(cfg)
    optimizer = build_optimizer(objective, lr=cfg.lr)
    untrained = run.once("untrained", lambda: {"score": random.random()})
    model, optimizer = run.prepare(objective, optimizer)
    for step, raw in run.steps(loader):
        set_rate(optimizer, warmup_cosine(run.progress(step), 0.25))
        batch = Batch(
            [View(*(part.to(accelerator.device) for part in view)) for view in raw.views], raw.target
        )
        with accelerator.accumulate(model):
            outcome = model(batch)
            accelerator.backward(run.finite(outcome.loss))
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            objective.after_step(run.progress(step + 1))
        run.report(step, outcome.logs)
        time.sleep(cfg.pause)
        if run.every(2):
            run.note(score=float(step))
            run.picture(Image.new("RGB", (2, 2)))
    run.finish(f"untrained {untrained['score']}")
    return objective.state_dict()


if __name__ == "__main__":
    launch(main, Config)
