"""Where commands put pictures, and how they read deep ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from castssl.data.depth import Range

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


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
    from castssl.data.depth import parse_range, range_of_bits

    if given.range is not None:
        return parse_range(given.range)
    return None if given.bits is None else range_of_bits(given.bits)
