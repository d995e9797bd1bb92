"""Runs a study's steps: what is finished is skipped, what was stopped continues, what fails is shown.

One process per run, so a crash of one cell leaves the others alone.  Each run continues by itself from
its last checkpoint, so a killed study continues when it is started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from castssl.ablations.grid import RESULTS, Cell, Step
from castssl.errors import ConfigError, printable
from castssl.outputs import no_link
from castssl.run_lock import in_use

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

State = Literal["finished", "failed", "stopped", "waits", "runs"]
CLOCK = "seconds.json"
OUTPUT = "output.txt"
"""What a run printed, in its folder."""
FILES = "submitit"
"""The folder of submitit's files, in that of a run."""
STOP = "stop"
"""The file among them that makes the run save and end."""
STOPPED = 75
"""The exit code of a run that has saved, and continues at its next start."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a study."""
END_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""Signals before the end of a job; submitit requests the second from SLURM before the time limit."""
YEARS = 10 * 365 * 24 * 60
"""Minutes; submitit's own limit for a process of this machine is two."""
PAUSE = 0.2


class Event(NamedTuple):
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
) -> Iterator[Event]:
    """Run what is not finished, ``at_once`` steps together, and yield each change of state.

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

    def changed(step: Step, state: State) -> Event:
        states[step] = state
        over = sum(state in ("finished", "failed", "stopped") for state in states.values())
        return Event(step, state, over, len(states))

    for step in steps:
        if step.results(out) is not None:
            yield changed(step, "finished")
    while "waits" in states.values() or running:
        for step in [step for step, state in states.items() if state == "waits"]:
            before = states[step.after] if step.after else "finished"
            if before in ("failed", "stopped"):
                yield changed(step, before)
            elif before == "finished" and len(running) < at_once and not (stop() or in_use(step.folder(out))):
                running[step] = (jobs.start(step), time.monotonic())
                yield changed(step, "runs")
        if stop():
            jobs.stop()
            raise KeyboardInterrupt
        for step, (job, began) in list(running.items()):
            ended = code(job, step.folder(out))
            if ended is not None:
                del running[step]
                _clock(step.folder(out), time.monotonic() - began)
                yield changed(step, _state(step, out, ended))
        time.sleep(PAUSE)


def _state(step: Step, out: Path, code: int) -> State:
    if code == STOPPED:
        return "stopped"
    return "finished" if code == 0 and (step.folder(out) / RESULTS).is_file() else "failed"


def _clock(folder: Path, seconds: float) -> None:
    """Add to the time that the run has taken over all its starts."""
    with contextlib.suppress(OSError):
        text = json.dumps(seconds_of(folder) + seconds)
        with open(folder / CLOCK, "w", encoding="utf-8", opener=no_link) as file:
            file.write(text)


def seconds_of(folder: Path) -> float:
    """How long a run has taken, over all its starts; 0 if unknown."""
    try:
        return float(json.loads((folder / CLOCK).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return 0.0


def last_words(folder: Path, lines: int = 15) -> str:
    """The end of what a run printed, with control characters as escapes."""
    try:
        text = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(it printed nothing)"
    return printable("\n".join(text.splitlines()[-lines:]))


class Jobs:
    """Starts runs and stops them; for all jobs of one study.

    Args:
        out: the study's folder, seen by all machines.
        cluster: "local" for processes of this machine, or "slurm".
        at_once: how many share the cores of this machine.
        parameters: submitit's, such as ``timeout_min``, ``slurm_partition``, ``gpus_per_node``.
        launcher: in place of the interpreter, such as ``accelerate launch``.
    """

    def __init__(
        self,
        out: Path,
        cluster: str = "local",
        at_once: int = 1,
        parameters: Mapping[str, Any] | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        self._out, self._cluster, self._launcher = out, cluster, tuple(launcher)
        self._parameters = {"name": f"castssl-{out.name}", **(parameters or {})}
        self._jobs: list[tuple[Job[int], Path]] = []
        # Threads of several runs that wait for each other on one core would spin.
        defaults: dict[str, str | None] = {"OMP_WAIT_POLICY": "PASSIVE"}
        if cluster == "local":
            self._parameters = {"timeout_min": YEARS} | self._parameters
            defaults["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))
            if "gpus_per_node" not in self._parameters:
                defaults["CUDA_VISIBLE_DEVICES"] = None  # Submitit hides all devices.
        self._environment = {name: os.environ.get(name, value) for name, value in defaults.items()}

    def start(self, step: Step) -> Job[int]:
        """Submit one step; what it prints goes to its folder.

        Raises:
            ConfigError: if the cluster is unavailable, or refuses the parameters.
        """
        from submitit import AutoExecutor

        folder = step.folder(self._out).absolute()
        files = folder / FILES
        # Submitit names files by the process, whose number may have been that of an earlier one.
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir(parents=True)
        run = Run(step.command(self._out, self._launcher), folder, self._environment)
        # A terminal sends these to submitit's processes, too, which inherit that they are blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            executor = AutoExecutor(folder=files, cluster=self._cluster)
            executor.update_parameters(**self._parameters)
            job = executor.submit(run)
            self._jobs.append((job, files))
        except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
            raise ConfigError(f"--cluster {self._cluster}: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return job

    def stop(self) -> None:
        """Ask all runs to save and end, and wait for them; queued jobs are canceled."""
        running = []
        for job, files in self._jobs:
            (files / STOP).touch()
            if self._cluster == "local" or job.paths.stdout.exists():
                running.append(job)
            else:
                job.cancel(check=False)
        while not all(job.done() for job in running):
            time.sleep(PAUSE)


def code(job: Job[int], folder: Path) -> int | None:
    """The exit code of a job's run, or None while it runs; why there is none is added to the run's output."""
    if not job.done():
        return None
    if (error := job.exception()) is None:
        return job.result()
    with open(folder / OUTPUT, "a", encoding="utf-8", opener=no_link) as output:
        output.write(f"\n{error}\n")
    return 1


@dataclass
class Run:
    """The work of a job on any machine: a process whose output goes to the folder."""

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str | None]
    """Variables that the process has or, if None, has not."""

    def __call__(self) -> int:
        """The exit code; a stop file, or a signal that ends the job, sends one SIGTERM to the process."""
        received: list[int] = []
        handlers = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, *END_SIGNALS)}
        for number, handler in handlers.items():
            if handler != signal.SIG_IGN:  # As under nohup, which is meant for the process, too.
                signal.signal(number, lambda number, _: received.append(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if self._ending(received):
            return STOPPED
        variables = {**os.environ, **self.environment}
        with open(self.folder / OUTPUT, "a", encoding="utf-8", opener=no_link) as output:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in variables.items() if value is not None},
                start_new_session=True,  # What is sent to a whole group does not reach it.
            )
        while process.poll() is None and not self._ending(received):
            time.sleep(PAUSE)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
        requeue = handlers[signal.SIGUSR2]
        if process.wait() == STOPPED and signal.SIGUSR2 in received and callable(requeue):
            requeue(signal.SIGUSR2, None)
        return process.returncode

    def checkpoint(self) -> DelayedSubmission:
        """The job that submitit puts into the queue again: it continues from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _ending(self, received: Sequence[int]) -> bool:
        return any(number in END_SIGNALS for number in received) or (self.folder / FILES / STOP).exists()
