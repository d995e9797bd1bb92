"""Segments that merge one by one: in the order of a naive oracle, inside the model's own levels."""

from __future__ import annotations

import tracemalloc
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import castssl
from castssl.checkpoints.classifier import Classifier, load_classifier, save_classifier
from castssl.errors import ConfigError, DataError
from castssl.inference.look import Floats, Ints, _merge, merge_order, of_model, of_segmenter
from castssl.inference.predict import predict
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.tree_kl import TreeKL
from castssl.registry import build_segmenter
from castssl.segmenter import Segmenter
from castssl.superpixels.merge import Merges, cut
from castssl.visualization.page import Parts
from castssl.visualization.photographs import photographs

TREE = LabelTree((2, 3), ((0, 0, 1),), (("bird", "cat"), ("gull", "lark", "lion")))


def ward(values: Floats, areas: Ints, one: list[int], other: list[int]) -> float:
    """The growth of the squared distances of all pixels to the mean of their segment."""
    spreads = []
    for members in (one, other, one + other):
        mean = np.average(values[members], axis=0, weights=areas[members])
        spreads.append(float((areas[members] * ((values[members] - mean) ** 2).sum(1)).sum()))
    return spreads[2] - spreads[1] - spreads[0]


def naive_order(levels: list[Ints], features: list[Floats], areas: Ints) -> Merges:
    """Of all pairs in one segment of the next level, the cheapest by Ward; all is computed anew each time."""
    merges: Merges = []
    members = {leaf: [leaf] for leaf in range(len(areas))}
    for level, (rows, table) in enumerate(zip(levels, features, strict=True)):
        wholes = levels[level + 1] if level + 1 < len(levels) else np.zeros(len(areas), int)
        values = table[rows]
        while pairs := [
            (a, b) for a, b in combinations(members, 2) if wholes[members[a][0]] == wholes[members[b][0]]
        ]:
            costs = [ward(values, areas, members[a], members[b]) for a, b in pairs]
            best = pairs[int(np.argmin(costs))]
            merges.append(best)
            members[len(areas) + len(merges) - 1] = members.pop(best[0]) + members.pop(best[1])
    return merges


def same(one: Any, other: Any) -> bool:
    """Whether two label maps are the same partition, whatever the numbers."""
    pairs = {*zip(np.ravel(one).tolist(), np.ravel(other).tolist(), strict=True)}
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_the_naive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    middle = rng.permutation(np.arange(24) % 7)
    levels: list[Ints] = [rng.permutation(24), middle, np.array([0, 2, 0, 1, 2, 1, 0])[middle]]
    features: list[Floats] = [rng.normal(size=(size, 5)) for size in (24, 9, 3)]
    areas = rng.integers(1, 50, 24)
    found, expected = merge_order(levels, features, areas), naive_order(levels, features, areas)
    assert [set(pair) for pair in found] == [set(pair) for pair in expected]
    for level in levels:
        assert same(cut(found, 24, len(np.unique(level))), level)


def test_order_of_one_segment_of_none_and_of_features_that_are_no_numbers() -> None:
    one = np.zeros(1, np.int64)
    assert merge_order([one], [np.ones((1, 3))], one + 5) == []
    assert merge_order([one[:0]], [np.ones((1, 3))], one[:0]) == []
    broken = np.array([[np.nan], [np.inf], [1.0], [np.nan]])
    assert len(merge_order([np.arange(4)], [broken], np.ones(4, np.int64))) == 3


class _Pixels(Segmenter):
    """Each pixel is a segment."""

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        return np.arange(image[..., 0].size, dtype=np.int32).reshape(1, *image.shape[:2])


def test_memory_does_not_grow_with_the_square_of_the_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared in small parts, the order is the same; a table of all pairs would take 72 MB."""
    count, few = 3000, 100
    rng = np.random.default_rng(0)
    values, areas = rng.normal(size=(count, 3)), rng.integers(1, 50, count)
    expected = merge_order([np.arange(few)], [values[:few]], areas[:few])
    monkeypatch.setattr("castssl.inference.look.STORED", 1)
    monkeypatch.setattr("castssl.inference.look.COMPARED", 1000)
    assert merge_order([np.arange(few)], [values[:few]], areas[:few]) == expected
    monkeypatch.setattr("castssl.inference.look.COMPARED", 2**16)
    tracemalloc.start()
    order = _merge(values, areas.astype(float), np.zeros(count, np.int64), count - 1)
    next(order)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8e6


def test_more_segments_than_a_page_holds_are_refused_before_they_are_compared() -> None:
    with pytest.raises(DataError, match=r"a\.png has 65,536 segments, and a page holds at most 65,535"):
        of_segmenter(_Pixels())(Image.new("RGB", (256, 256)), "a.png")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return photographs()[0][1].resize((150, 130))


def check_levels(parts: Parts) -> None:
    count = len(parts.levels[0].ids)
    assert len(parts.merges) == count - 1
    for level in parts.levels:
        assert same(cut(parts.merges, count, len(np.unique(level.ids))), level.ids)


def test_the_levels_of_a_model_are_its_chain_of_argmaxes(photo: Image.Image) -> None:
    torch.manual_seed(0)
    encoder = create("nano", image_size=64, superpixels="seeds:count=64,bins=5,iterations=2")
    parts, found = of_model(encoder)(photo, ""), castssl.segment(photo, encoder)
    assert [level.size for level in parts.levels] == [64, 32, 16, 8]
    check_levels(parts)
    at_notch = {}
    for stage, level in enumerate(parts.levels):
        labels = found.hierarchy.labels(stage)[0].numpy()
        assert np.array_equal(np.append(level.ids, -1)[parts.finest], labels)
        count = len(np.unique(level.ids))
        at_notch[count] = np.append(cut(parts.merges, len(level.ids), count), -1)[parts.finest]
        assert same(at_notch[count], labels)
    assert len(at_notch) == 4
    again = of_model(encoder)(photo, "")
    assert again.merges == parts.merges


def test_an_encoder_without_superpixels_has_one_level(photo: Image.Image) -> None:
    parts = of_model(create("nano_vit", image_size=32))(photo, "")
    assert len({level.size for level in parts.levels}) == len(parts.levels)
    check_levels(parts)


def test_only_models_of_rgb_images_are_shown() -> None:
    with pytest.raises(ConfigError, match="RGB images, got one of 5 channels"):
        of_model(create("nano", image_size=32, channels=5))


def test_a_segmenter_merges_by_color_inside_its_levels(photo: Image.Image) -> None:
    segmenter = build_segmenter("merge:sizes=(20,9,4),superpixels=grid:cell=16")
    parts = of_segmenter(segmenter)(photo, "")
    assert [level.size for level in parts.levels] == [20, 9, 4]
    check_levels(parts)
    for level, labels in zip(parts.levels, segmenter(np.asarray(photo)), strict=True):
        assert np.array_equal(level.ids[parts.finest], labels)
    segmenter.nested = False
    assert len(of_segmenter(segmenter)(photo, "").levels) == 1


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    path = tmp_path_factory.mktemp("run") / "encoder.safetensors"
    save_classifier(TreeKL(encoder, TREE), path, spec="tree-kl", labels=TREE)
    return load_classifier(path)


def test_evidence_and_classes_are_those_of_predict(classifier: Classifier, tmp_path: Path) -> None:
    # Of a square image of the size of the training predict crops; 32 of 36 pixels are its center.
    pixels = np.random.default_rng(0).integers(0, 255, (37, 37, 3), dtype=np.uint8)
    prediction = predict(pixels, classifier)
    view = Image.fromarray(prediction.seen.permute(1, 2, 0).numpy())
    encoder = classifier.objective.encoder
    parts = of_model(encoder, classifier)(view, "")
    assert [one.name for one in parts.classes] == [level.name for level in prediction.path]
    for one, level, evidence in zip(parts.classes, prediction.path, prediction.evidence, strict=True):
        assert one.probability == pytest.approx(level.probability)
        shown = one.moved[parts.finest]
        for segment in evidence.labels.unique():
            inside = np.unique(parts.finest[(evidence.labels == segment).numpy()])
            assert one.moved[inside].sum() == pytest.approx(
                float(evidence.moved[segment]), rel=1e-3, abs=1e-6
            )
        assert shown.std() > 0
    assert encoder.sizes == (16, 8, 4, 2)


def test_a_wide_image_has_more_superpixels_than_the_training(classifier: Classifier) -> None:
    wide = Image.effect_noise((96, 32), 90).convert("RGB")
    encoder = classifier.objective.encoder
    before = encoder.sizes
    parts = of_model(encoder, classifier)(wide, "")
    assert len(parts.levels[0].ids) == 48
    assert all(len(one.moved) == 48 for one in parts.classes)
    assert encoder.sizes == before
