"""The lock of a folder: one process writes in it, and others can see that."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from castssl.errors import ConfigError
from castssl.outputs import no_link

try:
    import fcntl
except ImportError:  # Windows has no such locks; two runs in one folder go unnoticed there.
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""Every run makes this file in its folder and leaves it there; :func:`of_castssl` tells it from others."""
_CONTENT = re.compile(rb"(process \d+ on .*\n)?")


def hold(folder: Path) -> IO[Any]:
    """Lock a folder until the result is closed or the process ends, however it ends.

    Raises:
        ConfigError: if another process holds the lock.
        OSError: if the file cannot be written.
    """
    file = open(folder / LOCK, "a+", encoding="utf-8", opener=no_link)  # noqa: SIM115
    if sys.platform != "win32":
        # A forked data worker would keep the lock for the seconds that it outlives a killed run.
        os.register_at_fork(after_in_child=file.close)
    try:
        if fcntl is not None:
            _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        message = f"another process writes in {folder} ({holder}); end it or choose another --out"
        raise ConfigError(message) from None
    except OSError:
        return file  # Some network file systems have no locks.
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def in_use(folder: Path) -> bool:
    """True if a process holds the lock of a folder; nothing is written."""
    try:
        with open(folder / LOCK, "rb", opener=no_link) as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def of_castssl(folder: Path) -> bool:
    """True if a run of castssl made the lock; other programs have files of that name, too."""
    try:
        with open(folder / LOCK, "rb", opener=no_link) as lock:
            return bool(_CONTENT.fullmatch(lock.read(1000)))
    except OSError:
        return False


def _lock(file: IO[Any], how: int) -> None:
    """Lock a file; :func:`in_use` of another process may hold it for a moment."""
    for seconds in (0.01, 0.1):
        with suppress(BlockingIOError):
            return fcntl.flock(file, how)
        time.sleep(seconds)
    return fcntl.flock(file, how)
