from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.data.augment import CenterView
from castssl.data.finish import normalise
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError
from castssl.evaluation.classify_paths import HierarchicalRecognition, PathMarks
from castssl.metrics.hie import hie
from castssl.superpixels.grid import Grid
from castssl.testing import samples
from castssl.types import Batch, LabelTree, Outcome, View
from tests.metrics.trees import BIRDS, Case, accuracies, full_path, height, inconsistency, severity

SIZES = (4, 8)
SEED = 38
"""Of a classifier that is sometimes right, sometimes inconsistent, and that HiE amends."""


class Toy(nn.Module):
    """Tells the classes of each level by mean colour, otherwise in training mode than in evaluation mode."""

    views = 1
    target = "path"
    encoder: Encoder = samples.SampleEncoder()

    def __init__(self, sizes: tuple[int, ...] = SIZES) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.heads = nn.ModuleList(nn.Linear(3, size, bias=False) for size in sizes)
        self.drop = nn.Dropout(0.5)

    def forward(self, batch: Batch) -> Outcome:
        return Outcome(self.predict(batch.views[0])["level0"].mean(), {})

    def after_step(self, progress: float) -> None: ...

    def predict(self, view: View, branch: str = "base") -> Mapping[str, Tensor]:
        colour = self.drop(view.image.mean((2, 3))) * (1 if branch == "base" else -1)
        return {f"level{level}": head(colour) for level, head in enumerate(self.heads)}


def toy(sizes: tuple[int, ...] = SIZES) -> Any:
    """The same one each time."""
    return Toy(sizes)


def exam(pictures: str | Path) -> HierarchicalRecognition:
    data = f"folder:{pictures}"
    return HierarchicalRecognition(open_images(data, split="val"), Grid(8), 32, batch_size=5)


def test_marks_are_those_counted_one_by_one(pictures: Path) -> None:
    judged, images = toy().train(), cast(Images, open_images(f"folder:{pictures}", split="val"))
    tree, view = images.tree, CenterView(32, interpolation="bicubic")
    colours = torch.stack([normalise(view(images[i][0])[0]).mean((1, 2)) for i in range(len(images))])
    target = torch.stack([images[index][1] for index in range(len(images))])
    logits = [head(colours).detach() for head in judged.heads]
    expected: dict[str, float] = {}
    for suffix, given in (("", logits), ("_hie", hie(logits, tree))):
        predicted = torch.stack([each.argmax(1) for each in given], 1)
        case = Case(tree, predicted, target, torch.ones(len(images), dtype=torch.bool))
        levels = accuracies(case)
        expected |= {f"fpa{suffix}": full_path(case), f"tice{suffix}": inconsistency(case)}
        expected |= {f"level{level}{suffix}": share for level, share in enumerate(levels)}
        expected[f"wap{suffix}"] = (4 * levels[0] + 8 * levels[1]) / 12
        expected[f"severity{suffix}_levels"] = severity(case)
        for k in (1, 5):
            first = given[-1].topk(k).indices.tolist()
            heights = [height(tree, c, int(t[-1])) for row, t in zip(first, target, strict=True) for c in row]
            expected[f"distance{k}{suffix}_levels"] = sum(heights) / len(heights)
    assert tree.sizes == SIZES
    assert 0 < expected["fpa"] < expected["level1"] < 1
    assert expected["tice_hie"] < expected["tice"]
    found = exam(pictures).sit(judged, "cpu", hie=True)
    by_class = {name for name in found if "balanced" in name}
    assert len(by_class) == 4
    assert {name: found[name] for name in found.keys() - by_class} == pytest.approx(expected)
    assert judged.training
    plain = exam(pictures).sit(judged, "cpu")
    assert plain == {name: mark for name, mark in found.items() if "_hie" not in name}
    assert plain.keys() == exam(pictures).by_chance().keys()
    assert exam(pictures).sit(judged, "cpu", branch="other") != plain


def test_who_guesses_has_the_marks_by_chance(pictures: Path) -> None:
    tree = cast(Images, open_images(f"folder:{pictures}")).tree
    generator = torch.Generator().manual_seed(0)
    marks = PathMarks(tree)
    target = tree.paths().repeat(2000, 1)
    marks.update([torch.rand(len(target), size, generator=generator) for size in SIZES], target)
    assert marks.compute() == pytest.approx(exam(pictures).by_chance(), abs=0.015)


def test_marks_that_no_image_decides_are_left_out() -> None:
    marks = PathMarks(BIRDS)
    logits = [torch.eye(size)[:1] for size in BIRDS.sizes]
    marks.update(logits, torch.tensor([[0, 0, -1]]))
    one = {"level0": 1.0, "level1": 1.0, "level0_balanced": 1.0, "level1_balanced": 1.0}
    assert marks.compute() == one
    marks.update(logits, torch.tensor([[0, 0, 0]]))
    assert "severity_levels" not in marks.compute()
    assert marks.compute()["distance1_levels"] == 0


def padded(rank: int, world: int, batch: int = 2) -> dict[str, float]:
    """The marks of nine images, cut into batches of so many a process and filled up with copies."""
    generator = torch.Generator().manual_seed(3)
    target = BIRDS.paths()[torch.randint(6, (9,), generator=generator)]
    target[3, 2] = target[5, 1] = target[5, 2] = -1
    logits = [torch.randn(9, size, generator=generator) for size in BIRDS.sizes]
    marks = PathMarks(BIRDS, suffix="_padded")
    for start in range(0, 9, batch * world):
        rows = torch.arange(start + batch * rank, start + batch * (rank + 1))
        marks.update([each[rows % 9] for each in logits], target[rows % 9], valid=rows < 9)
    return marks.compute()


def test_rows_that_only_fill_a_batch_do_not_count() -> None:
    assert padded(0, 1, batch=4) == padded(0, 1, batch=9)


def test_without_held_out_images_nothing_is_asked() -> None:
    test = HierarchicalRecognition(None, Grid(8), 32)
    assert test.sit(toy(), "cpu") == test.by_chance() == {}


@pytest.mark.parametrize("sizes", [(8, 4), (4, 11), (8,)])
def test_a_classifier_of_other_levels_is_refused(pictures: Path, sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"were learnt, but the held-out images have \(4, 8\)"):
        exam(pictures).sit(toy(sizes), "cpu")


def test_one_level_is_a_path_too() -> None:
    marks = PathMarks(LabelTree.flat(["cat", "dog"]))
    marks.update([torch.tensor([[1.0, 0], [1, 0]])], torch.tensor([[0], [1]]))
    expected = {"fpa": 0.5, "tice": 0.0, "wap": 0.5, "level0": 0.5, "severity_levels": 1.0}
    assert marks.compute() == expected | {"distance1_levels": 0.5, "level0_balanced": 0.5}
