"""Folders that are complete or absent, whatever happens to the process or the disk."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from castssl.files import aside_of, remove, sync_folder, translate_os_error


@contextmanager
def atomic_folder(path: Path, what: str = "folder") -> Iterator[Path]:
    """Yield an empty folder to fill; at the end it gets the name ``path``, unless the body raised an error.

    If another process makes ``path`` meanwhile, that folder is kept and this one is deleted.

    Raises:
        CastError: if the system refuses to write it.
    """
    with translate_os_error(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = aside_of(path, secrets.token_hex(4))
        aside.mkdir()
        try:
            yield aside
            if sys.platform != "win32":
                os.sync()  # one call for thousands of small files
            try:
                aside.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            sync_folder(path.parent)
        finally:
            remove(aside)
