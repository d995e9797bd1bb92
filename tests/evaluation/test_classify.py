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
from castssl.evaluation.classify import Recognition
from castssl.superpixels.grid import Grid
from castssl.testing import samples
from castssl.types import Batch, Outcome, View

SEED = 3
"""Of a classifier that is sometimes right."""


class Toy(nn.Module):
    """Tells classes by mean colour, otherwise in training mode than in evaluation mode."""

    views = 1
    target = "path"
    encoder: Encoder = samples.SampleEncoder()

    def __init__(self, classes: int = 8) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.head = nn.Linear(3, classes, bias=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, batch: Batch) -> Outcome:
        return Outcome(self.predict(batch.views[0])["class"].mean(), {})

    def after_step(self, progress: float) -> None: ...

    def predict(self, view: View, branch: str = "base") -> Mapping[str, Tensor]:
        logits = self.head(self.drop(view.image.mean((2, 3))))
        return {"class": logits if branch == "base" else -logits}


def toy(classes: int = 8) -> Any:
    """The same one each time."""
    return Toy(classes)


def test_marks_are_those_counted_one_by_one(pictures: Path) -> None:
    data, judged = f"folder:{pictures}", toy().train()
    images = cast(Images, open_images(data, split="val"))
    test = Recognition(open_images(data, split="val"), Grid(8), 32, batch_size=5)
    view = CenterView(32, interpolation="bicubic")
    first = five = 0
    for index in range(len(images)):
        image, path = images[index]
        logits = judged.head(normalise(view(image)[0]).mean((1, 2)))
        place = logits.argsort(descending=True).tolist().index(int(path[-1]))
        first, five = first + (place == 0), five + (place < 5)
    assert 0 < first < five < len(images)
    counted = {"top1": first / len(images), "top5": five / len(images)}
    # The classes have as many images each.
    assert test.sit(judged, "cpu") == pytest.approx(counted | {"top1_balanced": first / len(images)})
    assert judged.training
    assert test.by_chance() == {"top1": 1 / 8, "top5": 5 / 8, "top1_balanced": 1 / 8}
    assert test.sit(judged, "cpu", branch="other") != test.sit(judged, "cpu")


def test_without_held_out_images_nothing_is_asked() -> None:
    test = Recognition(None, Grid(8), 32)
    assert test.sit(toy(), "cpu") == test.by_chance() == {}


def test_a_classifier_of_other_classes_is_refused(pictures: Path) -> None:
    data = f"folder:{pictures}"
    test = Recognition(open_images(data, split="val"), Grid(8), 32)
    with pytest.raises(ConfigError, match="11 classes were learnt, but the held-out images have 8"):
        test.sit(toy(11), "cpu")
