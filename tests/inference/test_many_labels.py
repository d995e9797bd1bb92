"""The labels of a photograph: those of the saved objective, by threshold, by number, and of other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.checkpoints.classifier import save_classifier
from castssl.checkpoints.many_labels import LabelModel, load_many_labels
from castssl.data.evaluation_views import SquashedView
from castssl.data.normalize import normalize
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError, DataError
from castssl.inference.many_labels import LabelPredictor, evaluate_labels
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.averaged import Averaged
from castssl.registry import build
from castssl.types import View

LABELS = LabelTree((2, 3), (), (("animal", "thing"), ("cat", "dog", "car")), exclusive=False)
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def trained(spec: str, **options: Any) -> Averaged[Any]:
    torch.manual_seed(0)
    encoder = create("timm-features:test_convnext", image_size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    return cast(Averaged[Any], build("objectives", spec, encoder, LABELS, **options)).eval()


def model(spec: str, folder: Path, **options: Any) -> tuple[Averaged[Any], LabelModel]:
    """An objective and what is loaded of its file."""
    objective = trained(spec, **options)
    path = save_classifier(
        objective, folder / "encoder.safetensors", spec=spec, labels=LABELS, options=options
    )
    return objective, load_many_labels(path)


@pytest.mark.parametrize("spec", ["multilabel", "multilabel:head=plain"])
def test_the_probabilities_are_those_of_the_objective(spec: str, tmp_path: Path) -> None:
    objective, loaded = model(spec, tmp_path, text="learned:8")
    found = LabelPredictor(loaded)(PHOTO, attention=True)
    image = SquashedView(32)(PHOTO)[0]
    view = View(normalize(image[None]), torch.zeros(1, 32, 32, dtype=torch.int32))
    with torch.no_grad():
        expected = torch.cat(list(objective.predict(view).values()), 1)[0].sigmoid()
    assert [one.probability for one in sorted(found.scores, key=lambda one: one.column)] == pytest.approx(
        expected.tolist(), abs=1e-6
    )
    names = [name for level in LABELS.names for name in level]
    assert all(names[one.column] == one.name for one in found.scores)
    assert all(LABELS.names[one.level][one.number] == one.name for one in found.scores)
    assert found.scores[0].probability == pytest.approx(float(expected.max()), abs=1e-6)
    assert (found.attention is None) == spec.endswith("plain")
    assert torch.equal(found.seen, image)


def test_the_answer_is_all_above_a_threshold_or_the_likeliest(tmp_path: Path) -> None:
    _, loaded = model("multilabel:head=plain", tmp_path)
    bias = torch.tensor([2.0, -2.0, 1.0, -1.0, 0.1])
    loaded.objective.model.head.weight.data.zero_()
    loaded.objective.model.head.bias.data.copy_(bias)
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["animal", "cat", "car"]),
        ({"threshold": 0.7}, ["animal", "cat"]),
        ({"threshold": 1.0, "top": 4}, ["animal", "cat", "car", "dog"]),
    ]
    for options, names in cases:
        assert [one.name for one in LabelPredictor(loaded, **options)(PHOTO).answer] == names
    refused: list[dict[str, Any]] = [{"threshold": 1.5}, {"top": 0}]
    for options in refused:
        with pytest.raises(ConfigError, match=next(iter(options))):
            LabelPredictor(loaded, **options)


def test_other_names_are_scored_where_all_labels_share_their_weights(tmp_path: Path) -> None:
    names = ["animal", "thing", "cat", "dog", "car", "boat"]
    np.save(tmp_path / "names.npy", np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32))
    (tmp_path / "names.txt").write_text("\n".join(names))
    text = f"file:{tmp_path / 'names.npy'}"
    spec = "multilabel:head_weights=shared"
    _, loaded = model(spec, tmp_path, text=text)
    own = {one.name: one.probability for one in LabelPredictor(loaded)(PHOTO).scores}
    other = LabelPredictor(loaded, names=["dog", "cat"])(PHOTO).scores
    assert {one.name: one.probability for one in other} == pytest.approx(
        {name: own[name] for name in ("cat", "dog")}, abs=1e-6
    )
    # A row of the file that was not learned has a score, too.
    _, of_boat = sorted(
        LabelPredictor(loaded, names=["dog", "boat"])(PHOTO).scores, key=lambda one: one.column
    )
    assert (of_boat.name, of_boat.probability != own["dog"]) == ("boat", True)
    with pytest.raises(ConfigError, match="has no vector of cow; expected names of its 6"):
        LabelPredictor(loaded, names=["boat", "cow"])
    others = evaluate_labels(loaded, listed(tmp_path, "b", ["boat|dog", "cat", "boat"]), zero_shot=True)
    assert others.labels.names == (("boat", "cat", "dog"),)
    assert [row[:4] for row in others.labels_apart] == [(0, *row) for row in ZERO_SHOT]
    scores = [
        {
            one.name: one.probability
            for one in LabelPredictor(loaded, names=["boat"])(tmp_path / f"{n}.png").scores
        }
        for n in range(3)
    ]
    ranked = sorted(range(3), key=lambda n: -scores[n]["boat"])
    precisions = [(rank - ranked[:rank].count(1)) / rank for rank in (1, 2, 3) if ranked[rank - 1] != 1]
    assert others.labels_apart[0].average_precision == pytest.approx(sum(precisions) / 2)
    with pytest.raises(DataError, match=r"other names.*--zero-shot"):
        evaluate_labels(loaded, listed(tmp_path, "b", ["boat|dog", "cat", "boat"]))
    with pytest.raises(ConfigError, match="weights of its own for each label"):
        LabelPredictor(model("multilabel", tmp_path, text=text)[1], names=["cat"])


ZERO_SHOT = (("boat", 2, 0), ("cat", 1, 0), ("dog", 1, 0))


def listed(folder: Path, names: str, rows: list[str]) -> Images:
    """Images of a table with a column of label names."""
    for number in range(len(rows)):
        PHOTO.rotate(20 * number).save(folder / f"{number}.png")
    lines = [f"{number}.png,{row}" for number, row in enumerate([*rows])]
    (folder / f"{names}.csv").write_text("\n".join(["path,tags", *lines]) + "\n")
    found = open_images(f"csv:{folder / f'{names}.csv'}?labels=tags")
    assert isinstance(found, Images)
    return found


def test_data_are_measured_by_the_names_of_their_labels(tmp_path: Path) -> None:
    images = listed(tmp_path, "a", ["cat|dog", "car", "cat", "dog|car"])
    assert images.tree.names == (("car", "cat", "dog"),)
    torch.manual_seed(0)
    encoder = create("timm-features:test_convnext", image_size=32)
    rates = []
    for order in (("car", "cat", "dog"), ("dog", "car", "cat")):
        labels = LabelTree((3,), (), (order,), exclusive=False)
        objective = cast(Averaged[Any], build("objectives", "multilabel:head=plain", encoder, labels)).eval()
        head = objective.model.head
        # The same weights for the same name.
        numbers = [("car", "cat", "dog").index(name) for name in order]
        draw = torch.Generator().manual_seed(1)
        head.weight.data.copy_(torch.randn(head.weight.shape, generator=draw)[numbers])
        rates.append(evaluate_labels(LabelModel(objective, labels, "grid:cell=16", 32), images).results)
    assert rates[0] == pytest.approx(rates[1])
    assert "mAP" in rates[0]
    # A label that the data do not know is left out.
    some = evaluate_labels(
        LabelModel(objective, labels, "grid:cell=16", 32), listed(tmp_path, "c", ["cat", "car"])
    )
    assert [row[1:4] for row in some.labels_apart] == [("dog", 0, 2), ("car", 1, 0), ("cat", 1, 0)]
    assert some.results["unscored_classes"] == 1
    with pytest.raises(DataError, match="other names"):
        evaluate_labels(LabelModel(trained("multilabel"), LABELS, "grid:cell=16", 32), images)
