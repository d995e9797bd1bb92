"""Runs a study's steps: what is finished is skipped, what was stopped goes on, what fails is shown.

One process a run, so that a crash of one cell leaves the others alone.  Each run continues by itself from
its last checkpoint, so starting the study again is all that it takes after a kill.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from castssl.ablations.grid import RESULTS, Cell, Step
from castssl.ablations.jobs import OUTPUT, PAUSE, STOPPED, Jobs, code

if TYPE_CHECKING:
    from submitit import Job

State = Literal["finished", "failed", "stopped", "waits", "runs"]
CLOCK = "seconds.json"
LOCK = ".lock"


class Told(NamedTuple):
    """A step has changed its state."""

    step: Step
    state: State
    done: int
    """Steps that will not run any more."""
    total: int


def steps_of(cells: Sequence[Cell]) -> list[Step]:
    """The steps of all cells, each once, none before the one that it follows."""
    return list(dict.fromkeys(step for cell in cells for step in cell.steps))


def run(
    steps: Sequence[Step], out: Path, jobs: Jobs, *, at_once: int = 1, stop: Callable[[], object] = bool
) -> Iterator[Told]:
    """Run what is not finished, ``at_once`` steps together, telling each change of state.

    Args:
        steps: none before the one that it follows.
        out: the study's folder.
        jobs: of this study.
        at_once: how many run together.
        stop: true once all runs shall save and end.

    Raises:
        KeyboardInterrupt: when they have.
    """
    states: dict[Step, State] = dict.fromkeys(steps, "waits")
    running: dict[Step, tuple[Job[int], float]] = {}

    def told(step: Step, state: State) -> Told:
        states[step] = state
        over = sum(state in ("finished", "failed", "stopped") for state in states.values())
        return Told(step, state, over, len(states))

    for step in steps:
        if step.results(out) is not None:
            yield told(step, "finished")
    while "waits" in states.values() or running:
        for step in [step for step, state in states.items() if state == "waits"]:
            before = states[step.after] if step.after else "finished"
            if before in ("failed", "stopped"):
                yield told(step, before)
            elif before == "finished" and len(running) < at_once and not (stop() or busy(step.folder(out))):
                running[step] = (jobs.start(step), time.monotonic())
                yield told(step, "runs")
        if stop():
            jobs.stop()
            raise KeyboardInterrupt
        for step, (job, began) in list(running.items()):
            ended = code(job, step.folder(out))
            if ended is not None:
                del running[step]
                _clock(step.folder(out), time.monotonic() - began)
                yield told(step, _state(step, out, ended))
        time.sleep(PAUSE)


def busy(folder: Path) -> bool:
    """True if a run is at work in a folder; it may be one that an earlier, killed engine started."""
    try:
        import fcntl

        with (folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def _state(step: Step, out: Path, code: int) -> State:
    if code == STOPPED:
        return "stopped"
    return "finished" if code == 0 and (step.folder(out) / RESULTS).is_file() else "failed"


def _clock(folder: Path, seconds: float) -> None:
    """Add to the time that the run has taken over all its starts."""
    with contextlib.suppress(OSError):
        (folder / CLOCK).write_text(json.dumps(seconds_of(folder) + seconds), encoding="utf-8")


def seconds_of(folder: Path) -> float:
    """How long a run has taken, over all its starts; 0 if unknown."""
    try:
        return float(json.loads((folder / CLOCK).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return 0.0


def last_words(folder: Path, lines: int = 15) -> str:
    """The end of what a run printed."""
    try:
        return "\n".join(
            (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        )
    except OSError:
        return "(it printed nothing)"
