"""The commands that documents and messages prescribe, run in the environment that the README makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = "make setup && source .venv/bin/activate"
"""As the README has it."""
MERGE = """
import torch
from castssl.superpixels.merge import merge
segments = torch.arange(16).view(4, 4)
for level in merge(torch.rand(3, 4, 4), segments, [4, 2], by="neighbors"):
    print(len(level.unique()))
"""
SKIPPED = shutil.ignore_patterns(
    ".git", ".venv", ".uv", "runs", "dist", "build", "__pycache__", ".*_cache", ".hypothesis"
)


class Environment:
    """A copy of the project with an environment of its own, made by the README's command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX") and not name.startswith("PYTEST")
        }
        beside = Path(sys.executable).parent
        path = self.variables["PATH"].split(os.pathsep)
        self.variables["PATH"] = os.pathsep.join(part for part in path if Path(part) != beside)

    def run(self, command: str, *, active: bool = True) -> subprocess.CompletedProcess[str]:
        """The finished shell command, with the environment active or not."""
        line = f"source .venv/bin/activate && {command}" if active else command
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def succeed(self, command: str, *, active: bool = True) -> str:
        """What a command prints that must work."""
        done = self.run(command, active=active)
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("fresh") / "castssl"
    shutil.copytree(ROOT, folder, ignore=SKIPPED)
    assert SETUP in (folder / "README.md").read_text(encoding="utf-8")
    made = Environment(folder)
    made.succeed(SETUP, active=False)
    yield made
    shutil.rmtree(folder)  # Gigabytes.


def remedies(environment: Environment, *, active: bool = True) -> dict[str, str]:
    """The commands that ``castssl doctor`` prescribes, by topic."""
    program = "castssl" if active else ".venv/bin/castssl"
    lines = environment.run(f"{program} doctor", active=active).stdout.splitlines()
    pairs = pairwise(lines)
    return {
        re.split(r"\s{2,}", line)[1]: after.strip()[2:]
        for line, after in pairs
        if after.strip().startswith("$ ")
    }


def test_a_new_plugin_by_the_printed_commands(environment: Environment) -> None:
    printed = environment.succeed("castssl new-plugin pooling mine")
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert commands[0] == "pip install -e castssl-mine"
    assert len(commands) == 3
    for command in commands:
        environment.succeed(command)
    assert "mine" in environment.succeed("castssl list pooling")


@pytest.mark.parametrize("active", [True, False])
def test_doctor_repairs_a_missing_library(environment: Environment, active: bool) -> None:
    environment.succeed("pip uninstall -y lightly")
    command = remedies(environment, active=active)["lightly"]
    environment.succeed(command, active=active)
    assert "lightly" not in remedies(environment)


def test_doctor_repairs_opencv(environment: Environment) -> None:
    environment.succeed("pip install --no-deps --force-reinstall opencv-python-headless")
    environment.succeed(remedies(environment)["cv2"])
    assert "cv2" not in remedies(environment)


def test_doctor_installs_what_is_optional(environment: Environment) -> None:
    environment.succeed("pip uninstall -y matplotlib")
    environment.succeed(remedies(environment)["matplotlib"])
    environment.succeed("python -c 'import matplotlib'")


def test_a_plugin_names_the_commands_that_build_its_library(environment: Environment) -> None:
    environment.succeed("pip uninstall -y fast-slic")
    code = "from castssl.registry import build; build('superpixels', 'slic')"
    output = environment.run(f'python -c "{code}"').stderr
    (command,) = re.findall(r"`(pip install [^`]*fast-slic)`", output)
    environment.succeed(command)
    environment.succeed("python -c 'import fast_slic'")


def test_a_method_of_a_missing_plugin_names_the_command_that_installs_it(environment: Environment) -> None:
    environment.succeed("pip uninstall -y castssl-baselines")
    train = "python recipes/hcast.py --data demo:size=32,per_class=8 --method fgn --max-steps 1"
    (command,) = re.findall(r"`(pip install -e [^`]*castssl-baselines)`", environment.run(train).stderr)
    environment.succeed(command)
    environment.succeed(train)


@pytest.mark.parametrize(
    "command", ["pip install -e 'plugins/castssl-baselines[clip]'", "pip install faster-coco-eval"]
)
def test_the_commands_of_recipes_hierarchy(environment: Environment, command: str) -> None:
    assert command in (environment.folder / "recipes" / "hierarchy.md").read_text(encoding="utf-8")
    environment.succeed(command)


def test_castssl_alone_in_an_environment_of_ones_own(environment: Environment, tmp_path: Path) -> None:
    environment.succeed(f"python -m venv '{tmp_path}/own'")
    own = f"source '{tmp_path}/own/bin/activate'"
    environment.succeed(f"{own} && pip install . && castssl doctor", active=False)
    merged = environment.succeed(f"{own} && cd '{tmp_path}' && python -c '{MERGE}'", active=False)
    assert merged.split() == ["4", "2"]
