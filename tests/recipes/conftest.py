"""A small generated data set, and recipes as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from castssl.data import demo

ROOT = Path(__file__).parents[2]
Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32-pixel pictures of eight classes, six of each to train on."""
    old = os.environ.get("CASTSSL_CACHE")
    os.environ["CASTSSL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    try:
        return demo.root(size=32, per_class=6)
    finally:
        os.environ.pop("CASTSSL_CACHE")
        if old is not None:
            os.environ["CASTSSL_CACHE"] = old


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
