"""A run that was stopped and resumed, compared with one that never stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from castssl import step_files
from castssl.errors import ContractError
from castssl.training.run import RESULTS
from castssl.verification.job import RECORD

LEFT_OUT = {"config", "log"}
"""Entries of a checkpoint that differ between equal runs: the folder, and the length of the log."""
NAMES = {"module": "weights", "optimizer": "the optimizer's state", "random": "random streams"}


class Record(NamedTuple):
    """The steps that a process did."""

    images: dict[int, list[str]]
    """By step, from 1: a hash of each image."""
    losses: dict[int, list[float]]
    """By step: of each batch."""
    stop: int
    """The step after which a run is stopped that is to be stopped; 0 if it has too few steps."""
    within: bool
    """True if that is within an epoch."""
    resumable: bool
    """False for a stream."""

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """What the process of a folder left; None if it came to no step."""
        path = folder / RECORD
        if not path.is_file():
            return None
        found = json.loads(path.read_text())
        steps = {int(step): done for step, done in found["steps"].items()}
        images = {step: done["images"] for step, done in steps.items()}
        losses = {step: done["losses"] for step, done in steps.items()}
        return cls(images, losses, found["stop"], found["within"], found["resumable"])


def claim_same_images(straight: Record, stopped: Record, resumed: Record) -> None:
    """The resumed run goes on with the next step, and each step has the images that it has without a stop.

    Raises:
        ContractError: naming the step, and whose images it has instead.
    """
    last, first = max(stopped.images, default=0), min(resumed.images, default=0)
    if first != last + 1:
        raise ContractError(
            f"the run was stopped after step {last}, and its second start began with step {first}: it did not"
            " go on from its checkpoint; let run.prepare(objective, optimizer) come before run.steps(loader)"
        )
    for step, expected in straight.images.items():
        found = {**stopped.images, **resumed.images}.get(step, [])
        if found == expected:
            continue
        same = [other for other, images in straight.images.items() if images == found]
        case = f"has the images of step {same[0]}" if same else "has other images than the same step"
        raise ContractError(
            f"step {step}, {'after' if step > last else 'before'} the stop, {case} of a run that never"
            " stopped: a batch is repeated or left out; after set_epoch(epoch, start) the loader begins with"
            " batch `start` of the epoch"
        )


def first_difference(straight: Record, resumed: Record, folder: Path, other: Path) -> str:
    """What differs between two runs: a loss, a result, a part of the last checkpoint; "" if nothing does.

    Args:
        straight: the steps of a run.
        resumed: steps of another one.
        folder: of the first run.
        other: of the other one.
    """
    for step, losses in resumed.losses.items():
        if losses != straight.losses.get(step):
            return f"the loss of step {step} is {losses}, expected {straight.losses.get(step)}"
    results = [(place / RESULTS).read_text() for place in (folder, other) if (place / RESULTS).is_file()]
    if len(set(results)) > 1:
        return f"{RESULTS} has {results[1]}, expected {results[0]}"
    states = [_last(place) for place in (folder, other)]
    leaves = [dict(_leaves(state)) for state in states]
    names = [name for name in leaves[0] if not _equal(leaves[0][name], leaves[1].get(name))]
    names += [name for name in leaves[1] if name not in leaves[0]]
    if not names:
        return ""
    part, _, rest = names[0].partition(".")
    more = f", and in {len(names) - 1} other places" if len(names) > 1 else ""
    return f"{NAMES.get(part, part)} of the last checkpoint differ in {rest or part}{more}"


def _last(folder: Path) -> Mapping[str, object]:
    path = step_files.latest(folder / step_files.FOLDER).path
    if path is None:
        raise ContractError(f"no checkpoint was written to {step_files.FOLDER} of the run's folder")
    state = step_files.read(path)
    return {name: value for name, value in state.items() if name not in LEFT_OUT}


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{name}.{index}")
    else:
        yield name, value


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)
