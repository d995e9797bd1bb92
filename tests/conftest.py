"""Small data sets that several rooms look at."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from castssl.ablations.engine import OUTPUT, Jobs
from castssl.ablations.grid import Step
from castssl.datasets.demo import dataset as demo
from tests import forked
from tests.datasets.image_files import LAYOUT, write


def pytest_collection_finish() -> None:
    """Later garbage collections do not visit what has been imported."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """What processes are forked from ends with the tests."""
    gc.unfreeze()
    for name in ("tests.forked", "castssl.testing.processes"):
        if module := sys.modules.get(name):
            module.stop()


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made once by whichever process of the session is first; use it under a lock."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 32-pixel images of eight classes, six of each to train on, with masks.

    Their surroundings are fixed: 32 pixels show no textures of parts.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASTSSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return demo.root(size=32, per_class=6, surroundings="fixed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two splits of two label levels; val lacks the class dog."""
    return write(tmp_path / "set", [*LAYOUT, "val/animal/cat/e.png", "val/plant/oak/f.png"])


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Twelve images of three classes, no splits."""
    return write(tmp_path / "flat", [f"{'abc'[i % 3]}/{i:02}.png" for i in range(12)])


class EndedJob(NamedTuple):
    """What :mod:`castssl.ablations.engine` reads of a job of submitit."""

    code: int

    def done(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> int:
        return self.code


@pytest.fixture
def forked_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a study are forked, one after another, for tests of its recipe and not of its processes."""

    def start(jobs: Jobs, step: Step) -> EndedJob:
        folder = step.folder(jobs._out)
        folder.mkdir(parents=True)
        done = forked.run(step.command(jobs._out)[1:], cwd=Path.cwd())
        (folder / OUTPUT).write_text(done.stdout + done.stderr)
        return EndedJob(done.returncode)

    monkeypatch.setattr(Jobs, "start", start)
