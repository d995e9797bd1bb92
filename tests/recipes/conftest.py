"""Recipes as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.checkpoints import read
from castssl.checkpoints.unfinished import newest
from tests import forked
from tests.forked import ENVIRONMENT, ROOT, TIMEOUT, Forked

Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def recipe() -> Runner:
    """Run a recipe and wait for it; ``processes`` of them if more than one."""

    def run(name: str, *flags: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        return forked.run([f"recipes/{name}.py", *flags], processes=processes)

    return run


@pytest.fixture(scope="package")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Squares whose color is their class, in images of two sizes."""
    root, draw = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    (root / "classes.txt").write_text("sky\nsea\nland\n")
    for split, count in (("train", 12), ("val", 3)):
        for at in range(count):
            labels = draw.integers(0, 3, (3, 3)).repeat(16, 0).repeat(12 + at % 2, 1)
            image = np.eye(3)[labels] * 200 + draw.integers(0, 50, (*labels.shape, 3))
            for folder, pixels in (("images", image), ("labels", labels)):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(root / folder / split / f"{at}.png")
    return f"pairs:{root}"


def keeps_what_it_leaves(folder: Path) -> None:
    """Hold the last checkpoint of a finished run against the weights that it wrote at its end."""
    left, kept = read(folder / "encoder.safetensors"), newest(folder)
    for name in ("config", "objective", "options", "labels", "palette"):
        assert getattr(kept, name) == getattr(left, name)
    for name in ("encoder", "heads", "extra"):
        expected, found = getattr(left, name), getattr(kept, name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[tensor], value) for tensor, value in expected.items())


class Started:
    """A command that runs in the background, in a process group of its own as a shell would start it.

    A recipe that Python alone would start is forked.
    """

    def __init__(self, command: Sequence[str], output: Path, environment: dict[str, str]) -> None:
        self._output = output
        self._process: Forked | subprocess.Popen[bytes]
        if command[0] == sys.executable and command[1].startswith("recipes/"):
            output.touch()
            self._process = Forked(command[1:], output, output, environment)
            return
        with open(output, "wb") as file:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def interrupt(self) -> None:
        """Ctrl-C: the terminal tells the whole process group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def signal(self, number: int) -> None:
        """Tell the process alone."""
        self._process.send_signal(number)

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def code(self) -> int:
        """The exit code once it has ended."""
        return self._process.wait(TIMEOUT)

    def output(self) -> str:
        """What it printed."""
        return self._output.read_text(errors="replace")

    def stop(self) -> None:
        """End it, however it stands."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def children(pid: int, program: str) -> list[int]:
    """The children of a process that run the script called ``program``."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in found if f"/{program}\0" in Path(f"/proc/{child}/cmdline").read_text()]


Starter = Callable[..., Started]


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    """Start a command; ``python``: its arguments are those of Python, ``path``: where else programs lie."""
    started: list[Started] = []

    def run(words: Sequence[str], *, python: bool = True, path: Path | None = None, **own: str) -> Started:
        environment = os.environ | ENVIRONMENT | own
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}" if path else environment["PATH"]
        command = [*([sys.executable] if python else []), *words]
        started.append(Started(command, tmp_path / f"told-{len(started)}.txt", environment))
        return started[-1]

    yield run
    for one in started:
        one.stop()
