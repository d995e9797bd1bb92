"""What a user meets: tests that go through the command line or the public names only.

They hold what a file, a folder or a flag must lead to, so that they outlive any rearrangement of the code.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from castssl.cli import main
from tests import forked
from tests.forked import ROOT


class Finished(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run ``castssl ARGUMENTS`` within this process: for all that needs no process of its own."""

    def run(*arguments: str | Path) -> Finished:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        captured = capfd.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture
def script(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``python recipes/SCRIPT ARGUMENTS`` within this process; a failed run keeps its folder locked."""

    def run(name: str | Path, *arguments: str | Path) -> Finished:
        capfd.readouterr()
        path, code = str(ROOT / "recipes" / name), 0
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        captured = capfd.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def process() -> Command:
    """Run ``python ARGUMENTS`` as a process at the project's root; keywords are environment variables.

    It is forked, see :mod:`tests.forked`: what is about the start of an interpreter needs one of its own.
    """

    def run(*arguments: str | Path, **environment: str) -> Finished:
        done = forked.run([*map(str, arguments)], environment=environment)
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
