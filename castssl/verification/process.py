"""A recipe in a process of its own, with a :class:`castssl.verification.watched.WatchedRun` as its run."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from functools import partial
from pathlib import Path

import torch

from castssl.training import run as training_run
from castssl.verification.job import EXIT, Job
from castssl.verification.watched import WatchedRun

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_", "TORCHELASTIC_")
"""What launchers set; the processes here have no launcher."""


def work(rank: int, job: Job) -> None:
    """Run the recipe as ``python RECIPE FLAGS`` does, and note its exit code."""
    _surround(rank, job)
    setattr(training_run, training_run.Run.__name__, partial(WatchedRun, job))
    code: object = 0
    try:
        runpy.run_path(job.recipe, run_name="__main__")
    except SystemExit as end:
        code = end.code if end.code is not None else 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    (Path(job.folder) / f"{EXIT}-{rank}").write_text(str(code))
    if code and job.world > 1:
        os._exit(1)  # The other process waits in a collective; it ends when this one is seen to have ended.


def _surround(rank: int, job: Job) -> None:
    """Streams, variables and arguments of a process of its own, on the processor."""
    output = os.open(job.output(rank), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        del os.environ[name]
    os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(job.folder) / "inductor")
    if job.world > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.world, "LOCAL_WORLD_SIZE": job.world}
        os.environ |= {name: str(number) for name, number in numbers.items()}
    torch.set_num_threads(job.threads)
    # Else compiled graphs that the flags ask for would take the place of the eager ones here.
    if job.purpose not in ("train", "stop"):
        torch.compiler.set_stance("force_eager")
    sys.argv = [job.recipe, *job.flags]
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.path.insert(0, str(Path(job.recipe).resolve().parent))
