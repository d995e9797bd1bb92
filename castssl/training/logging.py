"""The log of a run (one JSON line per report), its trackers, and means over the steps between two reports.

Only the main rank writes; on the others everything here does nothing.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from castssl import distributed
from castssl.errors import CastError, ConfigError
from castssl.installer import install
from castssl.outputs import no_link

FILE = "log.jsonl"
TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
}
"""The packages of each tracker; any one of them will do."""


def check_tracker(name: str) -> None:
    """Nothing, if the tracker is ``"none"`` or its package is installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    if name == "none":
        return
    if name not in TRACKERS:
        raise ConfigError(f"--track: got {name!r}, expected one of none, {', '.join(TRACKERS)}")
    if not any(importlib.util.find_spec(package) for package in TRACKERS[name]):
        raise ConfigError(
            f"--track {name} needs a package that is not installed: {install(TRACKERS[name][0])}"
        )


def start_trackers(accelerator: Any, run: str, settings: Mapping[str, Any]) -> None:
    """Open the trackers that Accelerate was made with, under the run's name."""
    plain = {key: value if isinstance(value, (int, float)) else str(value) for key, value in settings.items()}
    accelerator.init_trackers(
        "castssl", config=plain, init_kwargs={"wandb": {"name": run}, "trackio": {"name": run}}
    )


class Log:
    """A file of JSON lines.

    Args:
        folder: where ``log.jsonl`` lies; None writes nothing.

    Raises:
        CastError: if the file cannot be written, or is a link.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else _open(folder / FILE)

    def write(self, **values: Any) -> None:
        """Append one line with the time and these values; a number that is not finite becomes null.

        Raises:
            CastError: if the disk takes no more.
        """
        if self._file is None:
            return
        line = {"time": round(time.time(), 3), **{key: _json(value) for key, value in values.items()}}
        try:
            left = memoryview(json.dumps(line).encode() + b"\n")
            while left:  # A disk that is almost full takes the beginning, and fails at the next write only.
                left = left[self._file.write(left) :]
        except OSError as error:
            raise CastError(
                f"cannot write {self._file.name} ({error.strerror}); fix this and run the same command again"
            ) from error

    def position(self) -> int:
        """The size of the file, with everything on the disk; 0 where nothing is written."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def rewind(self, position: int) -> None:
        """Drop the lines after ``position``: the reports after the checkpoint that the run continues from."""
        if self._file is not None and self.position() > position:
            self._file.truncate(position)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def best(folder: Path, name: str) -> dict[str, float]:
    """The largest value that a run's log has under ``name``, by that name; nothing if it has none.

    A run that went on from a checkpoint has the reports before it, and none that were given up.  Reports of
    starts with other evaluation settings than the last start (:func:`castssl.config.measured_with`) do not
    count; earlier versions did not write these settings, and their reports do.
    """
    path = folder / FILE
    found: dict[str | None, list[float]] = {}
    settings: str | None = None
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with suppress(ValueError):  # A power cut may leave zeros in place of a line.
            report = json.loads(line)
            settings = report.get("measured_with") if report.get("event") == "start" else settings
            if isinstance(report.get(name), (int, float)):
                found.setdefault(settings, []).append(report[name])
    values = [value for key in {settings, None} for value in found.get(key, [])]
    return {name: max(values)} if values else {}


def _open(path: Path) -> FileIO:
    """The file to append to, without the line that a full disk or a kill left without its end."""
    try:
        # Without a buffer, so that what a full disk refused is not tried again when the file is closed.
        file = open(path, "a+b", 0, opener=no_link)  # noqa: SIM115
    except OSError as error:
        raise CastError(f"cannot write {path} ({error.strerror}); remove what is there") from error
    _drop_half_line(file)
    return file


def _drop_half_line(file: FileIO) -> None:
    """Cut off the line that a full disk or a kill left without its end."""
    size = file.seek(0, os.SEEK_END)
    begin = max(0, size - 2**20)
    file.seek(begin)
    end = begin + file.read(size - begin).rfind(b"\n") + 1
    if end != size:
        file.truncate(end)


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class Means:
    """Means of scalars over batches and ranks, kept on the device until they are asked for.

    A batch whose scalar is not a number, such as an accuracy without any label, has no part in that mean.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take note of a batch's scalars."""
        for name, value in values.items():
            scalar = value.detach().float()
            counted = torch.stack([scalar.nan_to_num(0.0, torch.inf, -torch.inf), (~scalar.isnan()).float()])
            self._sums[name] = self._sums[name] + counted if name in self._sums else counted

    def take(self, device: torch.device) -> dict[str, float]:
        """The means since the last call, in the order of their names.  All ranks call this together.

        Not a number for a name without a number in any batch.
        """
        names = sorted(self._sums)
        if not names:
            return {}
        sums, counts = distributed.mean(torch.stack([self._sums[name].to(device) for name in names])).unbind(
            1
        )
        self._sums = {}
        return dict(zip(names, (sums / counts).tolist(), strict=True))
