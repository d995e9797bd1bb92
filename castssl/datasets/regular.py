"""Regular files alone: a reader would wait forever for a named pipe, and a device would never end."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from castssl.errors import DataError


class Place(NamedTuple):
    """A folder of :func:`walk`."""

    path: str
    folders: list[str]
    """Names of the folders in it; those that a caller removes are not visited."""
    files: list[str]
    """Names of the regular files in it, and of links to nothing."""
    others: list[str]
    """Names of pipes, sockets and devices in it."""


def open_regular(path: str | Path) -> IO[bytes]:
    """An open regular file, or one that a link leads to.

    Raises:
        DataError: if it is a pipe, a socket or a device.
        OSError: if it cannot be opened.
    """
    return open(path, "rb", opener=_opened)


def _opened(path: str, flags: int) -> int:
    # Without it, opening a pipe waits for a writer.
    descriptor = os.open(path, flags if sys.platform == "win32" else flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # Python has an error of its own for folders.
        return descriptor
    os.close(descriptor)
    raise DataError(f"{path} is a pipe, a socket or a device, expected a regular file; remove it")


def walk(folder: str | Path, onerror: Callable[[OSError], None]) -> Iterator[Place]:
    """As ``os.walk`` from the top down through links, with pipes, sockets and devices apart.

    The listing of a folder tells the kind of its files; no file is looked up but links and what is odd.

    Args:
        folder: where to begin.
        onerror: called with the error of a folder that cannot be listed.
    """
    left = [os.fspath(folder)]
    while left:
        path = left.pop()
        try:
            with os.scandir(path) as listing:
                entries = list(listing)
        except OSError as error:
            onerror(error)
            continue
        place = Place(path, [], [], [])
        names = place.folders, place.files, place.others
        for entry in entries:
            names[_kind(entry)].append(entry.name)
        yield place
        left += [os.path.join(path, name) for name in reversed(place.folders)]


def _kind(entry: os.DirEntry[str]) -> int:
    """0 of a folder, 1 of a regular file or what is not there, 2 of others."""
    try:
        if entry.is_dir():
            return 0
        if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry)):
            return 1
    except OSError:  # The error is raised when it is opened.
        return 1
    return 2
