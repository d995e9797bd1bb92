"""What the page of recipes/space shows; the page itself is opened in tests/slow/test_space_page.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import castssl
from castssl.checkpoints.classifier import save_classifier
from castssl.checkpoints.hub import save_pretrained
from castssl.contracts import Encoder
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.tree_kl import TreeKL
from castssl.visualization.photographs import photographs
from recipes.space.app import PANEL, VARIABLE, answer, classifies
from tests import forked

ROOT = Path(__file__).parents[2]
TREE = LabelTree((2, 3), ((0, 0, 1),), (("animal", "plant"), ("bird", "cat", "oak")))


def small() -> Encoder:
    """An encoder of 64-pixel images with new weights."""
    torch.manual_seed(0)
    return create("nano", image_size=64, superpixels="seeds:count=64,bins=5,iterations=2")


def test_it_shows_each_stage_and_the_class_of_each_level(tmp_path: Path) -> None:
    objective = TreeKL(small(), TREE)
    save_classifier(objective, tmp_path / "encoder.safetensors", spec="tree-kl", labels=TREE)
    model = castssl.load(tmp_path / "encoder.safetensors")
    image = photographs()[0][1]
    pictures, rows = answer(model, image)
    counts = [int(caption.split()[0]) for _, caption in pictures]
    assert counts == [len(model.segment(image).labels(stage).unique()) for stage in range(len(counts))]
    assert counts == sorted(counts, reverse=True)
    assert {picture.height for picture, _ in pictures} == {PANEL}
    expected = model.classify(image).path
    assert [row[1] for row in rows] == [level.name for level in expected]
    assert [row[2] for row in rows] == [f"{level.probability:.1%}" for level in expected]


def test_an_encoder_alone_has_segments_and_no_classes(tmp_path: Path) -> None:
    save_pretrained(small(), tmp_path / "model")
    model = castssl.load(tmp_path / "model")
    assert not classifies(model)
    pictures, rows = answer(model, photographs()[1][1])
    assert len(pictures) == len(model.encoder.sizes)
    assert rows == []


@pytest.mark.parametrize("arguments", [[], ["--weights", "nowhere"]])
def test_without_weights_it_says_what_to_give(arguments: list[str]) -> None:
    done = forked.run([str(ROOT / "recipes" / "space" / "app.py"), *arguments], environment={VARIABLE: ""})
    assert done.returncode in (1, 2)
    assert "hf:USER/NAME" in done.stderr
    assert "Traceback" not in done.stderr
