"""Two real processes that talk over gloo, for checks that one process cannot make."""

from __future__ import annotations

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


def together(work: Callable[..., None], *args: Any) -> None:
    """Run ``work(rank, *args)`` in two processes of one gloo group, and wait for both.

    They descend from a fresh interpreter: a fork of this one must not run autograd again, and a spawn would
    run the caller's script again.

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
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "payload").write_bytes(payload)
        command = [sys.executable, "-m", "castssl.testing.processes", folder]
        environment = {**os.environ, "PYTHONPATH": path}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired as fault:
            raise ContractError(f"two processes still wait for each other after {LIMIT} s") from fault
    if done.returncode:
        raise ContractError(f"in two processes:\n{done.stderr.strip()[-2000:]}")


def main(folder: str) -> None:
    """What the fresh interpreter does."""
    start = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    # Before the fork, so that both load it once: the subject, and what the first optimizer step imports.
    import_module("torch._dynamo")
    pickle.loads((Path(folder) / "payload").read_bytes())
    start_processes(join, (folder,), WORLD, start_method=start)  # type: ignore[no-untyped-call]


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
    main(sys.argv[1])
