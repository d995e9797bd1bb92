"""The reports of a run: to the log, to the trackers and to the terminal."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor, nn

try:
    import resource
except ImportError:  # pragma: no cover
    resource = None  # type: ignore[assignment]

from castssl import distributed, registry
from castssl.config import RunConfig, measured_with, plain
from castssl.contracts import Encoder
from castssl.errors import printable
from castssl.training.environment import environment
from castssl.training.logging import Log, Means
from castssl.training.protocols import Loader
from castssl.training.state import TrainState

STREAM = (
    "this data is a stream, so a run that is stopped within an epoch cannot go on exactly: it goes on by"
    " count, with as many batches as were left of the epoch, from another shuffle; some images come twice in"
    " that epoch and some not at all. folder:, tar: and hfds/ data go on exactly"
)
EVERY = 10.0
"""Seconds between two plain lines."""
LIMIT = 0.1
"""The share of a run's time that it may wait for data without advice."""


class Pace:
    """The speed of a run, the share of its time that it waits for data, and one advice if that is large.

    The time before the first report does not count: workers start then, and their first batch is not ready.
    """

    def __init__(self, cfg: RunConfig) -> None:
        self._cfg = cfg
        self._reported = self._advised = False
        self._seconds_in_all = self._waited_in_all = 0.0
        self.images_per_second = 0.0
        self.batches_per_second = 0.0
        self.waiting = 0.0
        """Share of the time, 0 to 1."""
        self.seconds = 0.0
        """Length of the last measured interval."""
        self.restart(0.0)

    def restart(self, waited: float) -> None:
        """Begin to measure now; ``waited`` is the loader's count of seconds so far."""
        self._since, self._waited, self._images, self._batches = time.perf_counter(), waited, 0, 0

    def add(self, images: int) -> None:
        """Count a batch of so many images, on all ranks together."""
        self._images += images
        self._batches += 1

    def measure(self, waited: float) -> None:
        """Update the figures from what came in since the last call, then :meth:`restart`."""
        seconds = time.perf_counter() - self._since
        if seconds > 0 and self._images:
            self.images_per_second = self._images / seconds
            self.batches_per_second = self._batches / seconds
            self.waiting = min(1.0, max(0.0, (waited - self._waited) / seconds))
            self.seconds = seconds
        self.restart(waited)

    @property
    def share(self) -> float:
        """The share of the time since the first report that was spent waiting, 0 to 1."""
        return self._waited_in_all / self._seconds_in_all if self._seconds_in_all else 0.0

    def note(self, seconds: float, waiting: float) -> str:
        """Add a report's time and the share that was waiting: the advice to show now, mostly ``""``."""
        if not self._reported:
            self._reported = True
            return ""
        self._seconds_in_all += seconds
        self._waited_in_all += seconds * waiting
        if self._advised or self.share <= LIMIT:
            return ""
        self._advised = True
        return f"{self.share:.0%} of the time goes into waiting for data: {advice(self._cfg, free_cores())}"


class Display:
    """Shows the progress of a run on stderr: a bar on a terminal, else a plain line every few seconds.

    Args:
        shown: False shows nothing (all ranks but the main one).
        console: where to; by default stderr.
    """

    def __init__(self, shown: bool, console: Console | None = None) -> None:
        self._shown = shown
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._shown_at = 0.0

    def start(self, done: int, total: int, accumulate: int) -> None:
        """Begin after ``done`` of ``total`` optimizer steps, each of ``accumulate`` batches."""
        self._total, self._accumulate = total, accumulate
        if self._shown and self._console.is_terminal:
            columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console, refresh_per_second=4, expand=True)
            self._task = self._bar.add_task("", total=total, completed=done)
            self._bar.start()

    def step(self, done: int) -> None:
        """Move on to step ``done``."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def report(self, done: int, epoch: str, loss: float | None, pace: Pace) -> None:
        """Show the latest figures; as a plain line only every :data:`EVERY` seconds and at the end."""
        steps_per_second = pace.batches_per_second / self._accumulate
        left = (self._total - done) / steps_per_second if steps_per_second else 0.0
        words = [f"epoch {epoch}", f"step {done}/{self._total}"]
        words += [] if loss is None else [f"loss {loss:.4f}"]
        speed = pace.images_per_second
        words += [f"{speed:.{0 if speed >= 10 else 1}f} images/s", f"{pace.waiting:.0%} waiting for data"]
        words += [f"{timedelta(seconds=round(left))} left"]
        if self._bar is not None:
            del words[1]
            self._bar.update(self._task, completed=done, description="  ".join(words))
        elif self._shown and (time.monotonic() - self._shown_at >= EVERY or done == self._total):
            self._shown_at = time.monotonic()
            self.say("  ".join(words))

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._shown:
            self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Stop the bar and leave it on the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Report:
    """Collects the scalars of batches and reports their means; only the main rank writes and shows."""

    def __init__(self, cfg: RunConfig, folder: Path, accelerator: Accelerator, log: Log) -> None:
        self._cfg, self._folder, self._accelerator, self._log = cfg, folder, accelerator, log
        self._display = Display(accelerator.is_main_process)
        self._means, self._pace = Means(), Pace(cfg)
        self._loss = torch.zeros((), device=accelerator.device)
        self._waited = 0.0

    def begin(self, after: int | None, objective: nn.Module) -> None:
        """Report that the run is new, or goes on ``after`` so many steps, and what describes its encoder."""
        self._log.write(
            event="start",
            after=after or 0,
            castssl=version("castssl"),
            torch=torch.__version__,
            device=str(self._accelerator.device),
            processes=distributed.world(),
            argv=sys.argv,
            measured_with=measured_with(self._cfg),
            environment=environment(str(self._accelerator.device)) if distributed.is_main() else {},
            encoder=_describe_encoder(objective),
        )
        start = "a new run" if after is None else f"goes on after step {after}"
        self._display.say(f"{self._folder}: {start}")

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
        """Count a batch of this rank."""
        self._pace.add(images * distributed.world())

    def loss(self, loss: Tensor) -> None:
        """Keep the current batch's loss."""
        self._loss = loss.detach()

    def add(self, logs: Mapping[str, Tensor]) -> None:
        """Add the current batch's scalars and its loss."""
        self._means.add({"loss": self._loss, **logs})

    def write(self, done: int, place: TrainState) -> None:
        """Write and show the means since the last call.  All ranks call this together."""
        means = self._means.take(self._accelerator.device)
        self._pace.measure(self._loader.waited)
        number, begin = place.epoch_after
        speed = {"images_per_second": self._pace.images_per_second, "waiting": self._pace.waiting}
        epoch = number + begin / len(self._loader)
        self.note(done, epoch=epoch, **means, rate=place.rate, **speed, **self._memory())
        batches = len(self._loader)
        epochs = -(-self._cfg.total_steps(batches) * self._cfg.accumulate // batches)
        shown = f"{place.epoch[0] + 1}/{epochs}"
        self._display.report(done, shown, means.get("loss"), self._pace)
        if text := self._pace.note(self._pace.seconds, self._pace.waiting):
            self.event("waiting", step=done, share=self._pace.share, text=text)
            self._display.say(text)

    def note(self, done: int, **values: Any) -> None:
        """Write one line to log and tracker, if there is something to write."""
        if not values:
            return
        self._log.write(step=done, **values)
        if self._accelerator.trackers:
            numbers = {key: value for key, value in values.items() if not _is_nan(value)}
            self._accelerator.log(numbers, step=done)

    def event(self, event: str, **values: Any) -> None:
        """Write one line to the log that is not a report."""
        self._log.write(event=event, **values)

    def remark(self, event: str, text: str) -> None:
        """Write a line to the log that is not a report, and show its text."""
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


def _describe_encoder(objective: nn.Module) -> dict[str, Any] | None:
    """The config of the first encoder; None without one, or if it was built by hand and has no config."""
    for part in objective.modules():
        if isinstance(part, Encoder):
            with suppress(AttributeError):
                return part.config.to_dict()
    return None


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def free_cores() -> int:
    """Cores that each training process of this machine has beside the one that it runs on."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(0, cores // int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world())) - 1)


def advice(cfg: RunConfig, free: int) -> str:
    """The flag of a recipe that lets a run wait less.

    Args:
        cfg: its settings; one that does not have ``workers`` gets no flag.
        free: cores that each process can give to its workers.
    """
    settings = plain(cfg)
    workers: int | None = settings.get("workers")
    if workers == 0:
        return f"--workers {max(1, free)} loads beside training, not in turn with it"
    if workers is not None and workers < free:
        return f"--workers {free} uses the cores that are left"
    name, _, options = cfg.backend().partition(":")
    if name not in ("", "grid") and settings.get("superpixel_cache") is None:
        installed = [entry.name for entry in registry.names("superpixels")]
        if name == "seeds" and "bins" not in options and "seeds-fast" in installed:
            return "no core is left; --superpixels seeds-fast, in a new run, takes a fraction of SEEDS' time"
        # RandAugment shears and turns views, which cached superpixels cannot follow: load refuses both.
        if settings.get("augment") != "randaugment":
            return "no core is left; --superpixel-cache DIR, in a new run, computes superpixels only once"
    return "no core is left; it needs smaller image files, a faster disk, or more cores"
