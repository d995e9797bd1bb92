"""Labels that are not known (-1) have no part in losses and results; where none is known, that is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import castssl
from castssl.checkpoints.native import save_encoder
from castssl.contracts import Objective
from castssl.data.evaluation_views import CenterView
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.evaluation.classification import Accuracy
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.evaluation.label_paths import LabelPaths
from castssl.objectives.deit import DeiT
from castssl.objectives.probe import LinearProbe
from castssl.registry import build
from castssl.testing import samples
from castssl.training import check_labels
from castssl.training.logging import Log, Means
from castssl.types import Batch, View
from tests.acceptance.conftest import Command
from tests.acceptance.two_ranks import SPECS, TREE, Reads, tree_of

PATHS = {name: spec for name, spec in SPECS.items() if tree_of(spec) is TREE}
"""Objectives that learn label paths, or nothing of labels."""
LEARNS = [name for name, spec in PATHS.items() if build("objectives", spec, Reads(), TREE).target == "path"]
SHAPE: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4)}
SUPERPIXELS = "seeds:count=16,bins=5,iterations=2"
Written = Callable[[Callable[[str, int], bool]], str]


@pytest.fixture
def written(tmp_path: Path, image_folder: Path) -> Written:
    """A CSV data set of the demo's images, whose fine label is known where the given function says so."""

    def write(known: Callable[[str, int], bool]) -> str:
        (tmp_path / "pictures").symlink_to(image_folder)
        rows = ["path,split,coarse,fine"]
        for split in ("train", "val"):
            for number, path in enumerate(sorted((image_folder / split).rglob("*.png"))):
                coarse, fine = path.relative_to(image_folder / split).parts[-3:-1]
                name = fine if known(split, number) else ""
                rows.append(f"pictures/{path.relative_to(image_folder)},{split},{coarse},{name}")
        (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
        return f"tree:{tmp_path / 'labels.csv'}"

    return write


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An encoder as a finished run leaves it."""
    torch.manual_seed(0)
    path = tmp_path / "encoder.safetensors"
    return save_encoder(castssl.create("nano", superpixels=SUPERPIXELS, **SHAPE), path)


def objective(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return cast(nn.Module, build("objectives", SPECS[name], Reads(), TREE))


@pytest.mark.parametrize("name", LEARNS)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_labels_teaches_nothing_and_has_no_accuracy(name: str, training: bool) -> None:
    made = objective(name).train(training)
    if name.startswith("tree-kl"):
        made.tie = 0.0  # type: ignore[assignment]  # It asks the levels to agree and needs no label.
    if name == "taxon-ssl":  # Its other terms teach images without labels.
        made.pseudo_weight = made.contrast_weight = 0.0  # type: ignore[assignment]
    given = samples.batch(cast(Objective, made).views, TREE, 4)
    outcome = made(given._replace(target=torch.full_like(given.target, -1)))
    torch.autograd.backward(outcome.loss)
    assert float(outcome.loss.detach()) == 0.0
    assert all(not p.grad.any() for p in made.parameters() if p.grad is not None)
    accuracies = [value for key, value in outcome.logs.items() if key.startswith("accuracy")]
    assert accuracies
    assert all(value.isnan() for value in accuracies)


@pytest.mark.parametrize("name", ["deit", "deit-bce", "probe"])
def test_an_image_without_a_label_changes_nothing_for_the_others(name: str) -> None:
    """A mean over the batch: half of the images without labels halve the loss of the other half."""
    made, given = objective(name).eval(), samples.batch(1, TREE, 8)
    target = given.target.clone()
    target[4:] = -1
    half = Batch([View(*(field[:4] for field in given.views[0]))], target[:4])
    found, alone = made(given._replace(target=target)), made(half)
    torch.testing.assert_close(found.loss, alone.loss / 2)
    torch.testing.assert_close(found.logs["accuracy"], alone.logs["accuracy"])


def test_a_mixture_with_an_unlabeled_image_is_no_negative_for_the_unknown_class() -> None:
    torch.manual_seed(0)
    made = DeiT(samples.SampleEncoder(), TREE, bce=True, mixup=1.0, cutmix=0.0).train()
    given = samples.batch(1, TREE, 2)
    given.target[0] = -1
    torch.autograd.backward(made(given).loss)
    assert not any(p.grad.any() for p in made.parameters() if p.grad is not None)


def test_a_report_has_no_number_where_no_image_has_a_label(tmp_path: Path) -> None:
    means, log = Means(), Log(tmp_path)
    for known in (math.nan, 0.25, math.nan, 0.75):
        means.add({"accuracy_level0": torch.tensor(known), "accuracy_level1": torch.tensor(math.nan)})
    log.write(**means.take(torch.device("cpu")))
    log.close()
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["accuracy_level0"] == 0.5
    assert line["accuracy_level1"] is None


class Always(nn.Module):
    """Says the first class of each level, and ranks the others by number."""

    views, target = 1, "path"

    def __init__(self, *classes: int) -> None:
        super().__init__()
        self.classes, self.encoder = classes, samples.SampleEncoder()

    def predict(self, view: View) -> dict[str, Tensor]:
        rows = len(view.image)
        return {f"level{n}": -torch.arange(float(c)).repeat(rows, 1) for n, c in enumerate(self.classes)}


def of_split(data: str, path: Callable[[int], list[int]], split: str = "val") -> Images:
    images = cast(Images, open_images(data, split=split))
    images.targets = torch.tensor([path(index) for index in range(len(images))])
    return images


def evaluated(images: Images, classifier: Always, evaluator: Evaluator) -> dict[str, float]:
    grid = build("superpixels", "grid:cell=8")
    evaluation = Evaluation(images, images, grid, CenterView(32), [evaluator], batch_size=4)
    return evaluation(Subject(classifier.encoder, classifier.predict, classifier))


def test_top_1_is_over_the_images_with_a_label(image_folder: Path) -> None:
    data = f"folder:{image_folder}"
    # Of three images the first is right, the second is not known, the third is wrong.
    images = of_split(data, lambda index: [(0, -1, 1)[index % 3]]).take(range(6))
    found = evaluated(images, Always(8), Accuracy())
    assert found == {"top1": 0.5, "top5": 1.0, "top1_balanced": 0.5}
    assert evaluated(of_split(data, lambda _: [-1]), Always(8), Accuracy()) == {}


def test_a_level_without_labels_has_no_result(image_folder: Path) -> None:
    found = evaluated(of_split(f"tree:{image_folder}", lambda _: [0, -1]), Always(4, 8), LabelPaths())
    assert found["level0"] == 1.0
    assert not {"level1", "fpa", "tice", "wap"} & found.keys()


@pytest.mark.recipe
def test_a_probe_of_half_labeled_images_is_measured_on_that_half(
    written: Written, weights: Path, tmp_path: Path, process: Command
) -> None:
    data = written(lambda split, number: number % 2 == 0)
    flags = ["--batch-size", "16", "--lr", "0.8", "--epochs", "1", "--workers", "0"]
    done = process(
        *("recipes/probe_in1k.py", "--data", data, "--weights", weights, *flags, "--out", tmp_path / "run")
    )
    assert done.code == 0, done.err[-3000:]
    images = cast(Images, open_images(data, split="val"))
    assert f"{len(images) // 2:,} of {len(images):,} held-out images have no label at level 1" in done.err
    assert "training images have no label at level 1" in done.err
    found = json.loads((tmp_path / "run" / "results.json").read_text())["trained"]
    right = found["top1"] * (len(images) - len(images) // 2)
    assert right == pytest.approx(round(right), abs=1e-4)


@pytest.mark.recipe
def test_a_val_split_without_labels_is_refused(written: Written, tmp_path: Path, process: Command) -> None:
    data = written(lambda split, number: split == "train")
    flags = ["--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4", "--workers", "0"]
    flags += ["--superpixels", SUPERPIXELS, "--batch-size", "8", "--epochs", "1"]
    done = process("recipes/deit_in1k.py", "--data", data, *flags, "--out", tmp_path / "run")
    assert done.code == 1
    assert "held-out images has a label at level 1" in done.err
    assert "Traceback" not in done.err
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_train_split_without_labels_is_refused(written: Written, image_folder: Path) -> None:
    for images in (
        open_images(written(lambda split, number: split == "val")),
        of_split(f"tree:{image_folder}", lambda _: [0, -1], "train"),
    ):
        with pytest.raises(DataError, match="training images has a label at level 1"):
            check_labels(LinearProbe(samples.SampleEncoder(), images.tree), images)
    check_labels(LinearProbe(samples.SampleEncoder(), images.tree, level=0), images)
