"""Real processes: what is finished is skipped, what failed is shown and tried again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from castssl.ablations import engine
from castssl.ablations.engine import Jobs
from castssl.ablations.grid import Study
from castssl.errors import ConfigError
from castssl.run_lock import in_use

RECIPE = Path(__file__).with_name("recipe.py")


def study(**changes: object) -> Study:
    options = {"title": "t", "recipe": RECIPE, "grid": {"pooling": ["graph", "tome"], "seed": ["0", "1"]}}
    return Study(**{**options, **changes})  # type: ignore[arg-type]


def states(chosen: Study, out: Path, jobs: Jobs) -> dict[str, str]:
    last = {}
    for event in engine.run(engine.steps_of(chosen.cells()), out, jobs, at_once=2):
        last[event.step.name] = str(event.state)
    assert event.done == event.total == len(last)
    return last


def starts(out: Path) -> list[int]:
    return sorted(len(path.read_text()) for path in out.glob("*/starts.txt"))


def test_finished_runs_are_not_started_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert set(states(study(), tmp_path, Jobs(tmp_path, at_once=2)).values()) == {"finished"}
    assert starts(tmp_path) == [1, 1, 1, 1]
    assert all(engine.seconds_of(path.parent) > 0 for path in tmp_path.glob("*/results.json"))


def test_a_failure_leaves_the_others_alone_and_is_tried_again(tmp_path: Path) -> None:
    broken = study(flags=["--fail", "tome"], then=RECIPE)
    chosen = states(broken, tmp_path, Jobs(tmp_path, at_once=2))
    assert sorted(chosen.values()) == ["failed"] * 4 + ["finished"] * 4
    steps = engine.steps_of(broken.cells())
    failed = next(step for step in steps if "pooling=tome" in step.name)
    assert "the reason why" in engine.last_words(failed.folder(tmp_path))
    states(broken, tmp_path, Jobs(tmp_path, at_once=2))
    assert starts(tmp_path) == [1, 1, 1, 1, 2, 2]


def test_a_run_that_another_process_works_on_is_waited_for(tmp_path: Path) -> None:
    (step, *_) = engine.steps_of(study().cells())
    folder = step.folder(tmp_path)
    folder.mkdir(parents=True)
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX);"
        " print(flush=True); time.sleep(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / ".lock")], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert in_use(folder)
        list(engine.run([step], tmp_path, Jobs(tmp_path)))
        assert other.poll() is not None
    assert not in_use(folder)
    assert step.results(tmp_path)


def test_what_submitit_refuses_is_said(tmp_path: Path) -> None:
    for wrong in ({"no_such_thing": 1}, {"timeout_min": "long"}):
        with pytest.raises(ConfigError, match="--cluster local: .*" + next(iter(wrong))):
            states(study(), tmp_path, Jobs(tmp_path, parameters=wrong))


def test_damaged_results_are_computed_again(tmp_path: Path) -> None:
    (step, *_) = engine.steps_of(study().cells())
    step.folder(tmp_path).mkdir(parents=True)
    for damaged in ("", "{", "[]", "\0\0"):
        (step.folder(tmp_path) / "results.json").write_text(damaged)
        assert step.results(tmp_path) is None
