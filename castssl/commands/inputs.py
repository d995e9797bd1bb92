"""Images of a command line: files, and folders that stand for the images in them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from castssl.commands.arguments import names_below
from castssl.errors import printable

IMAGES = "image files of any size, or folders of them"
"""The help of such arguments."""


class Named(NamedTuple):
    """Images in the order in which they are read.

    Attributes:
        paths: of all images.
        outputs: what the files of each image are called below ``--out``, without an ending: its stem, and for
            an image of a folder the sub-folders, too.
        stored: the name of each image as ``maps:DIR`` looks for it.
    """

    paths: list[Path]
    outputs: dict[Path, str]
    stored: dict[Path, str]


def find_images(given: Iterable[Path], out: Path | None = None) -> Named:
    """The images that are given, with those of folders in the order of ``castssl features``.

    Files of folders that are no images are left out, which is said on stderr, and so is what lies in ``out``.

    Raises:
        DataError: if a folder holds no image, or cannot be read.
    """
    from castssl.datasets.folder import look_through

    paths, outputs, stored = list[Path](), dict[Path, str](), dict[Path, str]()
    for path in given:
        if not path.is_dir():
            paths.append(path)
            outputs[path] = path.stem
            continue
        names, sentences = look_through(path)
        inside = _inside(out, path)
        for sentence in sentences:
            print(printable(f"{path}: {sentence}"), file=sys.stderr)
        for name in (name for name in names if not inside or not name.startswith(f"{inside}/")):
            paths.append(path / name)
            outputs[path / name] = Path(name).with_name(Path(name).stem).as_posix()
            stored[path / name] = name
    return Named(paths, outputs, names_below([path for path in paths if path not in stored]) | stored)


def _inside(out: Path | None, folder: Path) -> str:
    """Where in a folder the outputs go; "" if they go elsewhere, or into the folder itself."""
    if out is None or not out.resolve().is_relative_to(folder.resolve()):
        return ""
    below = out.resolve().relative_to(folder.resolve()).as_posix()
    return "" if below == "." else below
