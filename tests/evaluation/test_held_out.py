from __future__ import annotations

from pathlib import Path

import pytest
import torch

from castssl import ranks
from castssl.datasets.open import open_images
from castssl.evaluation.classify import Recognition
from castssl.evaluation.held_out import HeldOut
from castssl.superpixels.grid import Grid
from castssl.testing.processes import together
from tests.evaluation import test_classify, test_classify_paths


def marks(pictures: str | Path) -> dict[str, float]:
    """Of both exams."""
    data = f"folder:{pictures}"
    test = Recognition(open_images(data, split="val"), Grid(8), 32, batch_size=5)
    found = test.sit(test_classify.toy(), "cpu")
    return found | test_classify_paths.exam(pictures).sit(test_classify_paths.toy(), "cpu", hie=True)


@pytest.mark.distributed
def test_two_processes_count_each_image_once(pictures: Path, tmp_path: Path) -> None:
    together(as_one_of_two, str(pictures), str(tmp_path))
    # 8 images: of the batches of 2 x 5, one rank has 4 and the other 4; alone, one has 5 and then 3.
    one = marks(pictures) | test_classify_paths.padded(0, 1, batch=9)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [one, one]
    assert 0 < one["fpa"] < one["level0"] < 1
    assert 0 < one["fpa_padded"] < one["level0_padded"] < 1
    assert 0 < one["top1"] < one["top5"]


def as_one_of_two(rank: int, pictures: str, folder: str) -> None:
    """What each of the two processes does."""
    assert ranks.world() == 2
    torch.save(marks(pictures) | test_classify_paths.padded(rank, 2), Path(folder) / f"{rank}.pt")


def test_without_held_out_images_there_is_nothing_to_look_at() -> None:
    nothing = HeldOut(None, Grid(8), 32)
    assert nothing.tree.levels == 0
    assert list(nothing.batches("cpu")) == []
