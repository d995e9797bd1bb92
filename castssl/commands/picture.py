"""Where commands write, and how they read pictures of more than 8 bits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

    from castssl.datasets.depth import Range

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def add_output(command: argparse.ArgumentParser, *flags: str, **options: Any) -> None:
    """Add an argument that names what is written, and ``--overwrite``, which means the same everywhere.

    The command passes all paths that it will write to :func:`castssl.files.check_outputs` before the first
    write.

    Args:
        command: the parser of a subcommand or a study.
        flags: as those of ``add_argument``.
        options: likewise.
    """
    command.add_argument(*flags, **options)
    command.add_argument("--overwrite", action="store_true", help="replace files that are there")


def picture(text: str) -> Path:
    """The path of a picture that can be written, known before anything is computed for it.

    Raises:
        argparse.ArgumentTypeError: if its ending names no picture format, or it is a folder.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() not in ENDINGS or path.is_dir():
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a file that ends in {', '.join(ENDINGS)}, such as picture.png"
        )
    return path


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture in the format of its ending, by :func:`castssl.files.atomic_write`."""
    kind = "jpeg" if path.suffix.lower() == ".jpg" else path.suffix[1:].lower()
    with atomic_write(path, "picture") as aside:
        image.save(aside, format=kind)


def add_range(command: argparse.ArgumentParser) -> None:
    """Add ``--range`` and ``--bits``, which exclude each other."""
    values = command.add_mutually_exclusive_group()
    note = "of pictures with more than 8 bits, where their files do not say"
    values.add_argument("--range", metavar="LOW:HIGH", help=f"values of black and white {note}: 0:1, 0:255")
    values.add_argument("--bits", metavar="N", help=f"bits {note}, such as 12")


def value_range(given: argparse.Namespace) -> Range | None:
    """What :func:`add_range` added, understood.

    Raises:
        DataError: if it is no range or no number of bits.
    """
    from castssl.datasets.depth import parse_range, range_of_bits

    if given.range is not None:
        return parse_range(given.range)
    return None if given.bits is None else range_of_bits(given.bits)
