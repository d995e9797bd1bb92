"""Real processes, alone or two that talk over gloo, for checks that the caller's process cannot make."""

from __future__ import annotations

import atexit
import gc
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch import distributed, set_num_threads
from torch.multiprocessing.spawn import start_processes

from castssl.errors import ContractError

WORLD = 2
LIMIT = 240
"""Seconds after which two processes that wait for each other are given up."""
START = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
_servers: list[subprocess.Popen[str]] = []


def together(
    work: Callable[..., None],
    *args: Any,
    world: int = WORLD,
    limit: float = LIMIT,
    preload: Sequence[str] = (),
) -> None:
    """Run ``work(rank, *args)`` in two processes of one gloo group, and wait for both.

    They descend from an interpreter of their own, which imports torch once for all calls: a fork of this one
    must not run autograd again, and a spawn would run the caller's script again.

    Args:
        work: a function of a module, as it is pickled.
        args: what else it gets; must pickle too.
        world: the number of processes; 1 joins no group.
        limit: seconds after which they are given up.
        preload: modules that the interpreter imports before it starts them, once for all calls.

    Raises:
        ContractError: with the last lines of a process that failed.
    """
    try:
        payload = pickle.dumps((work, args))
    except (AttributeError, TypeError, pickle.PicklingError) as fault:
        raise ContractError(
            f"two processes need a registry spec, or a factory that pickles (no lambda): {fault}"
        ) from fault
    path = [entry or os.getcwd() for entry in sys.path]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "around").write_bytes(pickle.dumps((os.getcwd(), path, dict(os.environ))))
        (Path(folder) / "payload").write_bytes(payload)
        request = {"folder": folder, "world": world, "limit": limit, "preload": [*preload]}
        try:
            answer = _ask(json.dumps(request), os.pathsep.join(path))
        except BaseException:
            stop()  # Such as by Ctrl-C: the caller no longer waits for the processes.
            raise
        output = Path(folder) / "output"
        shown = output.read_text(errors="replace").strip()[-2000:] if output.exists() else ""
    if answer == "None":
        waited = "two processes still wait for each other" if world > 1 else "the process has not ended"
        raise ContractError(f"{waited} after {limit:g} s")
    if answer != "0":
        case = "in two processes" if world > 1 else f"a process ended with {answer or 'a signal'}"
        raise ContractError(f"{case}:\n{shown}")


def stop() -> None:
    """End the interpreter that the processes descend from, and them; the next call begins another."""
    while _servers:
        with _servers.pop() as server:
            if sys.platform == "win32":
                server.terminate()
                continue
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def _stop_at_exit(caller: int) -> None:
    if os.getpid() == caller:  # And not in a fork of it.
        stop()


def _ask(request: str, path: str) -> str:
    if _servers and _servers[0].poll() is not None:
        stop()
    if not _servers:
        command = [sys.executable, "-m", "castssl.testing.processes"]
        environment = {**os.environ, "PYTHONPATH": path}
        pipe = subprocess.PIPE
        # In a session of its own, so that Ctrl-C reaches the caller alone and `stop` all descendants.
        server = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        _servers.append(server)
        atexit.register(_stop_at_exit, os.getpid())
    requests, answers = _servers[0].stdin, _servers[0].stdout
    assert requests is not None
    assert answers is not None
    print(request, file=requests, flush=True)
    return answers.readline().strip()


def main() -> None:
    """What the interpreter does: one or two processes for each request; it answers with the exit code."""
    # The first optimizer step would import torch._dynamo, and most objectives timm, in each process.
    _load(["torch._dynamo", "castssl.testing.objectives", "timm"])
    atexit.register(gc.unfreeze)  # Else libraries report as leaked at the end what is frozen.
    multiprocessing.set_start_method(START)
    for line in sys.stdin:
        request = json.loads(line)
        _load(request["preload"])
        pair = multiprocessing.Process(target=_pair, args=(request["folder"], request["world"]))
        pair.start()
        _wait(pair, request["limit"])
        code = pair.exitcode
        pair.kill()
        print(code, flush=True)


def _load(names: Sequence[str]) -> None:
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        with suppress(ImportError):  # A process that needs it reports the reason.
            import_module(name)
    if missing:
        gc.freeze()


def _wait(pair: BaseProcess, limit: float) -> None:
    """Wait for ``pair``; end it, its descendants and this interpreter once the caller has ended."""
    if sys.platform == "win32":  # No pipe can be waited for there.
        pair.join(limit)
        return
    requests = sys.stdin.fileno()
    # The caller sends nothing before the answer, so that what can be read is the end of the pipe.
    ready = connection.wait([pair.sentinel, requests], limit)
    if requests in ready and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    if pair.sentinel in ready:
        pair.join()  # Its exit code may come a moment after the end of its pipe.


def _pair(folder: str, world: int) -> None:
    """Start the processes, with the caller's surroundings."""
    output = os.open(Path(folder) / "output", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)  # The interpreter's own output is its answers.
    os.dup2(output, 2)
    place, path, environment = pickle.loads((Path(folder) / "around").read_bytes())
    os.chdir(place)
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    # Before the fork, so that both load it once.
    pickle.loads((Path(folder) / "payload").read_bytes())
    tempfile.tempdir = folder  # PyTorch writes the errors of its processes to files, and leaves them there.
    start_processes(join, (folder, world), world, start_method=START)


def join(rank: int, folder: str, world: int) -> None:
    """What each of the processes does."""
    tempfile.tempdir = None
    if sys.platform == "linux":
        # A host name that resolves to no address would stop gloo.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    set_num_threads(1)
    work, args = pickle.loads((Path(folder) / "payload").read_bytes())
    if world == 1:
        work(rank, *args)
        return
    meeting = (Path(folder) / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    try:
        work(rank, *args)
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
