"""Two real processes that talk over gloo, for checks that one process cannot make."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
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


def together(work: Callable[..., None], *args: Any) -> None:
    """Run ``work(rank, *args)`` in two processes of one gloo group, and wait for both.

    They descend from an interpreter of their own, which imports torch once for all calls: a fork of this one
    must not run autograd again, and a spawn would run the caller's script again.

    Args:
        work: a function of a module, as it is pickled.
        args: what else it gets; must pickle too.

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
        answer = _ask(folder, os.pathsep.join(path))
        output = Path(folder) / "output"
        shown = output.read_text(errors="replace").strip()[-2000:] if output.exists() else ""
    if answer == "None":
        raise ContractError(f"two processes still wait for each other after {LIMIT} s")
    if answer != "0":
        raise ContractError(f"in two processes:\n{shown}")


def stop() -> None:
    """End the interpreter that the pairs descend from; the next call of :func:`together` begins another."""
    while _servers:
        with _servers.pop() as server:
            server.terminate()


def _ask(folder: str, path: str) -> str:
    if _servers and _servers[0].poll() is not None:
        stop()
    if not _servers:
        command = [sys.executable, "-m", "castssl.testing.processes"]
        environment = {**os.environ, "PYTHONPATH": path}
        pipe = subprocess.PIPE
        _servers.append(subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True))
    requests, answers = _servers[0].stdin, _servers[0].stdout
    assert requests is not None
    assert answers is not None
    print(folder, file=requests, flush=True)
    return answers.readline().strip()


def main() -> None:
    """What the interpreter does: a pair for each folder that it reads; it answers with the exit code."""
    # The first optimizer step would import torch._dynamo, and most objectives timm, in each process.
    for name in ("torch._dynamo", "castssl.testing.objectives", "timm"):
        import_module(name)
    atexit.register(gc.unfreeze)  # Else libraries report as leaked at the end what is frozen.
    gc.freeze()
    multiprocessing.set_start_method(START)
    for line in sys.stdin:
        pair = multiprocessing.Process(target=_pair, args=(line.strip(),))
        pair.start()
        pair.join(LIMIT)
        code = pair.exitcode
        pair.kill()
        print(code, flush=True)


def _pair(folder: str) -> None:
    """Start the two processes, with the caller's surroundings."""
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
    start_processes(join, (folder,), WORLD, start_method=START)


def join(rank: int, folder: str) -> None:
    """What each of the two processes does."""
    if sys.platform == "linux":
        # A host name that resolves to no address would stop gloo.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    set_num_threads(1)
    work, args = pickle.loads((Path(folder) / "payload").read_bytes())
    meeting = (Path(folder) / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
    try:
        work(rank, *args)
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
