"""A run that notes the images and losses of its steps, and stops or measures on the way."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from castssl import distributed
from castssl.config import RunConfig
from castssl.training.protocols import Loader
from castssl.training.run import Run
from castssl.types import Batch
from castssl.verification.job import RECORD, Job
from castssl.verification.measure import Measurement

EARLY = (2, 1, 3)
"""The steps after which a run may be stopped, the first one that is within an epoch."""


class Step(NamedTuple):
    """An optimizer step that was done."""

    images: list[str]
    """A hash of each image of its batches on this rank, as the loader gave them."""
    losses: list[float]
    """Of each of its batches."""


class WatchedRun(Run):
    """The run of a recipe, with a record of its steps on the main process.

    Args:
        job: what the process does.
        cfg: as those of :class:`castssl.training.run.Run`, and the others.
    """

    def __init__(
        self, job: Job, cfg: RunConfig, folder: Path, accelerator: Accelerator, lock: IO[Any] | None
    ) -> None:
        super().__init__(cfg, folder, accelerator, lock)
        self._job = job
        self._accumulated = cfg.accumulate
        self._measurement: Measurement | None = None
        self._steps: dict[int, Step] = {}
        self._losses: list[float] = []
        self._images: list[str] = []

    def prepare(self, objective: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """As the base class does; then the first optimizer step is measured, if that is the job."""
        prepared = super().prepare(objective, optimizer)
        if self._job.purpose not in ("train", "stop"):
            self._measurement = Measurement(self._job, objective, optimizer, self._losses, self._images)
        return prepared

    def steps(self, loader: Loader) -> Iterator[tuple[int, Batch]]:
        """As the base class does; the process ends after the last step, and on the way if that is the job.

        Raises:
            SystemExit: 0, or as the base class does.
        """
        stop = 0
        try:
            for step, batch in super().steps(loader):
                stop = stop or self._stop_after(loader)
                if self._measurement is not None:
                    self._measurement.resumable = loader.resumable
                self._images += image_hashes(batch)
                if step + 1 == stop and self._job.purpose == "stop":
                    signal.raise_signal(signal.SIGTERM)
                yield step, batch
                if self.step > step:
                    self._steps[step + 1] = Step([*self._images], [*self._losses])
                    self._images.clear()
                    self._losses.clear()
        finally:
            self._write(loader, stop)
        if not self._job.evaluate:
            raise SystemExit(0)

    def _stop_after(self, loader: Loader) -> int:
        """The step after which a run that is to be stopped is stopped: within an epoch if there is one."""
        last = min(self.total, self._cfg.max_steps or self.total)
        possible = [step for step in EARLY if step < last] or [0]
        within = [step for step in possible if step * self._accumulated % len(loader)]
        return [*within, *possible][0]

    def _write(self, loader: Loader, stop: int) -> None:
        if not distributed.is_main():
            return
        record = {
            "resumable": loader.resumable,
            "within": bool(stop * self._accumulated % len(loader)),
            "stop": stop,
            "steps": {step: done._asdict() for step, done in self._steps.items()},
        }
        (Path(self._job.folder) / RECORD).write_text(json.dumps(record))

    def once(self, name: str, make: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Nothing, unless the job includes evaluations."""
        return super().once(name, make) if self._job.evaluate else {}

    def every(self, epochs: int) -> bool:
        """False, unless the job includes evaluations."""
        return self._job.evaluate and super().every(epochs)

    def finite(self, loss: Tensor) -> Tensor:
        """As the base class, with a note of the value."""
        self._losses.append(float(loss.detach()))
        return super().finite(loss)


def image_hashes(batch: Batch) -> list[str]:
    """A hash of each image's views, segments and label, (B,)."""
    fields = [field for view in batch.views for field in view] + [batch.target]
    return [_hash(row) for row in zip(*(field.cpu() for field in fields), strict=True)]


def _hash(row: tuple[Tensor, ...]) -> str:
    content = b"".join(part.contiguous().numpy().tobytes() for part in row)
    return hashlib.blake2b(content, digest_size=8).hexdigest()
