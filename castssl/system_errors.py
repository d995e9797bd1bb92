"""Faults of the system under a run, in words: memory, shared memory, open files, data-loading processes."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import suppress

SHARED = "/dev/shm"
"""Where data-loading processes leave their batches on Linux."""
FEWER = "give fewer --workers, or a smaller --batch-size"


def explain(error: BaseException) -> str:
    """What a fault of the system was, and the flag that helps; ``""`` for any other error.

    Args:
        error: what ended the work; torch raises a fault of a data-loading process as a RuntimeError.
    """
    # torch chains the signal that ended a worker to the message that names the worker.
    text = f"{error}\n{error.__cause__}" if error.__cause__ else str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        return (
            f"the limit of open files{_files()} is reached: raise it with `ulimit -n 65536` in this shell, or"
            " give fewer --workers"
        )
    if _shared_memory(error, text):
        return (
            f"the shared memory in {SHARED}{_size()}, through which data-loading processes hand over their"
            f" batches, is full: {FEWER}, or --workers 0, which needs none; or enlarge it (`mount -o"
            f" remount,size=16G {SHARED}`, in a container `docker run --shm-size 16g`)"
        )
    if number in (errno.EAGAIN, errno.ENOMEM) or "Cannot allocate memory" in text:
        return f"the system refuses another process or its memory ({text.splitlines()[-1]}): {FEWER}"
    if worker := re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", text):
        return _worker(worker[1], text)
    return ""


def _worker(pid: str, text: str) -> str:
    """Why a data-loading process may have died."""
    match = re.search(r"killed by signal: ([\w ]+)", text)
    name = match[1].strip() if match else ""
    if name == "Killed":
        return (
            f"the system killed the data-loading process {pid}, as it does when memory runs out (see"
            f" `dmesg`): {FEWER}"
        )
    how = f"was ended by the signal {name!r}" if name else "ended without a reason"
    return (
        f"the data-loading process {pid} {how}: --workers 0 loads in the main process and shows an error of a"
        " library where it occurs; --start-method changes how such processes begin"
    )


def _shared_memory(error: BaseException, text: str) -> bool:
    if "Bus error" in text or re.search(r"</torch_\w+>.*(No space left|Cannot allocate)", text):
        return True
    unnamed = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
    return unnamed and _free() < 2**20


def _free() -> int:
    """Bytes of shared memory that are left; none where there is no such folder."""
    with suppress(OSError):
        return shutil.disk_usage(SHARED).free
    return 0


def _size() -> str:
    with suppress(OSError):
        total = shutil.disk_usage(SHARED).total
        return f" ({total / 2**30:.1f} GiB)" if total >= 2**30 else f" ({total / 2**20:.1f} MiB)"
    return ""


def _files() -> str:
    if os.name != "posix":
        return ""
    import resource

    return f", {resource.getrlimit(resource.RLIMIT_NOFILE)[0]},"
