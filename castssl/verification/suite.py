"""The checks of a recipe with its flags; each starts the recipe in processes of its own.

A check returns a sentence with what was found, and raises ContractError if the promise is broken, or
:class:`castssl.verification.measure.Inapplicable` if it cannot be made of this recipe.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from castssl.errors import ConfigError, ContractError
from castssl.testing.processes import together
from castssl.training import STOPPED
from castssl.verification.job import EXIT, FINDING, GRADIENTS, Job, Purpose
from castssl.verification.measure import Gradients, Inapplicable, agree
from castssl.verification.process import work
from castssl.verification.resume import Record, claim_same_images, first_difference

STEPS = 4
"""Optimizer steps of the runs that are compared."""
TRAINING = ("--max-steps", str(STEPS), "--save-every", "1", "--log-every", "1", "--track", "none")
MEASURING = ("--precision", "fp32", "--track", "none")
SHOWN = 1500
"""Characters of a recipe's output in a message."""
LIMIT = 1800.0
PRELOAD = (
    *("castssl.verification.process", "castssl.data.loader", "castssl.data.views", "castssl.models.create"),
    *("castssl.evaluation.held_out", "castssl.evaluation.knn", "castssl.checkpoints.initialize"),
    *("castssl.evaluation.collapse", "castssl.evaluation.matching", "castssl.evaluation.overlap"),
    *("castssl.visualization.gallery", "castssl.objectives.moco", "castssl.training.configs", "typeguard"),
    *("castssl.datasets.open", "castssl.superpixels.seeds", "castssl.pooling.graph", "rich._emoji_codes"),
)
"""What recipes import, and each process would else import anew."""
NO_STEP = "the recipe made no optimizer step of castssl.training.Run.steps: nothing can be checked"
Result = Literal["passed", "failed", "not applicable", "skipped"]


class Verdict(NamedTuple):
    """The result of one check."""

    name: str
    result: Result
    text: str
    """What was found, or why nothing was."""
    seconds: float


class Started(NamedTuple):
    """A recipe that has run."""

    folder: Path
    """What its processes noted."""
    out: Path
    """The run's folder."""
    code: int
    """Its exit code."""
    output: str
    """The end of what it printed."""


class Suite:
    """The checks of one recipe.

    Args:
        recipe: its file.
        flags: as typed behind its name.
        folder: an existing folder for the runs.
        evaluate: also evaluate on held-out images in the runs that are stopped and resumed.
        limit: seconds after which a process is given up.
    """

    def __init__(
        self,
        recipe: Path,
        flags: Collection[str],
        folder: Path,
        *,
        evaluate: bool = False,
        limit: float = LIMIT,
    ) -> None:
        self.recipe, self.flags, self.folder = recipe, tuple(flags), folder
        self.evaluate, self.limit = evaluate, limit
        self._runs = False

    def __call__(self, name: str) -> Verdict:
        """Make one of :data:`CHECKS`.

        Raises:
            ConfigError: if the recipe refuses the flags, or is none of castssl; nothing was checked.
        """
        result: Result = "passed"
        began = time.perf_counter()
        try:
            text = CHECKS[name](self)
        except Inapplicable as reason:
            result, text = "not applicable", str(reason)
        except ContractError as fault:
            result, text = "failed", str(fault)
        return Verdict(name, result, text, time.perf_counter() - began)

    def train(self, name: str, purpose: Purpose = "train", *, out: str | None = None) -> Started:
        """A few steps of the recipe, in the run's folder ``out``, which is ``name`` where it is not given."""
        return self._start(name, purpose, TRAINING, out=out)

    def measure(self, purpose: Purpose, world: int = 1) -> Started:
        """The recipe up to its first optimizer step, where something is measured.

        Raises:
            ConfigError: if it has no optimizer step.
            ContractError: if it does not come so far.
        """
        name = purpose if world == 1 else f"{purpose}-{world}"
        started = self._start(name, purpose, MEASURING, world=world)
        if started.code:
            raise ContractError(ended(started, f"with {world} processes" if world > 1 else ""))
        if not (started.folder / (GRADIENTS if purpose == "gradients" else FINDING)).exists():
            raise ConfigError(NO_STEP)
        return started

    def gradients(self, world: int) -> Gradients:
        """Loss and gradients of the first optimizer step with so many processes.

        Raises:
            ContractError: if the recipe does not come so far.
        """
        started = self.measure("gradients", world)
        found: dict[str, Any] = torch.load(started.folder / GRADIENTS, weights_only=True)
        return Gradients(**found)

    def finding(self, purpose: Purpose) -> str:
        """What a measurement found.

        Raises:
            ContractError: if it found a fault, or the recipe does not come so far.
            Inapplicable: if it cannot be made.
        """
        found = json.loads((self.measure(purpose).folder / FINDING).read_text())
        if found["verdict"] == "failed":
            raise ContractError(found["text"])
        if found["verdict"] == "not applicable":
            raise Inapplicable(found["text"])
        return str(found["text"])

    def _start(
        self,
        name: str,
        purpose: Purpose,
        flags: Collection[str],
        *,
        world: int = 1,
        out: str | None = None,
    ) -> Started:
        folder, place = self.folder / f"{name}-notes", self.folder / (out or name)
        folder.mkdir()
        words = (*self.flags, *flags, "--out", str(place))
        threads = max(1, torch.get_num_threads() // world)
        job = Job(str(self.recipe), words, str(folder), purpose, world, threads, self.evaluate)
        fault = ""
        try:
            together(work, job, world=world, limit=self.limit, preload=PRELOAD)
        except ContractError as error:
            fault = str(error)
        codes = [path.read_text() for path in sorted(folder.glob(f"{EXIT}-*"))]
        code = next((int(code) for code in codes if code != "0"), 0 if len(codes) == world else -1)
        outputs = [path.read_text(errors="replace") for path in sorted(folder.glob("output-*.txt"))]
        started = Started(folder, place, code, fault if code == -1 else "\n".join(outputs)[-SHOWN:].strip())
        if not self._runs and code not in (0, STOPPED):
            raise ConfigError(f"{self.recipe} does not run with these flags; {ended(started)}")
        self._runs = True
        return started


def ended(started: Started, case: str = "") -> str:
    """How a recipe ended that should have gone on, with the end of what it printed."""
    end = f"ended with exit code {started.code}" if started.code >= 0 else "failed"
    return f"the recipe {case + ' ' if case else ''}{end}:\n{started.output}"


def _record(started: Started, *codes: int) -> Record:
    """The steps of a run that ended with one of these exit codes."""
    found = Record.read(started.folder)
    if started.code not in codes:
        raise ContractError(ended(started))
    if found is None:
        raise ConfigError(NO_STEP)
    return found


def resumed(suite: Suite) -> str:
    """A run that is stopped by SIGTERM and started again equals one that never stopped, bit for bit."""
    straight = suite.train("straight")
    expected = _record(straight, 0)
    if not expected.resumable:
        raise Inapplicable("a stream does not go on exactly where it was stopped")
    if not expected.stop:
        raise Inapplicable(f"the run has {len(expected.images)} steps; raise --epochs, or lower --batch-size")
    before = _record(suite.train("stopped", "stop"), STOPPED)
    again = suite.train("resumed", out="stopped")
    after = _record(again, 0)
    claim_same_images(expected, before, after)
    parts = before._replace(losses={**before.losses, **after.losses})
    if difference := first_difference(expected, parts, straight.out, again.out):
        second = suite.train("straight-again")
        if first_difference(expected, _record(second, 0), straight.out, second.out):
            difference += "; two runs that never stop differ, too, so training is not deterministic here"
        raise ContractError(f"after a stop after step {before.stop}: {difference}")
    where = "within" if before.within else "at the end of"
    steps = max(expected.images)
    return f"{steps} steps, a stop after step {before.stop} {where} an epoch: equal bit for bit"


def processes(suite: Suite) -> str:
    """Two processes have the images, the loss and the gradients of one."""
    single = suite.gradients(1)
    if not single.resumable:
        raise Inapplicable("of a stream, two processes read other images than one")
    pair = suite.gradients(2)
    if sorted(single.images) != sorted(pair.images):
        missing = len(set(single.images) - set(pair.images))
        raise ContractError(
            f"two processes have other images than one: {missing} of the {len(single.images)} of the first"
            f" step are missing, or come twice; the loader must divide each batch between processes"
        )
    return agree(single, pair, "a pair of processes", "one process")


CHECKS: Mapping[str, Callable[[Suite], str]] = {
    "resume": resumed,
    "processes": processes,
    "batch": lambda suite: suite.finding("batches"),
    "export": lambda suite: suite.finding("torch-export"),
    "onnx": lambda suite: suite.finding("onnx"),
    "compiled": lambda suite: suite.finding("compiled"),
}
"""What makes each of :data:`castssl.verification.promises.PROMISES`."""
