"""Attention of labels on their objects, against one image and one pixel at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from castssl.contracts import Model, Objective
from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import to_views
from castssl.datasets.masks import MaskFolder
from castssl.datasets.open import open_images
from castssl.errors import ConfigError, DataError
from castssl.evaluation.held_out import Evaluation, Subject, indexed
from castssl.evaluation.label_attention import AttentionOnObject, sums
from castssl.superpixel_labels import partition
from castssl.superpixels.grid import Grid
from castssl.testing import samples
from castssl.types import Batch, LabelAttention, Outcome, RawView, View

VIEW = CenterView(32)
DATA = "demo-many:size=32,images=40"


class Queries(Model):
    """A vector for each label."""

    vectors: nn.Embedding


class Attending(Objective):
    """Each label attends by the product of its vector with the tokens, at each stage."""

    def __init__(self, labels: int = 12, sharpness: float = 3.0, turn: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model: Queries = Queries(samples.SampleEncoder(), vectors=nn.Embedding(labels, 32))
        self.sharpness, self.turn = sharpness, turn

    def forward(self, batch: Batch) -> Outcome:
        loss = self.model.feature(batch.views[0]).mean()
        return Outcome(loss, {"loss": loss.detach()})

    def label_attention(self, view: View) -> LabelAttention | None:
        hierarchy = self.encoder(view)
        weights = [
            self._weights(tokens.x).masked_fill(tokens.mass[:, None] <= 0, 0) for tokens in hierarchy.stages
        ]
        return LabelAttention(hierarchy, tuple(weights))

    def _weights(self, x: Tensor) -> Tensor:
        logits = self.sharpness * self.model.vectors.weight @ x.transpose(1, 2)
        return logits.softmax(-1).roll(self.turn, 1)


class Silent(Attending):
    """Labels attend to nothing."""

    def label_attention(self, view: View) -> LabelAttention | None:
        return None


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(cache))


def evaluation(*evaluators: AttentionOnObject, data: str = DATA, batch_size: int = 3) -> Evaluation:
    """Eight held-out images."""
    train, held_out = open_images(data), open_images(data, split="val")
    return Evaluation(train, held_out, Grid(8), VIEW, evaluators, batch_size=batch_size)


def subject(objective: Objective) -> Subject:
    return Subject(objective.encoder, module=objective)


def measured() -> dict[str, float]:
    """The results of one objective; ``test_held_out`` compares one process with two."""
    return evaluation(AttentionOnObject())(subject(Attending()))


def one_by_one(objective: Objective) -> dict[str, float]:
    """The results by heat maps and masks of one label in one image at a time."""
    images = indexed(open_images(DATA, split="val"))
    rows: dict[str, list[float]] = {}
    for index in range(len(images)):
        image, target = images[index]
        raw = Batch([RawView(VIEW(image)[0][None], torch.empty(0))], target[None])
        raw = raw._replace(views=[RawView(raw.views[0].image, partition(Grid(8), raw.views[0].image))])
        with torch.no_grad():
            attention = objective.label_attention(to_views(raw, Grid(8), "cpu").views[0])
        parts = images.parts(index)
        assert attention is not None
        assert parts is not None
        truth, fine = VIEW.crop_mask(parts).numpy(), target[4:].tolist()
        for label in range(8):
            mask = truth == label + 1
            if fine[label] != 1 or not mask.any():
                continue
            rows.setdefault("area_of_object", []).append(mask.mean())
            for stage, weights in enumerate(attention.weights):
                tokens = attention.hierarchy.labels(stage)[0].numpy()
                areas = np.bincount(tokens.ravel())
                heat = [(row.numpy() / np.maximum(areas, 1))[tokens] for row in weights[0, 4:]]
                others = [heat[other][mask].sum() for other in range(8) if other != label and fine[other]]
                rows.setdefault(f"attention_on_object_{stage}", []).append(heat[label][mask].sum())
                rows.setdefault(f"attention_of_others_{stage}", []).append(np.mean(others))
    means = {name: float(np.mean(values)) for name, values in rows.items()}
    own = {stage: means[f"attention_on_object_{stage}"] for stage in range(3)}
    return means | {f"attention_gain_{s}_times": value / means["area_of_object"] for s, value in own.items()}


def test_another_source_of_attention_is_measured() -> None:
    """Such as an average of the weights, which is no module of its own."""
    turned = evaluation(AttentionOnObject(attend=Attending(turn=1).label_attention))(subject(Attending()))
    assert turned == evaluation(AttentionOnObject())(subject(Attending(turn=1)))
    assert turned != evaluation(AttentionOnObject())(subject(Attending()))


def test_it_is_the_mean_over_labels_of_one_image_at_a_time() -> None:
    evaluator, objective = AttentionOnObject(), Attending()
    data = evaluation(evaluator)
    results, expected = data(subject(objective)), one_by_one(objective)
    assert results == pytest.approx(expected, rel=1e-5)
    assert 15 < evaluator.count <= 32
    area = results["area_of_object"]
    assert data.baselines()["chance"] == {f"attention_on_object_{stage}": area for stage in range(3)}
    assert data(subject(objective)) == results, "an evaluation starts anew"
    other = evaluation(evaluator, batch_size=8)(subject(objective))
    assert other == pytest.approx(results, rel=1e-6)


def test_uniform_attention_has_the_share_of_the_area() -> None:
    results = evaluation(AttentionOnObject())(subject(Attending(sharpness=0)))
    for stage in range(3):
        assert results[f"attention_on_object_{stage}"] == pytest.approx(results["area_of_object"], rel=1e-5)
        assert results[f"attention_of_others_{stage}"] == pytest.approx(results["area_of_object"], rel=1e-5)
        assert results[f"attention_gain_{stage}_times"] == pytest.approx(1, rel=1e-5)


def test_attention_of_another_label_has_another_result() -> None:
    own, turned = (evaluation(AttentionOnObject())(subject(Attending(turn=turn))) for turn in (0, 1))
    assert own.keys() == turned.keys()
    assert own["area_of_object"] == turned["area_of_object"]
    assert own["attention_on_object_0"] != pytest.approx(turned["attention_on_object_0"], rel=1e-3)


def test_labels_on_their_own_objects_score_all_and_their_neighbors_none() -> None:
    classes = torch.tensor([[[0, 0, 1, -1]], [[2, 2, 2, 2]]])
    present = torch.tensor([[True, True, False], [False, True, True]])
    shares = torch.eye(3).expand(2, -1, -1)
    #      labels, with others, areas; own; others'
    assert sums([shares], classes, present).tolist() == [[2, 2, 0.75, 2, 0], [1, 1, 1, 1, 0]]
    swapped = shares[:, [1, 0, 2]]
    assert sums([swapped], classes, present)[0].tolist() == [2, 2, 0.75, 0, 2]
    alone = present & torch.tensor([True, False, True])
    assert sums([torch.ones(2, 3, 3)], classes, alone).tolist() == [[1, 0, 0.5, 1, 0], [1, 0, 1, 1, 0]]


def test_nothing_is_measured_without_attention_masks_or_many_labels(image_folder: Path) -> None:
    assert evaluation(AttentionOnObject())(subject(Silent())) == {}
    objective = Attending()
    assert evaluation(AttentionOnObject())(Subject(objective.encoder)) == {}
    data = evaluation()
    images = replace(indexed(data.held_out), masks=None)
    assert replace(data, held_out=images, evaluators=[AttentionOnObject()])(subject(objective)) == {}
    one_label = evaluation(AttentionOnObject(), data=f"folder:{image_folder}")
    assert one_label(subject(objective)) == {}
    assert not any(one_label.baselines().values())


def test_another_number_of_labels_and_masks_of_other_classes_are_refused(cache: Path) -> None:
    with pytest.raises(ConfigError, match="attention is of 11 labels, but the held-out images have 12"):
        evaluation(AttentionOnObject())(subject(Attending(labels=11)))
    data = evaluation()
    images = replace(indexed(data.held_out), masks=Swollen(cache))
    with pytest.raises(DataError, match=r"00000\.png has the value 9, but there are 8 classes"):
        replace(data, held_out=images, evaluators=[AttentionOnObject()])


class Swollen(MaskFolder):
    """The part masks of the demo data, in which every object has a class too many."""

    def parts(self, name: str) -> Image.Image | None:
        folder = next(self.folder.glob("demo-many-*")) / "masks" / "val"
        parts = MaskFolder(folder).parts(name)
        return None if parts is None else parts.point(lambda value: 9 * (value > 0))
