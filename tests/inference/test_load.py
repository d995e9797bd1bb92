"""``castssl.load``: segments, features and classes of one source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints.classifier import load_classifier, save_classifier
from castssl.checkpoints.native import save_encoder
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load as load_images
from castssl.data.normalize import to_views
from castssl.datasets.open import open_images
from castssl.errors import ConfigError, DataError
from castssl.evaluation.held_out import Forward, Subject
from castssl.inference.predict import predict
from castssl.labels import LabelTree
from castssl.objectives.deit import DeiT
from castssl.registry import build

SPEC = "grid:cell=8"
CLASSES = LabelTree.flat([*"abcde"])


def encoder() -> Any:
    torch.manual_seed(7)
    return castssl.create("cast_nano", image_size=64, superpixels=SPEC).eval()


def photo(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((150, 130))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has learned classes."""
    folder = tmp_path_factory.mktemp("run")
    save_classifier(DeiT(encoder(), CLASSES), folder / "encoder.safetensors", spec="deit", labels=CLASSES)
    return folder


def test_one_model_segments_gives_features_and_classifies(run: Path) -> None:
    model = castssl.load(run, device="cpu")
    assert repr(model) == f"Model(cast_nano of {run / 'encoder.safetensors'}, trained at 64 pixels)"
    expected = castssl.segment(photo(), run)
    assert torch.equal(model.segment(photo()).labels(-1), expected.labels(-1))
    first, second = model.segment([photo(), photo(1)], image_size=64)
    assert first.seen.shape == (3, 64, 72)
    assert not torch.equal(first.features(-1), second.features(-1))
    level = predict(photo(), load_classifier(run), explain=False).path[0]
    alone, (listed,) = model.classify(photo()), model.classify([photo()])
    assert alone.path == listed.path == (level,)
    assert level.name in "abcde"
    assert (alone.evidence, len(model.classify(photo(), explain=True).evidence)) == ((), 1)
    with pytest.raises(DataError, match="holds the classifiers of deit without a head for segmentation"):
        model.segment_classes(photo())


def test_features_are_what_the_evaluators_read(tmp_path: Path) -> None:
    save_encoder(encoder(), tmp_path / "encoder.safetensors")
    for place, name in enumerate("pqr"):
        (tmp_path / "images" / name).mkdir(parents=True)
        photo(place).save(tmp_path / "images" / name / "x.png")
    model, images = castssl.load(tmp_path, device="cpu"), open_images(f"folder:{tmp_path / 'images'}")
    backend = build("superpixels", SPEC)
    loader = load_images(images, views=CenterView(64), superpixels=backend, batch_size=3, train=False)
    view = to_views(next(iter(loader)), backend).views[0]
    forward = Forward(Subject(model.encoder))
    found = model.features([tmp_path / "images" / name / "x.png" for name in "pqr"])
    with torch.no_grad():
        torch.testing.assert_close(found.image, forward.feature(view))
        hierarchy = forward.segmentation(view)
    assert [x.shape for x in found.segments] == [(3, size, 64) for size in (64, 32, 16, 8)]
    torch.testing.assert_close(found.segments[-1], hierarchy.stages[-1].x)
    torch.testing.assert_close(found.mass[0].sum(1), torch.full((3,), 256.0))
    assert model.features(photo(2)).image.shape == (1, 64)
    torch.testing.assert_close(model.features(photo(2)).image[0], found.image[2])
    with pytest.raises(ConfigError, match="no images"):
        model.features([])
    with pytest.raises(DataError, match="without a classifier of images"):
        model.classify(photo())


def test_features_of_supervised_models_are_of_bicubic_views(run: Path) -> None:
    model = castssl.load(run, device="cpu")
    large = photo().resize((301, 207))
    default, linear = model.features(large), model.features(large, interpolation="bilinear")
    assert not torch.equal(default.image, linear.image)
    assert torch.equal(default.image, model.features(large, interpolation="bicubic").image)
