"""Files and folders that a data set must have: what is missing where, and where the data set is to be had."""

from __future__ import annotations

from pathlib import Path

from castssl.datasets.folder import split_name
from castssl.datasets.text import read_text
from castssl.errors import DataError, NoSplit

HOMES = {
    "imagenet": "https://image-net.org/download (ILSVRC 2012)",
    "cub": "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    "aircraft": "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    "inat21-mini": "https://github.com/visipedia/inat_comp/tree/master/2021",
}
"""Public home pages."""


def require(path: Path, holds: str, home: str) -> Path:
    """``path``, which exists.

    Args:
        path: a file or folder of the data set.
        holds: what lies there, for the message.
        home: a key of :data:`HOMES`.

    Raises:
        DataError: if it is not there.
    """
    if path.exists():
        return path
    parent = next(above for above in path.absolute().parents if above.exists())
    raise DataError(
        f"there is no {path}, expected {holds}; the path exists up to {parent}. Check the path after the"
        f" last colon; the data set is to be had at {HOMES[home]}"
    )


def inside(root: Path, *folders: str) -> Path:
    """The first of these folders in ``root`` that exists, else ``root``: users name either."""
    return next((root / folder for folder in folders if (root / folder).is_dir()), root)


def pairs(path: Path, holds: str, home: str) -> list[tuple[str, str]]:
    """The lines of an annotation file, each cut at its first space: (key, value), in order.

    Raises:
        DataError: if the file is missing, a line has no value, or there is no line.
    """
    lines = read_text(require(path, holds, home)).splitlines()
    cut = [
        (number, *line.strip().partition(" ")) for number, line in enumerate(lines, start=1) if line.strip()
    ]
    for number, key, _, value in cut:
        if not value:
            raise DataError(f"{path}, line {number}: {key!r} stands alone, expected {holds}")
    if not cut:
        raise DataError(f"{path} is empty, expected {holds}; the data set is to be had at {HOMES[home]}")
    return [(key, value.strip()) for _, key, _, value in cut]


def choose(split: str, offered: dict[str, str], called: str) -> str:
    """What the data set calls ``split``.

    Args:
        split: as the user says it.
        offered: the house's word (train, val, test) -> the data set's.
        called: the data spec, for the message.

    Raises:
        NoSplit: if the data set has no such split.
    """
    word = split_name(split) or split
    if word not in offered:
        raise NoSplit(f"{called} has no {split} split with labels, expected {' or '.join(offered)}")
    return offered[word]
