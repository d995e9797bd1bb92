"""How a run that was stopped is begun again: the command that continues it, or SLURM's queue."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from castssl.training.watch import launched

PATIENCE = 60.0
"""Seconds that SLURM's controller has to answer."""


def command(config: Path, typed: Sequence[str] = ()) -> str:
    """What to type to continue the run with the settings in ``config``, from the same working folder.

    ``typed`` are the flags that ``config`` does not keep.

    It begins as the command did that started this run, with the launcher and its options.
    """
    return shlex.join([*_starter(), sys.argv[0], "--config", str(config), *typed])


def requeue() -> str:
    """Put this SLURM job back into the queue: what came of it, in words.

    ``scontrol`` ends the job at once, so this is the last thing that a run does.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return ""
    try:
        asked = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} could not be requeued ({error}); submit it again"
    if asked.returncode:
        return f"job {job} could not be requeued ({asked.stderr.strip()}); submit it again"
    return f"job {job} is requeued and goes on from there"


def _starter() -> list[str]:
    if not launched():
        return ["python" if shutil.which("python") == sys.executable else sys.executable]
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return parent[: parent.index(sys.argv[0])]
    except (OSError, ValueError):  # No /proc, the launcher has gone, or it was told of the recipe otherwise.
        return ["accelerate", "launch"]
