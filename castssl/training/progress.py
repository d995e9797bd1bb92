"""What a run tells of itself: to the log, to the trackers and to the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor

try:
    import resource
except ImportError:  # pragma: no cover
    resource = None  # type: ignore[assignment]

from castssl import distributed
from castssl.config import RunConfig
from castssl.training.display import Display, Pace
from castssl.training.logging import Log, Means
from castssl.training.state import Loader, TrainState
from castssl.training.waiting import WaitingMonitor

STREAM = (
    "this data is a stream, so a run that is stopped within an epoch cannot go on exactly: it goes on by"
    " count, with as many batches as were left of the epoch, from another shuffle; some images come twice in"
    " that epoch and some not at all. folder:, tar: and hfds/ data go on exactly"
)


class Report:
    """Gathers the scalars of batches and tells their means; only the main rank writes and shows."""

    def __init__(self, cfg: RunConfig, folder: Path, accelerator: Accelerator, log: Log) -> None:
        self._cfg, self._folder, self._accelerator, self._log = cfg, folder, accelerator, log
        self._display = Display(accelerator.is_main_process)
        self._means, self._pace, self._waiting = Means(), Pace(), WaitingMonitor(cfg)
        self._loss = torch.zeros((), device=accelerator.device)
        self._waited = 0.0

    def begin(self, after: int | None) -> None:
        """Say that the run is new, or goes on ``after`` so many steps."""
        self._log.write(
            event="start",
            after=after or 0,
            castssl=version("castssl"),
            torch=torch.__version__,
            device=str(self._accelerator.device),
            processes=distributed.world(),
            argv=sys.argv,
        )
        told = "a new run" if after is None else f"goes on after step {after}"
        self._display.say(f"{self._folder}: {told}")

    def open(self, loader: Loader, done: int, total: int) -> None:
        """Show a bar from ``done`` to ``total`` steps and begin to measure."""
        self._loader = loader
        if not loader.resumable:
            self.remark("stream", STREAM)
        if done < total:
            self._display.start(done, total, self._cfg.accumulate)
        else:
            self._display.say(f"all {total} steps are done; raise --epochs to go on, or choose another --out")
        self.resume_clock()

    def batch(self, images: int) -> None:
        """Take note that this rank got a batch."""
        self._pace.add(images * distributed.world())

    def loss(self, loss: Tensor) -> None:
        """Take note of the current batch's loss."""
        self._loss = loss.detach()

    def add(self, logs: Mapping[str, Tensor]) -> None:
        """Take note of the current batch's scalars, and of its loss."""
        self._means.add({"loss": self._loss, **logs})

    def write(self, done: int, place: TrainState) -> None:
        """Write and show the means since the last call.  All ranks call this together."""
        means = self._means.take(self._accelerator.device)
        self._pace.measure(self._loader.waited)
        number, begin = place.epoch_after
        speed = {"images_per_second": self._pace.images_per_second, "waiting": self._pace.waiting}
        epoch = number + begin / len(self._loader)
        self.note(done, epoch=epoch, **means, rate=place.rate, **speed, **self._memory())
        shown = f"{place.epoch[0] + 1}/{self._cfg.epochs}"
        self._display.report(done, shown, means.get("loss"), self._pace)
        if told := self._waiting.note(self._pace.seconds, self._pace.waiting):
            self.event("waiting", step=done, share=self._waiting.share, text=told)
            self._display.say(told)

    def note(self, done: int, **values: Any) -> None:
        """Write one line to log and tracker, if there is something to write."""
        if not values:
            return
        self._log.write(step=done, **values)
        if self._accelerator.trackers:
            known = {key: value for key, value in values.items() if not _is_nan(value)}
            self._accelerator.log(known, step=done)

    def event(self, event: str, **values: Any) -> None:
        """Write one line to the log that is no report."""
        self._log.write(event=event, **values)

    def remark(self, event: str, text: str) -> None:
        """Write a line to the log that is no report, and show its text."""
        self.event(event, text=text)
        self._display.say(text)

    def resume_clock(self) -> None:
        """Forget the time since the last report; it went into something else than training."""
        self._pace.restart(self._loader.waited)

    def step(self, done: int) -> None:
        """Move the bar."""
        self._display.step(done)

    def shut(self, *lines: str) -> None:
        """Take the bar away and print ``lines`` where it was."""
        self._display.stop()
        for line in lines:
            self._display.say(line)

    def conclude(self, *results: object) -> None:
        """Print text, or what rich can show, on stdout, where only results go."""
        self._display.stop()
        if self._accelerator.is_main_process:
            console = Console()
            for result in results:
                console.print(result, markup=False, highlight=False, soft_wrap=isinstance(result, str))

    def _memory(self) -> dict[str, float]:
        device = self._accelerator.device
        if device.type == "cuda":
            return {"memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
        # KiB on Linux, bytes on macOS; Windows has no such module.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else 0
        return {"memory_gib": peak / (2**30 if sys.platform == "darwin" else 2**20)} if peak else {}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
