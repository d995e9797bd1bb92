"""``castssl check run`` on recipes with a fault, and on all recipes: real processes, minutes each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from castssl.cli import main
from castssl.verification.promises import PROMISES
from tests.forked import ROOT
from tests.soak.soak import RECIPES, WEIGHTED, _data, _weights

FAULTY = str(Path(__file__).parents[1] / "verification" / "faulty.py")


def verdicts(shown: str) -> Mapping[str, str]:
    """The verdict of each check in a printed table, with its text."""
    found: dict[str, str] = {}
    name = ""
    for line in shown.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) == 4:
            name = cells[0] or name
            found[name] = f"{found.get(name, '')} {cells[2]}".strip()
    return found


def only(*names: str) -> list[str]:
    """The options that leave out all other checks."""
    return [word for name in names for word in ("--only", name)]


class Case(NamedTuple):
    """A fault of the recipe, and what is to be found."""

    fault: str
    checks: tuple[str, ...]
    """Those that are made."""
    failed: str
    """The one that fails."""
    words: str
    """Part of its message."""


@pytest.mark.parametrize(
    "case",
    [
        Case(
            "repeats", ("resume", "processes"), "resume", "step 3, after the stop, has the images of step 2"
        ),
        Case("clock", ("resume", "batch"), "resume", "two runs that never stop differ, too"),
        Case("forgets", ("resume", "processes", "batch"), "processes", "a pair of processes has the loss"),
        Case("overlaps", ("resume", "processes", "batch"), "processes", "two processes have other images"),
        Case(
            "neighbors", ("processes", "batch", "export"), "batch", "image 0 of 7 alone has another features"
        ),
        Case("frozen", ("resume", "batch", "export"), "export", "has a frozen batch size"),
        Case(
            "exported", ("processes", "batch", "export"), "export", "the exported model has another features"
        ),
        Case("compiled", ("batch", "export", "compiled"), "compiled", "the compiled encoder has the loss"),
    ],
    ids=lambda case: case.fault,
)
def test_a_fault_fails_its_check_alone(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    assert main(["check", "run", *only(*case.checks), FAULTY, "--fault", case.fault]) == 1
    shown = verdicts(capsys.readouterr().out)
    expected = {name: "failed" if name == case.failed else "passed" for name in case.checks}
    assert {name: shown[name].partition(":")[0] for name in case.checks} == expected, shown
    assert case.words in shown[case.failed]


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("stream", "resume", "a stream does not go on"),
        ("stream", "processes", "two processes read other images"),
        ("short", "resume", "the run has 1 steps"),
        ("random", "processes", "draws random numbers"),
    ],
)
def test_what_cannot_be_checked_has_not_passed(
    fault: str, check: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    assert main(["check", "run", "--only", check, FAULTY, "--fault", fault, "--epochs", "1"]) == 1
    shown = verdicts(capsys.readouterr().out)[check]
    assert shown.startswith("not applicable: ")
    assert words in shown


def test_what_did_not_compile_has_not_passed() -> None:
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "COLUMNS": "300"}
    command = [sys.executable, "-m", "castssl.cli", "check", "run", "--only", "compiled", FAULTY]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "not applicable: torch.compile compiled nothing" in done.stdout


@pytest.mark.parametrize("check", PROMISES)
def test_a_recipe_without_a_step_is_no_recipe(
    check: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.py").write_text("")
    assert main(["check", "run", "--only", check, str(tmp_path / "empty.py")]) == 2
    assert "made no optimizer step" in capsys.readouterr().err


def test_the_sound_recipe_passes_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "run", FAULTY]) == 0
    assert f"{len(PROMISES)} of {len(PROMISES)} checks passed" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_passes_every_check(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the small flags of the soak test; evaluations included."""
    monkeypatch.setenv("COLUMNS", "300")
    weights = ["--weights", str(_weights(tmp_path))] if recipe in WEIGHTED else []
    flags = [*RECIPES[recipe], "--data", _data(recipe, tmp_path), "--epochs", "3", *weights]
    code = main(["check", "run", "--evaluate", recipe, *flags])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert set(verdicts(shown)) == set(PROMISES)
    assert "skipped" not in shown


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_stop_leaves_no_process_behind(number: signal.Signals, tmp_path: Path) -> None:
    """Nor a folder; only what is killed cannot delete its own."""
    # A shell that starts the tests in the background lets them ignore SIGINT.
    python = ["env", "--default-signal=INT", "--default-signal=HUP", sys.executable]
    command = [*python, "-m", "castssl.cli", "check", "run", FAULTY]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith("2 of"):
                    break
            process.send_signal(number)
            code = process.wait(60)
        finally:
            process.kill()
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    end = time.monotonic() + 60
    while (left := _mentioning(str(tmp_path))) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob("castssl-check-*"))


def _mentioning(text: str) -> list[int]:
    """Processes that have this text among their variables."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if re.search(re.escape(text.encode()), content):
            found.append(int(path.parent.name))
    return found
