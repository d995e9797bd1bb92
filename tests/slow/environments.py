"""Environments made by uv, which links packages from its cache: an environment with torch takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = {"castssl": ROOT, **{path.name: path for path in sorted(ROOT.glob("plugins/castssl-*"))}}
"""The folders of the distributions, by name."""


def uv(*words: str | Path, cwd: Path = ROOT) -> str:
    """What a command of uv prints."""
    program = shutil.which("uv") or ROOT / ".uv" / "bin" / "uv"
    if not Path(program).exists():
        pytest.fail("there is no uv to make environments with: make .uv/bin/uv")
    done = subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"uv {' '.join(map(str, words))}\n{done.stderr[-3000:]}"
    return done.stdout


class Environment:
    """An environment that holds nothing at first, and no part of this checkout."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        uv("venv", "--quiet", "--python", python, folder / "env")

    def install(self, *requirements: str | Path) -> None:
        """In the versions of ``constraints.txt``."""
        pinned = ("--constraint", ROOT / "constraints.txt")
        uv("pip", "install", "--quiet", "--python", self.folder / "env", *pinned, *requirements)

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A finished program of the environment."""
        hidden = ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX")
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in hidden and not name.startswith("PYTEST")
        }
        command = [self.folder / "env" / "bin" / words[0], *words[1:]]
        return subprocess.run(command, cwd=self.folder, env=kept, capture_output=True, text=True, check=False)

    def succeed(self, *words: str | Path) -> str:
        """What a program prints that must work."""
        done = self.run(*words)
        shown = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert done.returncode == 0, f"$ {' '.join(map(str, words))}\n{shown}"
        return done.stdout
