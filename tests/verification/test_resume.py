from __future__ import annotations

from pathlib import Path

import pytest
import torch

from castssl.errors import ContractError
from castssl.training import checkpoint
from castssl.verification.resume import Record, claim_same_images, first_difference


def record(first: int, *images: str) -> Record:
    """Steps from ``first`` on, of one image and a loss each."""
    steps = dict(enumerate(images, first))
    return Record({n: [name] for n, name in steps.items()}, {step: [0.5] for step in steps}, 2, True, True)


STRAIGHT = record(1, "a", "b", "c", "d")


def test_a_run_that_goes_on_is_the_same() -> None:
    claim_same_images(STRAIGHT, record(1, "a", "b"), record(3, "c", "d"))


@pytest.mark.parametrize(
    ("stopped", "resumed", "words"),
    [
        (record(1, "a", "b"), record(3, "b", "c"), r"step 3, after the stop, has the images of step 2 of a"),
        (record(1, "a", "b"), record(3, "c", "x"), r"step 4, after the stop, has other images than the same"),
        (record(1, "a", "x"), record(3, "c", "d"), r"step 2, before the stop, has other images"),
        (record(1, "a", "b"), record(3, "c"), r"step 4, after the stop, has other images"),
        (
            record(1, "a", "b"),
            record(1, "a", "b", "c", "d"),
            r"its second start began with step 1: it did not",
        ),
    ],
)
def test_other_images_are_named(stopped: Record, resumed: Record, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        claim_same_images(STRAIGHT, stopped, resumed)


def run(folder: Path, *, weight: float = 1.0, draws: int = 3, config: str = "{}") -> Path:
    """A run's folder with a checkpoint."""
    module = {"a": torch.ones(2), "b": torch.tensor([weight, float("nan")][:1])}
    state = {"module": module, "random": [{"python": (3, (draws,), None)}], "config": config, "step": 4}
    checkpoint.save(folder / "checkpoints", state, step=4, keep=1)
    return folder


def test_checkpoints_are_compared_bit_for_bit(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    same = run(tmp_path / "same", config='{"out": "elsewhere"}')
    assert not first_difference(STRAIGHT, STRAIGHT, first, same)
    # The next number above 1.
    near = run(tmp_path / "near", weight=float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))))
    assert first_difference(STRAIGHT, STRAIGHT, first, near) == "weights of the last checkpoint differ in b"
    drawn = run(tmp_path / "drawn", draws=4)
    assert "random streams of the last" in first_difference(STRAIGHT, STRAIGHT, first, drawn)
    lost = STRAIGHT._replace(losses={**STRAIGHT.losses, 4: [0.25]})
    assert "the loss of step 4" in first_difference(STRAIGHT, lost, first, same)


def test_results_are_compared_where_both_runs_have_some(tmp_path: Path) -> None:
    folders = [run(tmp_path / name) for name in ("first", "second")]
    (folders[0] / "results.json").write_text('{"trained": {"knn": 1.0}}')
    assert not first_difference(STRAIGHT, STRAIGHT, *folders)
    (folders[1] / "results.json").write_text('{"trained": {"knn": 2.0}}')
    assert "results.json has" in first_difference(STRAIGHT, STRAIGHT, *folders)


def test_a_run_without_a_checkpoint_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no checkpoint"):
        first_difference(STRAIGHT, STRAIGHT, run(tmp_path / "first"), tmp_path / "none")


def test_a_process_without_a_step_leaves_no_record(tmp_path: Path) -> None:
    assert Record.read(tmp_path) is None
