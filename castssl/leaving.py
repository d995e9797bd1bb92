"""The way out of a program of several processes."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from castssl import distributed


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
        if distributed.was_several():
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
