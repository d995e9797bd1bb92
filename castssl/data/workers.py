"""The processes that load data: how each begins, and where they keep their sockets."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import tempfile
from importlib import import_module

import cv2
import torch

from castssl.errors import ConfigError
from castssl.terminal import ignore_closed_streams

LONGEST = 75
"""Bytes of the path of temporary files: a socket below it has 32 more, and Linux allows 107."""


def check_sockets() -> None:
    """Refuse a folder of temporary files whose name is too long for the sockets of workers.

    They could send no batch, and the run would wait forever.

    Raises:
        ConfigError: with both numbers.
    """
    if (length := len(os.fsencode(tempfile.gettempdir()))) > LONGEST:
        raise ConfigError(
            f"TMPDIR has {length} bytes, expected at most {LONGEST} for sockets of data-loading processes;"
            " use a shorter path, such as /tmp, or give --workers 0"
        )


def start_worker(worker: int) -> None:
    """One thread per worker, no messages about odd files, and Ctrl-C left to the main process."""
    ignore_closed_streams()
    if multiprocessing.get_start_method() == "spawn":
        # It ends its interpreter while the thread that sends batches may be in native code, which aborts the
        # run.  What is registered last is called first, and removes the folder of the worker's sockets.
        atexit.register(os._exit, 0)
        atexit.register(import_module("multiprocessing.util")._exit_function)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
