"""Folders that this process made for what it begins; they are removed if it ends before it has begun."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_MADE: list[tuple[list[Path], Sequence[str], Sequence[str]]] = []


def make(folder: Path, *, written: Sequence[str], empty: Sequence[str] = ()) -> None:
    """Make a folder, and those that hold it, as far as they do not exist.

    Args:
        folder: to make.
        written: files in it that :func:`discard` may remove, in this order; a lock is the last one.
        empty: those of these files that it keeps once they have content.

    Raises:
        OSError: if the system refuses to make it.
    """
    made: list[Path] = []
    for path in (*reversed(folder.parents), folder):
        with suppress(FileExistsError):  # Another process may make it at this moment, and then it is its own.
            if not path.is_dir():
                path.mkdir()
                made.append(path)
    if not folder.is_dir():
        raise FileExistsError(errno.EEXIST, "there is a file of this name", str(folder))
    if folder in made:
        _MADE.append((made, written, empty))


def discard() -> None:
    """Remove the folders of :func:`make` that did not exist before and hold only the files named there.

    What the system refuses to remove is kept.  A process that enters such a folder meanwhile keeps it: its
    lock is refused until all other files are gone, and afterwards the folder is not empty.
    """
    while _MADE:
        made, written, empty = _MADE.pop()
        with suppress(OSError):
            found = {path.name: path for path in made[-1].iterdir()}
            kept = any(name in found and found[name].stat().st_size for name in empty)
            if kept or found.keys() - set(written):
                continue
            for name in written:
                if name in found:
                    found[name].unlink()
            for path in reversed(made):
                path.rmdir()
