"""A run's unreadable images: listed in its log, and the end of it when they are too many.

Images are met by one rank only, so the ranks exchange what they met where they wait for each other anyway: at
reports and before checkpoints.  All of them then know the same, and stop together.

``log.jsonl`` has a line for each, ``{"event": "unreadable", "step": ..., "image": ..., "reason": ...}``,
and the same with the event ``clipped`` for one that was read but has values outside its declared range.
The log is rewound to the checkpoint that a run goes on from, and the list with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from castssl import distributed
from castssl.config import RunConfig
from castssl.datasets.unreadable import Ledger
from castssl.errors import DataError
from castssl.training.logging import FILE, Log


@runtime_checkable
class ListsUnreadable(Protocol):
    """A loader that replaces unreadable images and lists them."""

    images: int
    """How many there are, readable or not."""
    bad: Mapping[str, str]
    """The reason by the name of the image; a ledger also has the clipped ones."""


NAMED = 5
"""The number of images that the error names."""
UNREADABLE, CLIPPED = "unreadable", "clipped"
"""Events of the log."""


class _Met(NamedTuple):
    event: str
    image: str
    reason: str


class BadImages:
    """The list of a run's unreadable images, and the limit of their share, ``--max-bad``.

    The share is of *all* images of the data set: it can only grow, so a run is never stopped for a bad start,
    and the more images are unreadable the sooner it ends.  A held-out image counts like any other.

    No checkpoint is written above the limit.  So a run that goes on from one forgets what it met after it,
    and counts anew what is still unreadable.
    """

    def __init__(self, cfg: RunConfig, folder: Path, accelerator: Accelerator, log: Log) -> None:
        self.path = folder / FILE
        self._limit, self._accelerator, self._log = cfg.max_bad, accelerator, log
        self._listed: dict[str, dict[str, str]] = {UNREADABLE: {}, CLIPPED: {}}
        self._met: dict[str, Mapping[str, str]] = {}
        self._taken = {UNREADABLE: 0, CLIPPED: 0}
        self._images = 0

    def begin(self, after: int | None) -> None:
        """Take the list from the log, already rewound to step ``after``; begin anew if None.

        All ranks call this together.
        """
        listed = self._listed
        if self._accelerator.is_main_process and after is not None and self.path.is_file():
            listed = _read(self.path)
        self._listed = broadcast_object_list([listed])[0]

    def open(self, loader: object, step: int) -> None:
        """Look at a loader's ``bad`` (a ledger, or name -> reason) and number of ``images`` from now on.

        A loader without the two has no unreadable images.

        Raises:
            DataError: as :meth:`check`.
        """
        bad: Mapping[str, str] = loader.bad if isinstance(loader, ListsUnreadable) else {}
        self._met = {UNREADABLE: bad, CLIPPED: bad.clipped if isinstance(bad, Ledger) else {}}
        self._images = loader.images if isinstance(loader, ListsUnreadable) else 0
        self._taken = {UNREADABLE: 0, CLIPPED: 0}
        self.check(step)

    def check(self, step: int) -> None:
        """List what was met since the last call, as met by ``step``.  All ranks call this together.

        Raises:
            DataError: on all ranks, if there are more unreadable images than ``--max-bad`` allows.
            CastError: if the list cannot be written.
        """
        new = self._new()
        if self._anyone(new):
            self._add(gather_object(new), step)
        if self._images and len(self._listed[UNREADABLE]) > math.floor(self._limit * self._images + 1e-6):
            # The first process that ends also ends the others: the list is written before.
            self._accelerator.wait_for_everyone()
            main = self._accelerator.is_main_process
            raise DataError(self._story() if main else "too many unreadable images; process 0 lists them")

    def summary(self) -> tuple[str, ...]:
        """Lines for the end of a run."""
        ends = {
            UNREADABLE: "images could not be read and others took their place",
            CLIPPED: "images hold values outside their declared range, which were clipped",
        }
        return tuple(
            f'{len(self._listed[event])} {text}: the lines with "{event}" in {self.path}'
            for event, text in ends.items()
            if self._listed[event]
        )

    def _new(self) -> list[_Met]:
        """What this rank met since the last call."""
        new = []
        for event, met in self._met.items():
            images = [_Met(event, *pair) for pair in islice(met.items(), self._taken[event], None)]
            self._taken[event] += len(images)
            new += images
        return new

    def _anyone(self, bad_images: list[_Met]) -> bool:
        """True if any rank has met something."""
        if distributed.world() == 1:
            return bool(bad_images)
        share = distributed.mean(torch.tensor(float(bool(bad_images)), device=self._accelerator.device))
        return float(share) > 0

    def _add(self, met: list[_Met], step: int) -> None:
        for event, image, reason in met:
            if image not in self._listed[event]:
                self._listed[event][image] = reason
                self._log.write(event=event, step=step, image=image, reason=reason)

    def _story(self) -> str:
        listed = self._listed[UNREADABLE]
        shown = [f"  {name} ({reason})" for name, reason in islice(listed.items(), NAMED)]
        more = len(listed) - len(shown)
        shown += [f"  and {more} more"] if more else []
        names = "\n".join(shown)
        return (
            f"{len(listed)} unreadable images, in a data set of {self._images}, are more than --max-bad"
            f' {self._limit:g} allows:\n{names}\nall are in {self.path}, in the lines with "{UNREADABLE}".'
            " Repair or replace these files, or raise --max-bad, and give the same command again: it goes on"
            " from the last checkpoint, which was written while they were fewer"
        )


def _read(path: Path) -> dict[str, dict[str, str]]:
    """What a log lists, by event and name, since the run began; a line that is damaged does not count."""
    listed: dict[str, dict[str, str]] = {UNREADABLE: {}, CLIPPED: {}}
    for line in path.read_bytes().split(b"\n"):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if not isinstance(values, dict):
            continue
        event, image = values.get("event"), values.get("image")
        if event == "start" and values.get("after") == 0:
            listed = {UNREADABLE: {}, CLIPPED: {}}
        elif event in listed and isinstance(image, str):
            listed[event][image] = str(values.get("reason"))
    return listed
