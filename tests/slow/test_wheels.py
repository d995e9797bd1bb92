"""Wheels of castssl and of each plugin, in environments that hold nothing else, under their own tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slow.environments import PROJECTS, ROOT, Environment

CORE = "castssl"
RIVAL = "opencv-contrib-python"
"""The OpenCV with windows, which writes the same folder as the one that castssl requires."""
EXTRA = {"castssl-slic": "[fast]"}
"""What the tests of a distribution need beside its dependencies and its group ``dev``."""
BESIDE = {"castssl-mmseg": ["castssl-clustering", "castssl-slic"]}
"""Other plugins that the tests of a distribution use."""
TESTED = {name: [f"plugins/{name}/tests"] for name in PROJECTS} | {CORE: ["tests/contracts"]}
RECIPE = (
    *("--data", "demo:size=32,per_class=6", "--model", "nano", "--sizes", "16", "8", "4"),
    *("--image-size", "32"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--hidden", "16", "--out-dim", "8"),
    *("--batch-size", "16", "--lr", "1e-3", "--epochs", "2", "--warmup-epochs", "1", "--max-steps", "2"),
    *("--knn-every", "0", "--workers", "0", "--out", "run"),
)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in PROJECTS.values():
        options = ["--wheel", "--no-isolation", "--outdir", str(folder)]
        command = [sys.executable, "-m", "build", *options, str(project)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return {name: next(folder.glob(f"{name.replace('-', '_')}-[0-9]*.whl")) for name in PROJECTS}


def own_tests(name: str, environment: Environment) -> str:
    """The closing line of a distribution's own tests, which see no code but that of the wheels."""
    environment.install("--group", f"{ROOT if name == CORE else PROJECTS[name]}/pyproject.toml:dev")
    for folder in {"tests", *TESTED[name]}:
        ignored = shutil.ignore_patterns("__pycache__", "slow")
        shutil.copytree(ROOT / folder, environment.folder / folder, ignore=ignored, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", environment.folder)
    printed = environment.succeed("python", "-m", "pytest", *TESTED[name])
    return printed.strip().splitlines()[-1]


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_passes_its_own_tests(name: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    wheel = {each: f"{path}{EXTRA.get(each, '')}" for each, path in wheels.items()}
    environment.install(*(wheel[each] for each in sorted({CORE, name})))
    place = environment.succeed("python", "-c", f"import {CORE}; print({CORE}.__file__)")
    assert place.startswith(str(tmp_path / "env")), place
    listed = re.findall(r"castssl[\w-]*", environment.succeed("castssl", "list"))
    assert set(listed) == {CORE, name} - {"castssl-mmseg"}  # Its entry points are commands.
    if name in BESIDE:
        environment.install(*(wheel[other] for other in BESIDE[name]))
    assert re.search(r"[1-9]\d* passed", closing := own_tests(name, environment)), closing


def test_castssl_works_where_the_other_opencv_is_installed(wheels: dict[str, Path], tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    environment.install(RIVAL)
    environment.install(wheels[CORE])
    environment.succeed("python", "-c", f"from importlib import metadata; metadata.version('{RIVAL}')")
    assert "nothing that castssl needs is broken" in environment.succeed("castssl", "doctor")
    environment.succeed("castssl", "check", "superpixels", "seeds")
    environment.succeed("castssl", "run", "moco_in1k", *RECIPE)
    assert (tmp_path / "run" / "results.json").is_file()
