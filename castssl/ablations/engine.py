"""Runs a study's steps: what is finished is skipped, what was stopped goes on, what fails is shown.

One process a run, so that a crash of one cell leaves the others alone.  Each run continues by itself from
its last checkpoint, so starting the study again is all that it takes after a kill.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from castssl.ablations.grid import RESULTS, Cell, Step

State = Literal["finished", "failed", "stopped", "waits", "runs"]
OUTPUT = "output.txt"
"""What a run printed, in its folder."""
CLOCK = "seconds.json"
LOCK = ".lock"
STOPPED = 75
PAUSE = 0.2


class Job(Protocol):
    """A step that was started."""

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        ...

    def stop(self) -> None:
        """Ask it to save and end."""
        ...


Start = Callable[[Step], Job]


class Told(NamedTuple):
    """A step has changed its state."""

    step: Step
    state: State
    done: int
    """Steps that will not run any more."""
    total: int


class Local:
    """Starts runs as processes of this machine, ``jobs`` of them sharing its cores.

    Args:
        out: the study's folder.
        jobs: how many run at once.
        launcher: in place of the interpreter, such as ``accelerate launch``.
    """

    def __init__(self, out: Path, jobs: int = 1, launcher: Sequence[str] = ()) -> None:
        self._out, self._launcher = out, tuple(launcher)
        # Threads of several runs that wait for each other on one core would spin.
        share = max(1, (os.cpu_count() or 1) // jobs)
        defaults = {"OMP_NUM_THREADS": str(share), "OMP_WAIT_POLICY": "PASSIVE"}
        self._environment = defaults | dict(os.environ)

    def __call__(self, step: Step) -> Job:
        """Start one step; what it prints goes to its folder."""
        folder = step.folder(self._out)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / OUTPUT).open("a", encoding="utf-8") as output:
            process = subprocess.Popen(
                step.command(self._out, self._launcher),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops its runs.
            )
        return _Process(process)


class _Process:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)


def steps_of(cells: Sequence[Cell]) -> list[Step]:
    """The steps of all cells, each once, none before the one that it follows."""
    return list(dict.fromkeys(step for cell in cells for step in cell.steps))


def run(steps: Sequence[Step], out: Path, start: Start, *, jobs: int = 1) -> Iterator[Told]:
    """Run what is not finished, ``jobs`` at once, telling each change of state.

    On KeyboardInterrupt (Ctrl-C) all runs are asked to save and end, and waited for.
    """
    states: dict[Step, State] = dict.fromkeys(steps, "waits")
    running: dict[Step, tuple[Job, float]] = {}

    def told(step: Step, state: State) -> Told:
        states[step] = state
        over = sum(state in ("finished", "failed", "stopped") for state in states.values())
        return Told(step, state, over, len(states))

    for step in steps:
        if step.results(out) is not None:
            yield told(step, "finished")
    try:
        while "waits" in states.values() or running:
            for step in [step for step, state in states.items() if state == "waits"]:
                before = states[step.after] if step.after else "finished"
                if before in ("failed", "stopped"):
                    yield told(step, before)
                elif before == "finished" and len(running) < jobs and not busy(step.folder(out)):
                    running[step] = (start(step), time.monotonic())
                    yield told(step, "runs")
            for step, (job, began) in list(running.items()):
                code = job.poll()
                if code is not None:
                    del running[step]
                    _clock(step.folder(out), time.monotonic() - began)
                    yield told(step, _state(step, out, code))
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        for job, _ in running.values():
            job.stop()
        while any(job.poll() is None for job, _ in running.values()):
            time.sleep(PAUSE)
        raise


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
