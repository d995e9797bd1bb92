"""Images that cannot be read: why, and which ones a process has met."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from PIL import UnidentifiedImageError

from castssl.contracts import Unreadable
from castssl.errors import CastError, printable

TRIES = 100
"""So many unreadable images in a row are a broken disk, not broken files."""
TOLD = 3
"""So many unreadable images are named on the terminal; all are in the :class:`Ledger`."""

_log = logging.getLogger(__name__)


class Clipped(NamedTuple):
    """An image that was read, but has values outside the range that was declared."""

    name: str
    """As of :class:`castssl.contracts.Unreadable`."""
    reason: str
    """One line."""


class Ledger(dict[str, str]):
    """The unreadable images met so far in this process, in that order: name -> reason.

    Attributes:
        clipped: the images with values outside their range, likewise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clipped: dict[str, str] = {}

    def note(self, found: Iterable[Unreadable | Clipped]) -> None:
        """Add what is new; the first :data:`TOLD` of each kind are logged as warnings."""
        for each in found:
            name, reason = each
            if isinstance(each, Clipped):
                self._note_clipped(name, reason)
                continue
            if name in self:
                continue
            self[name] = reason
            if len(self) <= TOLD:
                shown = _shown(name), _shown(reason)
                _log.warning("cannot read the image %s (%s); another one takes its place", *shown)
            elif len(self) == TOLD + 1:
                _log.warning("more images cannot be read; from here on they are listed, but not told")

    def _note_clipped(self, name: str, reason: str) -> None:
        if name not in self.clipped and len(self.clipped) <= TOLD:
            more = "; further images like this are listed without a warning"
            _log.warning(
                "the image %s: %s%s", _shown(name), _shown(reason), more * (len(self.clipped) == TOLD)
            )
        self.clipped.setdefault(name, reason)


def _shown(text: str) -> str:
    """A text from data, with undecodable bytes and control characters as escapes: logs go to terminals."""
    return printable(text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def why(error: Exception) -> str:
    """The reason that an error gives, in one line and without what the name says already."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    told = " ".join(str(error).split())
    kind = "" if isinstance(error, (CastError, OSError)) else type(error).__name__
    return ": ".join(filter(None, [kind, told])) or type(error).__name__
