"""Images that cannot be read: the reasons, and the list of a process."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from PIL import UnidentifiedImageError

from castssl.errors import CastError, printable
from castssl.feed import Unreadable

TRIES = 100
"""This many unreadable images in a row are a broken disk, not broken files."""
SHOWN = 3
"""The number of images of a kind that are logged; all are in the :class:`Ledger`."""

_log = logging.getLogger(__name__)


class Clipped(NamedTuple):
    """An image that was read, but has values outside the declared range.

    Attributes:
        name: as of :class:`castssl.feed.Unreadable`.
        reason: one line.
    """

    name: str
    reason: str


class Ledger(dict[str, str]):
    """The unreadable images of this process so far, in order: name -> reason.

    Attributes:
        clipped: the images with values outside their range, likewise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clipped: dict[str, str] = {}

    def note(self, faults: Iterable[Unreadable | Clipped]) -> None:
        """Add the new ones; the first :data:`SHOWN` of each kind are logged as warnings."""
        for fault in faults:
            clipped = isinstance(fault, Clipped)
            listed = self.clipped if clipped else self
            if fault.name in listed:
                continue
            listed[fault.name] = fault.reason
            if len(listed) <= SHOWN:
                text = (
                    "the image %s: %s"
                    if clipped
                    else "cannot read %s (%s); the next one replaces an image, and nothing a mask"
                )
                _log.warning(text, *map(_escape, fault))
            elif len(listed) == SHOWN + 1:
                _log.warning("more images like these are listed without a warning")


def _escape(text: str) -> str:
    """Text with undecodable bytes and control characters as escapes: logs go to terminals."""
    return printable(text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def why(error: Exception) -> str:
    """The reason of an error in one line, without the file's name."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = " ".join(str(error).split())
    kind = "" if message and isinstance(error, (CastError, OSError)) else type(error).__name__
    return ": ".join(filter(None, [kind, message]))
