"""Objectives and images whose labels do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from castssl.datasets import many_labels
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.objectives.deit import DeiT
from castssl.objectives.moco import MoCoV3
from castssl.testing import samples
from castssl.training import check_labels
from tests.contracts.healthy import Classifier, Tagger

MANY = many_labels(("pet", "bird"), ("cat", "dog", "hen"), parents=[(0, 0, 1)])
FLAT = LabelTree.flat(["cat", "dog"])


@pytest.fixture(scope="module")
def paths(image_folder: Path) -> Images:
    images = open_images(f"folder:{image_folder}")
    assert isinstance(images, Images)
    return images


def labeled(paths: Images, tree: LabelTree = MANY, targets: Tensor | None = None) -> Images:
    """The same images with many labels each, all absent by default."""
    absent = torch.zeros(len(paths), sum(tree.sizes))
    return replace(paths, targets=absent if targets is None else targets, tree=tree)


def tagger(tree: LabelTree = MANY) -> Tagger:
    return Tagger(samples.SampleEncoder(), tree)


def test_many_labels_need_images_with_many_labels(paths: Images, capsys: pytest.CaptureFixture[str]) -> None:
    many = labeled(paths)
    check_labels(tagger(), many, many)
    assert not capsys.readouterr().err
    with pytest.raises(
        ConfigError, match=r"Tagger learns many labels .* training images have one class each"
    ):
        check_labels(tagger(), paths, paths)
    with pytest.raises(ConfigError, match=r"held-out images have one class each \(label levels: 2\); take"):
        check_labels(tagger(), many, paths)
    with pytest.raises(ConfigError, match="training images have no labels"):
        check_labels(tagger(), replace(paths, targets=paths.targets[:, :0], tree=LabelTree.none()))


def test_one_class_an_image_needs_images_with_one(paths: Images) -> None:
    many = labeled(paths)
    for objective in (DeiT(samples.SampleEncoder(), paths.tree), Classifier(samples.SampleEncoder(), FLAT)):
        check_labels(objective, paths, paths)
        with pytest.raises(
            ConfigError, match=r"learns one class an image, but the training .* of 5; take an"
        ):
            check_labels(objective, many)
        with pytest.raises(ConfigError, match="the held-out images carry many labels each"):
            check_labels(objective, paths, many)


def test_a_name_of_two_classes_is_noted_once(paths: Images, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = paths.tree.names
    names = (first, *(("other",) * len(level) for level in others))
    shared = replace(paths, tree=replace(paths.tree, names=names))
    objective = DeiT(samples.SampleEncoder(), shared.tree)
    check_labels(objective, shared, shared)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in lines] == ["names of level 1 with several classes: other"]
    check_labels(objective, paths, paths)
    assert not capsys.readouterr().err


def test_what_learns_no_labels_takes_any_images(paths: Images) -> None:
    moco = MoCoV3(samples.SampleEncoder(), hidden=16, out=8)
    for images in (paths, labeled(paths)):
        check_labels(moco, images, images)


def test_held_out_images_have_the_labels_that_are_learned(paths: Images) -> None:
    other = labeled(paths, many_labels(("cat", "dog", "hen")))
    message = (
        r"held-out images have 3 labels in levels of \(3,\), but the training images 5 in levels of \(2, 3\)"
    )
    with pytest.raises(ConfigError, match=message):
        check_labels(tagger(), labeled(paths), other)


def test_labels_that_are_never_known_are_told(paths: Images, capsys: pytest.CaptureFixture[str]) -> None:
    targets = torch.zeros(len(paths), 5)
    targets[:, 3:], targets[1:, 0] = -1, -1
    check_labels(tagger(), labeled(paths, targets=targets))
    assert f"2 of 5 labels are unknown in all {len(paths)} training images" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"none of the .* held-out images has a known label: all are -1"):
        check_labels(tagger(), labeled(paths), labeled(paths, targets=torch.full((len(paths), 5), -1.0)))
