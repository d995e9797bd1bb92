"""What one sees of a run: a progress bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from castssl.errors import printable

EVERY = 10.0
"""Seconds between two plain lines."""


class Pace:
    """How fast a run goes, and how much of its time it waits for data."""

    def __init__(self) -> None:
        self.images_per_second = 0.0
        self.batches_per_second = 0.0
        self.waiting = 0.0
        """Share of the time, 0 to 1."""
        self.seconds = 0.0
        """How long the last measured stretch took."""
        self.restart(0.0)

    def restart(self, waited: float) -> None:
        """Begin to measure now; ``waited`` is the loader's count of seconds so far."""
        self._since, self._waited, self._images, self._batches = time.perf_counter(), waited, 0, 0

    def add(self, images: int) -> None:
        """Take note of a batch: so many images on all ranks together."""
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


class Display:
    """Shows the progress of a run on stderr.

    Args:
        shown: False shows nothing (all ranks but the main one).
        console: where to; by default stderr.
    """

    def __init__(self, shown: bool, console: Console | None = None) -> None:
        self._shown = shown
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._told = 0.0

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
        elif self._shown and (time.monotonic() - self._told >= EVERY or done == self._total):
            self._told = time.monotonic()
            self.say("  ".join(words))

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._shown:
            self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
