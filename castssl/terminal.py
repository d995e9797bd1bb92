"""Standard output and error that outlive their readers: ``castssl list | head``, a closed terminal."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from castssl.errors import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GONE = (errno.EPIPE, errno.EIO)
"""What the system answers once nothing reads a pipe or a terminal any more."""
_FORMAT = warnings.formatwarning


class _Outliving(io.FileIO):
    """A descriptor that discards what is written after its reader has gone."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            # Also for the processes that this one starts, and for C libraries.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def safe_markup(text: str) -> str:
    """A text from data for a rich table or tree: neither markup nor control characters."""
    from rich.markup import escape

    return escape(printable(text))


def ignore_closed_streams() -> None:
    """Let this process go on when the reader of its standard output or error has gone.

    Characters that the encoding of a stream lacks, and bytes of file names that are not UTF-8, are printed as
    escapes, so that no name ends a command; so are control characters in warnings.  Streams that were
    replaced, such as those of a notebook, keep their descriptors.
    """
    warnings.formatwarning = _formatwarning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = _outliving(sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = _outliving(sys.stderr)


def _formatwarning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """As Python's own, without the control characters that a name may hold."""
    return printable(_FORMAT(message, category, filename, lineno, line))


def _outliving(stream: io.TextIOWrapper) -> TextIO:
    with suppress(OSError):
        stream.flush()
    raw = _Outliving(stream.fileno(), "wb", closefd=False)
    buffer = io.BufferedWriter(raw, 1 if stream.write_through else io.DEFAULT_BUFFER_SIZE)
    return io.TextIOWrapper(
        buffer, stream.encoding, stream.errors, line_buffering=True, write_through=stream.write_through
    )
