"""Runs of the toy recipe, or a real one, as real processes: killed, signalled, starved of disk."""

from __future__ import annotations

import importlib
import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tests.forked import CONTEXT, ROOT, become, free_port

TOY = "tests.training.toy"
QUICK = "--epochs 3 --log-every 1"
STEPS = 18
"""Optimizer steps of a run with these flags."""
PATIENCE = 240.0
"""Seconds after which a process that should have ended is given up."""


SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}
"""What ``accelerate launch`` makes of recipes/launch/fsdp.yaml."""


def _take_cpus_for_accelerators() -> None:
    """Accelerate shards over accelerators only; FSDP itself works over gloo, too."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU


def _main(recipe: str, argv: list[str], output: str, environment: Mapping[str, str], file_size: int) -> None:
    from castssl.config import launch

    module = importlib.import_module(recipe)
    become(output, output, environment)
    torch.set_num_threads(1)
    if file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if environment.keys() & SHARDED.keys():
        _take_cpus_for_accelerators()
    sys.argv = [str(Path(str(module.__file__)).relative_to(ROOT)), *argv]
    launch(module.main, module.Config, argv)


class Toy:
    """One or more processes of one run.

    Args:
        out: the run's folder; what they print goes into a file beside it.
        flags: of the toy recipe.
        world: how many processes.
        file_size: the most bytes that a file may have; 0 is no limit.
        cpu: False trains on a GPU if there is one.
        sharded: whether parameters are sharded by FSDP.
        recipe: the module whose ``main`` and ``Config`` are run.
    """

    def __init__(
        self,
        out: Path,
        flags: str = "",
        *,
        world: int = 1,
        file_size: int = 0,
        cpu: bool = True,
        sharded: bool = False,
        recipe: str = TOY,
    ) -> None:
        self.out, self._output = out, out.with_suffix(".txt")
        self._output.unlink(missing_ok=True)
        argv = ["--out", str(out), *shlex.split(flags)]
        port = free_port()
        self.processes: list[BaseProcess] = []
        for rank in range(world):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            environment = {name: str(value) for name, value in ranks.items()} if world > 1 else {}
            environment |= {"ACCELERATE_USE_CPU": str(cpu).lower(), "MASTER_ADDR": "127.0.0.1"}
            environment |= SHARDED if sharded else {}
            environment = {**os.environ, **environment}
            arguments = (recipe, argv, str(self._output), environment, file_size)
            process = CONTEXT.Process(target=_main, args=arguments)
            process.start()
            self.processes.append(process)

    def code(self) -> int:
        """The exit code once all have ended: minus the signal that killed it, or the largest of all."""
        codes = []
        for process in self.processes:
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                raise AssertionError(f"still running after {PATIENCE} s:\n{self.output()}")
            codes.append(process.exitcode)
        return codes[0] if len(codes) == 1 else max(codes)

    def running(self) -> bool:
        """Whether any of them has not ended yet."""
        return any(process.is_alive() for process in self.processes)

    def output(self) -> str:
        """What they printed."""
        return self._output.read_text() if self._output.exists() else ""

    def wait_for(self, step: int) -> None:
        """Return when the log has a report of ``step`` or a later one."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if any(line.get("step", 0) >= step for line in reports(self.out)):
                return
            assert self.running(), self.output()
            time.sleep(0.01)
        raise AssertionError(f"no step {step}:\n{self.output()}")

    def signal(self, number: int) -> None:
        """Send a signal to the first process alone."""
        assert self.processes[0].pid is not None
        os.kill(self.processes[0].pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the first process and its children, as a terminal or a cluster does."""
        assert self.processes[0].pid is not None
        os.killpg(self.processes[0].pid, number)


def lines(out: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's log."""
    found = []
    path = out / "log.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def reports(out: Path) -> list[dict[str, Any]]:
    """The reports of a run without what differs between two equal runs."""
    clocks = {"time", "images_per_second", "waiting", "memory_gib"}
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines(out) if "event" not in line]


def state(out: Path) -> dict[str, Any]:
    """The run's last checkpoint."""
    path = sorted((out / "checkpoints").glob("step-*.pt"))[-1]
    return dict(torch.load(path, weights_only=True))


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints' values are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def finished(out: Path, flags: str = QUICK, **options: Any) -> dict[str, Any]:
    """The last checkpoint of a run that nothing disturbed."""
    toy = Toy(out, flags, **options)
    assert toy.code() == 0, toy.output()
    return state(out)


def agree(out: Path, unbroken: Path) -> None:
    """The run in ``out`` ended exactly as the unbroken one did: weights, random streams, reports."""
    ours, theirs = state(out), state(unbroken)
    for part in ("module", "optimizer", "random", "step", "batch", "batches"):
        assert same(ours[part], theirs[part]), part
    assert reports(out) == reports(unbroken)
