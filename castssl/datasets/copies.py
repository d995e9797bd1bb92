"""Temporary copies of data that can only be read in order; a full disk is no fault of the data."""

from __future__ import annotations

import errno
import gzip
import tempfile
from contextlib import suppress
from typing import IO

from castssl.errors import DataError

BLOCK = 2**16
"""Bytes that are copied at once."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FILES = (errno.EMFILE, errno.ENFILE)


def temporary_file() -> IO[bytes]:
    """A new file without a name in the folder of temporary files, which is gone once it is closed.

    Raises:
        DataError: if the system refuses it.
        OSError: if too many files are open, which no other folder changes.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        if error.errno in _FILES:
            raise
        raise _refused(error) from error


def append(copy: IO[bytes], content: IO[bytes] | gzip.GzipFile) -> None:
    """Write what is left of ``content`` to the end of a file of :func:`temporary_file`.

    Raises:
        DataError: if the system refuses to write; the copy is closed then.
        Exception: of any kind, from reading ``content``; the copy has what was read before.
    """
    while block := content.read(BLOCK):
        _write(copy, block)


def _write(copy: IO[bytes], block: bytes) -> None:
    try:
        copy.write(block)
        copy.flush()
    except OSError as error:
        with suppress(OSError):  # It would write the rest again.
            copy.close()
        raise _refused(error) from error


def _refused(error: OSError) -> DataError:
    try:
        folder = f"the folder of temporary files {tempfile.gettempdir()}"
    except OSError:  # None can be written; the message names those that were tried.
        folder = "all folders of temporary files"
    fault = "the disk is full" if error.errno in _FULL else error.strerror or error
    return DataError(
        f"the data cannot be copied to be read: {fault} in {folder}; free space there, or set TMPDIR to a"
        " folder with more"
    )
