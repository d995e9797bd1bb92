"""The names of the images in a batch whose loss is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from castssl import distributed
from castssl.errors import CastError
from castssl.files import write_text
from castssl.training.protocols import Loader

SHOWN = 4
"""How many names a message has room for."""


def describe_batch(loader: Loader, batches: Sequence[int], folder: Path) -> str:
    """A sentence that names this rank's images; all of them go into ``diverged.txt`` in the run's folder.

    Args:
        loader: where they came from.
        batches: numbers of batches on this rank, counted over all epochs.
        folder: of the run.  With several processes each writes ``diverged-RANK.txt``.
    """
    names = [name for batch in batches for name in loader.names(*divmod(batch, len(loader)))]
    if not names:
        return "Its images are not known: the data is a stream."
    path = folder / ("diverged.txt" if distributed.world() == 1 else f"diverged-{distributed.rank()}.txt")
    shown = ", ".join(names[:SHOWN])
    with suppress(CastError):
        write_text(path, "".join(f"{name}\n" for name in names))
        shown += f" ... ({len(names)} in all, listed in {path})"
    return f"Its images on this process: {shown}."
