"""Sentences about the folders and files that a data set leaves out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from castssl import installer
from castssl.datasets.decode import PACKAGES

SHOWN = 5
"""The number of names or extensions that a message lists."""


def left_out(folders: Iterable[str], files: Iterable[str], pipes: Sequence[str] = ()) -> tuple[str, ...]:
    """Sentences about folders and files that are left out: what, how many, and why.

    Args:
        folders: paths of folders that are :func:`~castssl.datasets.file_names.ignored`, or that hold masks.
        files: names of files that count as no images.
        pipes: paths of pipes, sockets and devices.
    """
    names = list(folders)
    masks = [name for name in names if name == "masks"]
    system = [name for name in names if name != "masks"]
    sentences = [f"left out the folder {some(masks)}: it holds object masks"] if masks else []
    if system:
        sentences.append(f"left out {_count(len(system), 'folder')}, hidden or of a system: {some(system)}")
    if pipes:
        number = _count(len(pipes), "special file")
        sentences.append(f"left out {number} (a pipe, a socket, a device): {some(sorted(pipes))}")
    counts = Counter(
        "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "without extension"
        for name in map(os.path.basename, files)
    )
    for extension, package in PACKAGES.items():
        if count := counts.pop(extension, 0):
            sentences.append(
                f"left out {_count(count, f'{extension} file')}: to read them install the package {package}:"
                f" {installer.install(package)}"
            )
    if counts:
        kinds = [
            f"{count:,} {kind}"
            for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]
        sentences.append(f"left out {_count(counts.total(), 'file')} by extension: {some(kinds)}")
    return tuple(sentences)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def some(names: Sequence[str]) -> str:
    """The first :data:`SHOWN` names, for a message."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
