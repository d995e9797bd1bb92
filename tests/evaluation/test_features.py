from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from castssl.data.evaluation_views import CenterView
from castssl.data.loader import EpochBatches
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.evaluation import features
from castssl.evaluation.features import Features, largest
from castssl.evaluation.held_out import Evaluation, Forward, Subject
from castssl.superpixels.grid import Grid
from castssl.testing.processes import together
from tests.evaluation.toys import Colors

COUNT = 23
ROWS = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(0))
PATHS = torch.stack([torch.arange(COUNT) // 5, torch.arange(COUNT)], 1)
Share = Iterable[list[int]]


def gathered(share: Share) -> tuple[Tensor, Tensor]:
    """The rows of the images of ``share``, in its batches."""
    collected = Features("cpu")
    for images in share:
        rows = torch.tensor(images)
        collected.add(ROWS[rows], PATHS[rows], rows)
    return collected.gather()


def test_rows_are_sorted_and_each_image_counts_once() -> None:
    rows, paths = gathered([[20, 3, 3], [22, 0], [3, 1]])
    chosen = torch.tensor([0, 1, 3, 20, 22])
    assert torch.equal(paths, PATHS[chosen])
    assert torch.equal(rows, ROWS[chosen])
    assert rows.dtype == torch.float32


def test_multi_hot_labels_have_the_dtype_of_a_process_without_rows() -> None:
    collected, targets = Features("cpu"), torch.tensor([[1.0, 0.0, -1.0]])
    collected.add(ROWS[:1], targets, torch.tensor([0]))
    labels = collected.gather()[1]
    assert labels.dtype == Features("cpu").gather()[1].dtype
    assert torch.equal(labels, targets.long())


SHARES: dict[str, tuple[Share, Share]] = {
    "loaded": (
        EpochBatches(COUNT, 6, rank=0, world=2, drop_last=False),
        EpochBatches(COUNT, 6, rank=1, world=2, drop_last=False),
    ),
    "padded": (
        [[0, 1, 2], [6, 7, 8], [12, 13, 14], [18, 19, 20]],
        [[3, 4, 5], [9, 10, 11], [15, 16, 17], [21, 22, 0]],
    ),
    "uneven": ([list(range(12)), [21, 22]], [list(range(12, 21))]),
    "idle": ([list(range(COUNT))], []),
}


@pytest.mark.distributed
def test_two_processes_gather_the_rows_of_one(tmp_path: Path) -> None:
    together(as_one_of_two, str(tmp_path))
    for rank in range(2):
        answers = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert list(answers) == list(SHARES)
        for theirs in answers.values():
            assert torch.equal(theirs["rows"], ROWS)
            assert torch.equal(theirs["paths"], PATHS)


def as_one_of_two(rank: int, folder: str) -> None:
    """What each of the two processes does."""
    features.SENT = 5
    answers = {}
    for name, shares in SHARES.items():
        rows, paths = gathered(shares[rank])
        answers[name] = {"rows": rows, "paths": paths}
    torch.save(answers, Path(folder) / f"{rank}.pt")


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 4), st.integers(1, 40), st.integers(0, 1000))
def test_of_equal_scores_the_lowest_columns_count(rows: int, columns: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    choices = torch.tensor([-torch.inf, 0.0, 0.5, 1.0])
    scores = choices[torch.randint(4, (rows, columns), generator=draw)]
    k = 1 + seed % columns
    values, found = largest(scores, k)
    expected = [sorted(range(columns), key=lambda column: -row[column])[:k] for row in scores.tolist()]
    assert found.tolist() == expected
    assert torch.equal(values, scores.gather(1, found))


def test_the_feature_is_the_last_class_token(image_folder: Path) -> None:
    images = open_images(f"folder:{image_folder}")
    assert isinstance(images, Images)
    evaluation = Evaluation(images, images, Grid(8), CenterView(32), [], batch_size=5)
    encoder, collected = Colors().eval(), Features("cpu")
    for batch in evaluation.batches(images, [evaluation.view], "images"):
        forward = Forward(Subject(encoder))
        view = batch.views[0]
        assert torch.equal(forward.feature(view), encoder(view).stages[-1].cls[:, 0])
        collected.add(forward.feature(view).detach(), batch.target, batch.positions)
    assert torch.equal(collected.gather()[1], images.targets)
