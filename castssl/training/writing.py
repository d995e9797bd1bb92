"""Files that are there whole or not at all, whatever becomes of the process or the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from castssl.errors import CastError


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """Where to write what is to be ``path``; it takes that name at the end, unless something went wrong.

    Args:
        path: its folder is made if it is missing.
        what: what to call it in a message.

    Raises:
        CastError: if it cannot be written, for example on a full disk; what was there before is still there.
    """
    aside = path.with_name(f".{path.name}.partial")
    with told(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            os.replace(aside, path)
        except BaseException:
            remove(aside)
            raise
        _sync_folder(path.parent)


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into a message.

    Raises:
        CastError: with the system's reason.
    """
    try:
        yield
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise CastError(
            f"cannot write the {what} {path} ({reason}); earlier checkpoints are whole: mend this and run the"
            " same command again"
        ) from error


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refusal(error: BaseException | None) -> str | None:
    """The system's own words; torch's writers hide them behind other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def _sync_folder(folder: Path) -> None:
    """Make a renaming outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
