"""Where commands put pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

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
