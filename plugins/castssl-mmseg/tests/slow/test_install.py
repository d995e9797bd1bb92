"""Plain pip on the two folders, in a new environment: SEEDS work, or name the command that repairs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
INSTALL = "pip install . plugins/castssl-mmseg"
"""As the plugin's README has it."""
SKIPPED = shutil.ignore_patterns(".*", "runs", "dist", "build", "__pycache__", "tests")


class Bare:
    """A copy of the project, and an environment that held nothing but pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "castssl"
        shutil.copytree(ROOT, self.folder, ignore=SKIPPED)
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
        hidden = ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX")
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        self.variables = kept | {"PATH": f"{folder}/env/bin{os.pathsep}{os.environ['PATH']}"}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """The finished shell command in the copy's folder."""
        options: dict[str, Any] = {"cwd": self.folder, "env": self.variables}
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, **options)

    def succeed(self, command: str) -> str:
        """What a command prints that must work."""
        done = self.run(command)
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    folder = tmp_path_factory.mktemp("bare")
    made = Bare(folder)
    assert INSTALL in (made.folder / "plugins/castssl-mmseg/README.md").read_text(encoding="utf-8")
    made.succeed(INSTALL)
    yield made
    shutil.rmtree(folder)  # Gigabytes.


def train(settings: Callable[..., Any], tmp_path: Path) -> str:
    """The command that trains CAST for one iteration."""
    settings("cast_small_voc", nano=True, **{"train_cfg.max_iters": 1}).dump(tmp_path / "own.py")
    return f"castssl mmseg train {tmp_path}/own.py --work-dir {tmp_path}/{{}}"


def test_one_command_of_pip_keeps_the_superpixels(
    bare: Bare, settings: Callable[..., Any], tmp_path: Path
) -> None:
    packages = bare.succeed("pip list --format freeze")
    assert "opencv-python==" in packages, "mmengine no longer requires it: delete this test"
    bare.succeed("python -c 'import cv2; cv2.ximgproc.createSuperpixelSEEDS'")
    command = train(settings, tmp_path)
    bare.succeed(command.format("first"))
    assert (tmp_path / "first" / "iter_1.pth").is_file()


def test_an_opencv_that_was_installed_later_is_repaired_by_the_printed_command(
    bare: Bare, settings: Callable[..., Any], tmp_path: Path
) -> None:
    bare.succeed("pip install --force-reinstall --no-deps opencv-python")
    command = train(settings, tmp_path)
    done = bare.run(command.format("broken"))
    assert done.returncode == 1
    (repair,) = re.findall("Repair it with: (pip install .*)", done.stderr)
    assert repair in bare.run("castssl doctor").stdout
    bare.succeed(repair)
    bare.succeed(command.format("second"))
    assert (tmp_path / "second" / "iter_1.pth").is_file()
    bare.succeed("pip check")
    assert "nothing that castssl needs is broken" in bare.succeed("castssl doctor")
