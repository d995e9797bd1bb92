"""Recipes as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def recipe() -> Runner:
    """Start a recipe and wait for it; ``processes`` of them if more than one."""

    def run(name: str, *flags: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(many if processes > 1 else []), f"recipes/{name}.py", *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
        )

    return run
