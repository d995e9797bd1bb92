"""What differs between processes: gathering rows, the first row, the main rank, the way out.

Everything is the identity when torch.distributed is not initialized.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist
from torch import Tensor

_seen = {1}
"""The numbers of processes that :func:`world` has found; a group may be gone when the program ends."""


def world() -> int:
    """How many processes take part."""
    count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    _seen.add(count)
    return count


def rank() -> int:
    """The index of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """True on the process that writes files and prints."""
    return rank() == 0


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks in rank order, without gradient: (B, ...) -> (world * B, ...)."""
    if world() == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(world())]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def first_row(rows: Tensor) -> int:
    """Where this rank's rows begin within :func:`gather`'s result."""
    return rank() * rows.shape[0]


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without gradient."""
    if world() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world()


@contextmanager
def leaving() -> Iterator[None]:
    """Around all that a program does: a process of several ends without the end of its interpreter.

    A thread of gloo may still hold the tensors of the last collective, and asks for the interpreter's lock to
    free them.  Once the interpreter has begun to end, Python ends such a thread, and with it the process by
    SIGABRT ("terminate called without an active exception").  ``destroy_process_group`` does not help: the
    threads live as long as a model under DistributedDataParallel.

    What is registered with :mod:`atexit` is called and standard streams are flushed as ever, the exit code is
    that of the error that leaves this context, and no other process is waited for.
    """
    code = 0
    try:
        yield
    except BaseException as error:
        code = _code(error)
        raise
    finally:
        world()
        if max(_seen) > 1:
            atexit.register(_leave, code)  # As the last one, so that it is called first.


def _code(error: BaseException) -> int:
    """The exit code to which an error leads."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _leave(code: int) -> None:
    atexit.unregister(_leave)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # The reader of the stream may have ended.
            stream.flush()
    os._exit(code)
