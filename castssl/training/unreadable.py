"""A run's unreadable images: listed in its folder, and the end of it when they are too many.

Images are met by one rank only, so the ranks exchange what they met where they wait for each other anyway: at
reports and before checkpoints.  All of them then know the same, and stop together.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from castssl import ranks
from castssl.config import RunConfig
from castssl.errors import CastError, DataError
from castssl.training.log import Log

FILE = "unreadable.txt"
"""One line an image, in the order in which they were met: name, reason, step; a tab between, and a tab, line
break or backslash of a name as ``\\t``, ``\\n``, ``\\r``, ``\\\\``."""
NAMED = 5
"""So many images the error names."""


class UnreadableList:
    """The list of a run's unreadable images, and the limit of their share, ``--max-bad``.

    The share is of *all* images of the data set: it can only grow, so a run is never stopped for a bad start,
    and the more images are unreadable the sooner it ends.  A held-out image counts like any other.

    No checkpoint is written above the limit.  So a run that goes on from one forgets what it met after it,
    and counts anew what is still unreadable.
    """

    def __init__(self, cfg: RunConfig, folder: Path, accelerator: Accelerator, log: Log) -> None:
        self.path = folder / FILE
        self._limit, self._accelerator, self._log = cfg.max_bad, accelerator, log
        self._lines: dict[str, str] = {}
        self._met: Mapping[str, str] = {}
        self._taken = self._images = 0

    def begin(self, after: int | None) -> None:
        """Read the list as it was ``after`` so many steps; begin anew if None.  For all ranks together."""
        lines: dict[str, str] = {}
        if self._accelerator.is_main_process and self.path.is_file():
            lines = {} if after is None else _read(self.path, after)
            _rewrite(self.path, lines)
        self._lines = broadcast_object_list([lines])[0]

    def open(self, loader: object, step: int) -> None:
        """Look at a loader's ``bad`` (name -> reason, in the order met) and number of ``images`` from now on.

        A loader without the two has no unreadable images.

        Raises:
            DataError: as :meth:`check`.
        """
        self._met = getattr(loader, "bad", {})
        self._images = getattr(loader, "images", 0)
        self._taken = 0
        self.check(step)

    def check(self, step: int) -> None:
        """List what was met since the last call, as met by ``step``.  All ranks call this together.

        Raises:
            DataError: on all ranks, if there are more unreadable images than ``--max-bad`` allows.
            CastError: if the list cannot be written.
        """
        own = list(islice(self._met.items(), self._taken, None))
        self._taken += len(own)
        if self._anyone(own):
            self._add(gather_object(own), step)
        if self._images and len(self._lines) > math.floor(self._limit * self._images + 1e-6):
            self._accelerator.wait_for_everyone()  # Whoever ends first ends the others; the list comes first.
            told = (
                "" if self._accelerator.is_main_process else "too many unreadable images, as process 0 tells"
            )
            raise DataError(told or self._story())

    def summary(self) -> tuple[str, ...]:
        """A line for the end of a run, if there is something to tell."""
        if not self._lines:
            return ()
        return (f"{len(self._lines)} images could not be read and others took their place: {self.path}",)

    def _anyone(self, own: list[tuple[str, str]]) -> bool:
        """True if any rank has met something."""
        if ranks.world() == 1:
            return bool(own)
        share = ranks.mean(torch.tensor(float(bool(own)), device=self._accelerator.device))
        return float(share) > 0

    def _add(self, met: list[tuple[str, str]], step: int) -> None:
        new: dict[str, str] = {}
        for name, reason in met:
            key = _escape(name)
            if key not in self._lines:
                new[key] = f"{key}\t{_escape(reason)}\t{step}"
        self._lines |= new
        if new and self._accelerator.is_main_process:
            _append(self.path, new)
            self._log.write(event="unreadable", step=step, images=len(self._lines), of=self._images)

    def _story(self) -> str:
        lines = [line.split("\t") for line in islice(self._lines.values(), NAMED)]
        shown = [f"  {name} ({reason})" for name, reason, _ in lines]
        more = len(self._lines) - len(shown)
        shown += [f"  and {more} more"] if more else []
        told = "\n".join(shown)
        return (
            f"{len(self._lines)} unreadable images, in a data set of {self._images}, are more than --max-bad"
            f" {self._limit:g} allows:\n{told}\nall are listed in {self.path}. Mend or replace these files,"
            " or raise --max-bad, and give the same command again: it goes on from the last checkpoint, which"
            " was written while they were fewer"
        )


def _read(path: Path, after: int) -> dict[str, str]:
    """The lines of a list by name, of steps up to ``after``; a last one that was cut off does not count."""
    found: dict[str, str] = {}
    for line in path.read_bytes().decode("utf-8", "surrogateescape").split("\n"):
        name, _, rest = line.partition("\t")
        step = rest.rpartition("\t")[2]
        if step.isdecimal() and int(step) <= after:
            found[name] = line
    return found


def _rewrite(path: Path, lines: Mapping[str, str]) -> None:
    if not lines:
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f".{path.name}.partial")
    aside.unlink(missing_ok=True)
    _append(aside, lines)
    os.replace(aside, path)


def _append(path: Path, lines: Mapping[str, str]) -> None:
    text = "".join(f"{line}\n" for line in lines.values())
    try:
        with path.open("ab") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise CastError(
            f"cannot write {path} ({error.strerror}); mend this and run the same command again"
        ) from error


def _escape(text: str) -> str:
    for plain, written in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, written)
    return text
