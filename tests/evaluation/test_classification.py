from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import normalize
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError
from castssl.evaluation import label_paths
from castssl.evaluation.classification import Accuracy
from castssl.evaluation.label_paths import LabelPaths
from tests.evaluation.toys import Heads, evaluation, subject

SEED = 3
"""Of a classifier that is sometimes right."""


def toy(classes: int = 8) -> Heads:
    """The same one each time."""
    return Heads(classes, seed=SEED)


def test_accuracies_are_those_counted_one_by_one(image_folder: Path) -> None:
    objective = toy().train()
    images = cast(Images, open_images(f"folder:{image_folder}", split="val"))
    found = evaluation(image_folder, Accuracy())
    view = CenterView(32, interpolation="bicubic")
    first = five = 0
    for index in range(len(images)):
        image, path = images[index]
        logits = objective.heads[0](normalize(view(image)[0]).mean((1, 2)))
        rank = logits.argsort(descending=True).tolist().index(int(path[-1]))
        first, five = first + (rank == 0), five + (rank < 5)
    assert 0 < first < five < len(images)
    counted = {"top1": first / len(images), "top5": five / len(images)}
    # The classes have as many images each.
    assert found(subject(objective)) == pytest.approx(counted | {"top1_balanced": first / len(images)})
    assert objective.training
    assert found.baselines()["chance"] == {"top1": 1 / 8, "top5": 5 / 8, "top1_balanced": 1 / 8}
    assert found.baselines()["majority"] == pytest.approx(found.baselines()["chance"])
    assert found(subject(objective, "other")) != found(subject(objective))


def test_the_majority_is_that_of_the_most_frequent_classes(image_folder: Path) -> None:
    evaluated = evaluation(image_folder, Accuracy(), LabelPaths())
    assert isinstance(evaluated.held_out, Images)
    paths = evaluated.held_out.tree.paths()
    labels = paths[[0, 0, 0, 1, 1, 2, 3, 4, 5]]
    labels = torch.cat([labels, torch.full_like(labels[:1], -1)])
    evaluated.held_out = replace(evaluated.held_out, targets=labels)
    found = evaluated.baselines()["majority"]
    parents = labels[:9, 0].bincount()
    heights = [2 - int((path == paths[0]).sum()) for path in labels[:9]]
    assert sum(heights) / 9 < found.pop("distance5_levels") < 2
    assert found == pytest.approx(
        {
            "top1": 3 / 9,
            "top5": 8 / 9,
            "top1_balanced": 1 / 6,
            "level0": int(parents.max()) / 9,
            "level0_balanced": 1 / int((parents > 0).sum()),
            "level1": 3 / 9,
            "level1_balanced": 1 / 6,
            "fpa": 3 / 9,
            "tice": 0,
            "wap": (4 * int(parents.max()) + 8 * 3) / (9 * 12),
            "severity_levels": sum(heights) / 6,
            "distance1_levels": sum(heights) / 9,
        }
    )


def test_the_majority_of_paths_is_counted_in_parts(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five classes with different frequencies, the first of the tree not the most frequent one."""
    monkeypatch.setattr(label_paths, "PART", 4)
    evaluated = evaluation(image_folder, LabelPaths())
    assert isinstance(evaluated.held_out, Images)
    paths = evaluated.held_out.tree.paths()
    frequent = (3, 6, 0, 7, 2)
    labels = torch.cat([paths[[k] * count] for k, count in zip(frequent, (5, 4, 3, 2, 1), strict=True)])
    evaluated.held_out = replace(evaluated.held_out, targets=labels)
    found = evaluated.baselines()["majority"]
    heights = {k: [2 - int((path == paths[k]).sum()) for path in labels] for k in frequent}
    assert found["fpa"] == found["level1"] == pytest.approx(5 / 15)
    assert found["tice"] == 0
    assert found["severity_levels"] == pytest.approx(sum(heights[3]) / 10)
    assert found["distance5_levels"] == pytest.approx(sum(map(sum, heights.values())) / 75)


def test_a_classifier_of_other_classes_is_refused(image_folder: Path) -> None:
    with pytest.raises(ConfigError, match="11 classes were learned, but the held-out images have 8"):
        evaluation(image_folder, Accuracy())(subject(toy(11)))
