"""The oldest and the newest Python: types, and packages that fit together with and without each plugin.

`make pythons` runs tests on each interpreter at hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slow.environments import PROJECTS, ROOT, uv

OLDEST, NEWEST = "3.10", "3.14"
ENDS = pytest.mark.parametrize("python", [OLDEST, NEWEST])
ALONE = "castssl"


def test_the_oldest_is_what_each_project_requires() -> None:
    for name, folder in PROJECTS.items():
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        assert re.findall(r'(?m)^requires-python = ">=(.+)"$', text) == [OLDEST], name


@ENDS
def test_types(python: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--python-version", python, "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@ENDS
@pytest.mark.parametrize("name", [*PROJECTS, "all", "all plugins"])
def test_packages_that_fit_together(name: str, python: str, tmp_path: Path) -> None:
    plugins = [folder for each, folder in PROJECTS.items() if name in (each, "all plugins") and each != ALONE]
    wishes = [f"{ROOT}[all]" if name == "all" else str(ROOT), *map(str, plugins)]
    (tmp_path / "wishes.in").write_text("\n".join(wishes))
    options = ("--quiet", "--no-header", "--python-version", python)
    solved = uv("pip", "compile", *options, tmp_path / "wishes.in")
    packages = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", solved))
    assert tuple(map(int, packages["torch"].split(".")[:2])) >= (2, 10)
    assert "opencv-contrib-python-headless" in packages
    assert "opencv-python" not in packages  # It would overwrite cv2.ximgproc.
