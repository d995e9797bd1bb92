from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import normalize
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError
from castssl.evaluation.label_paths import LabelPaths, PathMetrics
from castssl.labels import LabelTree
from castssl.metrics.hie import hie
from tests.evaluation.toys import Heads, evaluation, subject
from tests.metrics.trees import BIRDS, Case, accuracies, full_path, height, inconsistency, severity

SIZES = (4, 8)
SEED = 38
"""Of a classifier that is sometimes right, sometimes inconsistent, and that HiE amends."""


def toy(sizes: tuple[int, ...] = SIZES) -> Heads:
    """The same one each time."""
    return Heads(*sizes, seed=SEED)


def test_metrics_are_those_counted_one_by_one(image_folder: Path) -> None:
    objective, images = toy().train(), cast(Images, open_images(f"folder:{image_folder}", split="val"))
    tree, view = images.tree, CenterView(32, interpolation="bicubic")
    colors = torch.stack([normalize(view(images[i][0])[0]).mean((1, 2)) for i in range(len(images))])
    target = torch.stack([images[index][1] for index in range(len(images))])
    logits = [head(colors).detach() for head in objective.heads]
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
    found = evaluation(image_folder, LabelPaths(hie=True))(subject(objective))
    by_class = {name for name in found if "balanced" in name}
    assert len(by_class) == 4
    assert {name: found[name] for name in found.keys() - by_class} == pytest.approx(expected)
    assert objective.training
    evaluated = evaluation(image_folder, LabelPaths())
    plain = evaluated(subject(objective))
    assert plain == {name: value for name, value in found.items() if "_hie" not in name}
    assert plain.keys() == evaluated.baselines()["chance"].keys()
    assert evaluated(subject(objective, "other")) != plain


def test_guesses_have_the_chance_level(image_folder: Path) -> None:
    tree = cast(Images, open_images(f"folder:{image_folder}")).tree
    generator = torch.Generator().manual_seed(0)
    metrics = PathMetrics(tree)
    target = tree.paths().repeat(2000, 1)
    metrics.update([torch.rand(len(target), size, generator=generator) for size in SIZES], target)
    chance = evaluation(image_folder, LabelPaths()).baselines()["chance"]
    assert metrics.compute() == pytest.approx(chance, abs=0.015)


def test_metrics_that_no_image_decides_are_left_out() -> None:
    metrics = PathMetrics(BIRDS)
    logits = [torch.eye(size)[:1] for size in BIRDS.sizes]
    metrics.update(logits, torch.tensor([[0, 0, -1]]))
    one = {"level0": 1.0, "level1": 1.0, "level0_balanced": 1.0, "level1_balanced": 1.0}
    assert metrics.compute() == one
    metrics.update(logits, torch.tensor([[0, 0, 0]]))
    assert "severity_levels" not in metrics.compute()
    assert metrics.compute()["distance1_levels"] == 0


def padded(rank: int, world: int, batch: int = 2) -> dict[str, float]:
    """The metrics of nine images, cut into batches of so many a process and filled up with copies."""
    generator = torch.Generator().manual_seed(3)
    target = BIRDS.paths()[torch.randint(6, (9,), generator=generator)]
    target[3, 2] = target[5, 1] = target[5, 2] = -1
    logits = [torch.randn(9, size, generator=generator) for size in BIRDS.sizes]
    metrics = PathMetrics(BIRDS, suffix="_padded")
    for start in range(0, 9, batch * world):
        rows = torch.arange(start + batch * rank, start + batch * (rank + 1))
        metrics.update([each[rows % 9] for each in logits], target[rows % 9], valid=rows < 9)
    return metrics.compute()


def test_rows_that_only_fill_a_batch_do_not_count() -> None:
    assert padded(0, 1, batch=4) == padded(0, 1, batch=9)


@pytest.mark.parametrize("sizes", [(8, 4), (4, 11), (8,)])
def test_a_classifier_of_other_levels_is_refused(image_folder: Path, sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"were learned, but the held-out images have \(4, 8\)"):
        evaluation(image_folder, LabelPaths())(subject(toy(sizes)))


def test_one_level_is_a_path_too() -> None:
    metrics = PathMetrics(LabelTree.flat(["cat", "dog"]))
    metrics.update([torch.tensor([[1.0, 0], [1, 0]])], torch.tensor([[0], [1]]))
    expected = {"fpa": 0.5, "tice": 0.0, "wap": 0.5, "level0": 0.5, "severity_levels": 1.0}
    assert metrics.compute() == expected | {"distance1_levels": 0.5, "level0_balanced": 0.5}
