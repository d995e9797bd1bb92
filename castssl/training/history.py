"""The log of a run as curves: what it reported and measured, by optimizer steps, epochs and hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from castssl.training import logging
from castssl.training.runs import evaluation_settings, log_lines, number

SPEED = ("images_per_second", "waiting", "memory_gib")
"""Numbers of a report on the machine and not on the model; ``waiting`` is a share of the time."""
MOST = 500
"""Points of a curve, at most."""
_PLACE = ("time", "step", "epoch")


@dataclass(frozen=True)
class Curve:
    """One number over a run: a place and a value for each point, of equal length."""

    steps: list[float] = field(default_factory=list)
    """Optimizer steps done."""
    epochs: list[float] = field(default_factory=list)
    """Passes over the data done."""
    hours: list[float] = field(default_factory=list)
    """Hours of training and evaluation, without the pauses between two starts."""
    values: list[float] = field(default_factory=list)

    def thinned(self, most: int = MOST) -> Curve:
        """At most so many of the points: of equal shares of all, the lowest and the highest one.

        The first and the last point stay.

        Args:
            most: 4 or more.
        """
        count = len(self.values)
        if count <= most:
            return self
        kept = {0, count - 1}
        for part in np.array_split(np.arange(count), (most - 2) // 2):
            values = np.asarray(self.values)[part]
            kept |= {int(part[values.argmin()]), int(part[values.argmax()])}
        order = sorted(kept)
        return Curve(
            *([column[i] for i in order] for column in (self.steps, self.epochs, self.hours, self.values))
        )


@dataclass(frozen=True)
class History:
    """What a log holds.

    Attributes:
        training: means over the steps between two reports: the loss, other scalars, ``rate``, :data:`SPEED`.
        measured: results on held-out images during training, with the evaluation settings of the latest
            start.
        starts: the line of each start, with the command and the environment.
        events: the other lines that are not reports, such as a warning.
        hours: of all starts together.
        settings: the evaluation settings of the latest start, as
            :attr:`castssl.training.runs.RunSummary.measured_with`.
        earlier: results with the other settings of earlier starts, by these settings.
    """

    training: Mapping[str, Curve]
    measured: Mapping[str, Curve]
    starts: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    hours: float
    settings: str = ""
    earlier: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)


def read_history(folder: Path) -> History:
    """Read the log of a run; what is damaged, or is not a finite number, is left out.

    Args:
        folder: one of :func:`castssl.training.runs.find`.
    """
    lines = list(log_lines(folder / logging.FILE))
    clock = _hours(lines)
    settings = evaluation_settings(lines)
    reports = [
        (line, at, own) for line, at, own in zip(lines, clock, settings, strict=True) if "event" not in line
    ]
    steps, epochs = _places([line for line, *_ in reports])
    training: dict[str, Curve] = {}
    by_settings: dict[str, dict[str, Curve]] = {}
    for line, at, own in reports:
        curves = training if "images_per_second" in line else by_settings.setdefault(own, {})
        step = number(line.get("step")) or 0.0
        epoch = number(line.get("epoch"))
        if epoch is None:
            epoch = float(np.interp(step, steps, epochs)) if steps else 0.0
        for name, value in _numbers(line):
            curve = curves.setdefault(name, Curve())
            for column, entry in zip(
                (curve.steps, curve.epochs, curve.hours, curve.values), (step, epoch, at, value), strict=True
            ):
                column.append(entry)
    starts = [line for line in lines if line.get("event") == "start"]
    events = [line for line in lines if "event" in line and line["event"] != "start"]
    latest = settings[-1] if settings else ""
    measured = by_settings.pop(latest, {})
    return History(training, measured, starts, events, clock[-1] if clock else 0.0, latest, by_settings)


def _numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, entry in line.items():
        if name not in _PLACE and (value := number(entry)) is not None:
            yield name, value


def _hours(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """The hours of all starts so far at each line; a clock that goes back stands still."""
    total, before, hours = 0.0, None, []
    for line in lines:
        now = float(line["time"])
        if before is not None and line.get("event") != "start":
            total += max(0.0, now - before)
        before = now
        hours.append(total / 3600)
    return hours


def _places(reports: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """The steps and epochs of the reports that have both, by steps: results have steps alone."""
    found = {0.0: 0.0}
    for line in reports:
        step, epoch = number(line.get("step")), number(line.get("epoch"))
        if step is not None and epoch is not None:
            found[step] = epoch
    steps = sorted(found)
    return steps, [found[step] for step in steps]
