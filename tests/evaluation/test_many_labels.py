from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import normalize
from castssl.datasets import many_labels
from castssl.datasets.images import Images
from castssl.errors import ConfigError
from castssl.evaluation.classification import Accuracy
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch
from castssl.evaluation.knn import Knn
from castssl.evaluation.label_paths import LabelPaths
from castssl.evaluation.many_labels import ManyLabels
from castssl.metrics.multilabel import average_precisions, measures
from castssl.types import View
from tests.evaluation import toys

TREE = many_labels(("pet", "bird"), ("cat", "dog", "hen", "owl"), parents=[(0, 0, 1, 1)])


def evaluation(image_folder: Path, *evaluators: Evaluator) -> Evaluation:
    """Eight held-out images with labels at two levels; "owl" is in none of them."""
    draw = torch.Generator().manual_seed(2)
    found = toys.evaluation(image_folder, batch_size=5)
    assert isinstance(found.held_out, Images)
    assert isinstance(found.train, Images)
    targets = (torch.rand(8, 6, generator=draw) < 0.5).float()
    targets[[1, 4, 6], [0, 1, 3]], targets[:, 5] = -1, 0
    held_out = replace(found.held_out, targets=targets, tree=TREE)
    train = replace(found.train, targets=torch.zeros(len(found.train), 6), tree=TREE)
    return replace(found, train=train, held_out=held_out, evaluators=evaluators)


def measured(image_folder: Path) -> dict[str, float]:
    """The results of a toy."""
    return evaluation(image_folder, ManyLabels())(toys.subject(toys.Heads(2, 4, seed=1)))


def padded(image_folder: Path, rank: int, world: int) -> dict[str, float]:
    """The same, with batches of three a process; copies of the first images fill the last of them."""
    evaluator = ManyLabels()
    data, subject = evaluation(image_folder, evaluator), toys.subject(toys.Heads(2, 4, seed=1).eval())
    images = data.held_out
    assert isinstance(images, Images)
    evaluator.begin(subject)
    for start in range(3 * rank, 8, 3 * world):
        positions = torch.arange(start, start + 3) % 8
        pixels = torch.stack([normalize(data.view(images[n][0])[0]) for n in positions.tolist()])
        view = View(pixels, torch.zeros(3, 0, 0, dtype=torch.int32))
        with torch.no_grad():
            evaluator.add(ImageBatch([view], images.targets[positions], positions), Forward(subject))
    return evaluator.result(subject)


def test_images_that_only_fill_a_batch_do_not_count(image_folder: Path) -> None:
    """tests/evaluation/test_held_out.py has the same of two processes."""
    assert padded(image_folder, 0, 1) == pytest.approx(measured(image_folder), abs=1e-6)


def test_the_measures_are_those_of_all_images_at_once(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = ManyLabels()
    data, toy = evaluation(image_folder, evaluator), toys.Heads(2, 4, seed=1).train()
    assert "1 of 6 classes are in no held-out image" in (printed := capsys.readouterr().err)
    assert "level1/owl" in printed
    images, view = data.held_out, CenterView(32, interpolation="bicubic")
    assert isinstance(images, Images)
    colors = torch.stack([normalize(view(images[n][0])[0]).mean((1, 2)) for n in range(8)])
    logits = torch.cat([head(colors) for head in toy.heads], 1).detach()
    found = data(toys.subject(toy))
    assert found == pytest.approx(measures(logits.sigmoid(), images.targets, TREE), abs=1e-6)
    assert found["unscored_classes"] == 1
    assert {"mAP", "mAP_11point", "mAP_level1", "CF1_top3", "without_parent"} <= found.keys()
    by_class = average_precisions(logits, images.targets).tolist()
    assert evaluator.average_precision.tolist() == pytest.approx(by_class, nan_ok=True)
    assert found == data(toys.subject(toy)), "an evaluation starts anew"


def test_the_majority_is_the_share_of_each_label_as_the_probability_of_every_image(
    image_folder: Path,
) -> None:
    data = evaluation(image_folder, ManyLabels())
    assert isinstance(data.held_out, Images)
    shares = [float((c == 1).sum() / (c >= 0).sum()) for c in data.held_out.targets.T]
    baselines = data.baselines()
    assert baselines["majority"]["mAP"] == pytest.approx(sum(shares) / 5)
    assert baselines["majority"]["CR"] == pytest.approx(sum(share > 0.5 for share in shares) / 5)
    assert baselines["chance"] == {}


def test_another_number_of_labels_is_refused(image_folder: Path) -> None:
    with pytest.raises(ConfigError, match="4 labels were learned, but the held-out images have 6"):
        evaluation(image_folder, ManyLabels())(toys.subject(toys.Heads(4, seed=1)))


def test_label_paths_are_not_measured_of_many_labels_nor_many_labels_of_label_paths(
    image_folder: Path,
) -> None:
    toy = toys.subject(toys.Heads(2, 4, seed=1))
    data = evaluation(image_folder, Accuracy(), LabelPaths(), Knn())
    assert data(toy) == {}
    assert not any(data.baselines().values())
    data = toys.evaluation(image_folder, ManyLabels())
    assert data(toy) == {}
    assert not any(data.baselines().values())
