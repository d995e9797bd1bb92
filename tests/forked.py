"""``python ARGUMENTS`` as a process that does not import torch, which takes ten times as long as a small run.

The processes are forked from a server that has imported what recipes import.  Each has its own arguments,
environment, streams, session and signals, imports from PYTHONPATH, and runs its functions at exit.  What is
about the start of the interpreter, a launcher or a variable that is read at import needs ``subprocess``.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "ACCELERATE_USE_CPU": "true"}
"""Variables of all of them."""
NONE: Mapping[str, str] = MappingProxyType({})
TIMEOUT = 280.0
"""Seconds after which a process that should have ended is given up."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.imported"])


def become(out: str | Path, err: str | Path, environment: Mapping[str, str]) -> None:
    """Make the process that calls this one of its own, with these files as its streams.

    Args:
        out: what it prints is appended here.
        err: what it says on standard error, likewise.
        environment: all of its variables.
    """
    multiprocessing.set_start_method(None, force=True)
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for stream, name, path in ((1, "stdout", out), (2, "stderr", err)):
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.dup2(handle, stream)
        os.close(handle)
        if stat.S_ISFIFO(os.fstat(stream).st_mode):  # The server's stream expects that it can seek.
            pipe = os.fdopen(stream, "w", buffering=1, closefd=False)
            for attribute in (name, f"__{name}__"):
                setattr(sys, attribute, pipe)


def _main(arguments: list[str], out: str, err: str, environment: dict[str, str], cwd: str) -> None:
    become(out, err, environment)
    os.chdir(cwd)
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [place for place in places if place and place not in sys.path]
    sys.orig_argv = [sys.executable, *arguments]
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


class Forked:
    """One process that runs in the background.

    Args:
        arguments: those of Python: ``-m MODULE`` or a script, and its own.
        out: the file that takes what it prints.
        err: the same for standard error.
        environment: variables beside those of this process.
        cwd: its working folder.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        out: Path,
        err: Path,
        environment: Mapping[str, str] = NONE,
        cwd: Path = ROOT,
    ) -> None:
        own = {**os.environ, **ENVIRONMENT, **environment}
        words = [*arguments]
        self.process = CONTEXT.Process(target=_main, args=(words, str(out), str(err), own, str(cwd)))
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        """The exit code, minus the number of the signal that ended it; None while it runs."""
        self.process.join(0)
        return self.process.exitcode

    def wait(self, timeout: float | None = TIMEOUT) -> int:
        """The exit code once it has ended; None as ``timeout`` waits forever.

        Raises:
            subprocess.TimeoutExpired: if it has not ended after ``timeout`` seconds; it is killed.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(sys.executable, timeout or 0)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Tell the process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it and its children."""
        self.send_to_all(signal.SIGKILL)
        self.process.join()

    def send_to_all(self, number: int) -> None:
        """Tell the process and its children; itself alone while it has no group of its own yet."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            with suppress(ProcessLookupError):
                self.send_signal(number)


def run(
    arguments: Sequence[str],
    *,
    processes: int = 1,
    environment: Mapping[str, str] = NONE,
    cwd: Path = ROOT,
) -> subprocess.CompletedProcess[str]:
    """Wait for ``python ARGUMENTS``; ``processes`` of them are the ranks of one run."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder, name) for name in ("out", "err"))
        port = str(free_port())
        started = []
        for rank in range(processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            ranks |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            more = ranks if processes > 1 else {}
            started.append(Forked(arguments, out, err, {**environment, **more}, cwd))
        codes = [one.wait() for one in started]
        output = [path.read_text(errors="replace") for path in (out, err)]
        return subprocess.CompletedProcess(list(arguments), max(codes, key=abs), *output)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop() -> None:
    """End the server, so that the time that it and its children took is counted as this process's."""
    server: Any = vars(forkserver)["_forkserver"]
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGTERM)  # Whoever still holds its pipe does not keep it.
        server._stop()
