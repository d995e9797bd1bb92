"""Scores of parts and wholes beside loops over images, classes and pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchmetrics import JaccardIndex

from castssl.datasets.parts import PartNames, PartTruth
from castssl.errors import ConfigError, ContractError, DataError
from castssl.evaluation.parts import Levels, Scored, best_names, score_parts
from castssl.metrics.boundary import count_boundaries, f_scores
from castssl.metrics.regions import region_iou
from castssl.segmenter import Segmenter, consecutive

NAMES = PartNames(("Bird", "Fish"), (("Bird Head", "Bird Wing"), ("Fish Fin",)))
Maps = NDArray[np.int32]


def scene(seed: int) -> tuple[Image.Image, PartTruth]:
    """An object of blocks in an image of noise, with a column of unknown pixels; its parts are rows."""
    draw = np.random.default_rng(seed)
    number = seed % 2 + 1
    inside = np.zeros((20, 24), bool)
    inside[2:13, 1:14] = True
    part = 1 + (np.arange(20)[:, None] > 6) if number == 1 else np.full((20, 1), 3)
    objects, parts = np.where(inside, number, 0), np.where(inside, part, 0)
    objects[:, 7] = parts[:, 7] = -1
    image = Image.fromarray(draw.integers(0, 256, (20, 24, 3)).astype(np.uint8))
    return image, PartTruth(*(labels.astype(np.int32) for labels in (objects, parts, parts)))


@dataclass
class Scenes:
    """Images in memory; ``faults`` cannot be read."""

    count: int = 4
    faults: dict[int, str] = field(default_factory=dict)
    names: PartNames = NAMES
    size: int | None = None
    make: Callable[[int], tuple[Image.Image, PartTruth]] = scene

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{index}.png"

    def read(self, index: int) -> tuple[Image.Image, PartTruth]:
        if index in self.faults:
            raise DataError(self.faults[index])
        return self.make(index)


class Blocks(Segmenter):
    """Blocks of 3, 5 and 12 pixels."""

    def __init__(self, levels: int = 3, untrained: int = 0) -> None:
        self.levels, self.untrained = levels, untrained

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> Maps:
        height, width = image.shape[:2]
        sides = (3, 5, 12)[-self.levels :]
        y, x = np.mgrid[:height, :width]
        return consecutive(np.stack([y // side * 100 + x // side for side in sides]))


def naive_iou(predicted: Maps, truth: Maps) -> float:
    """The mean IoU of the classes of one image."""
    known = truth >= 0
    ious = []
    for label in set(predicted[known].tolist()) | set(truth[known].tolist()):
        ours, true = (predicted == label) & known, (truth == label) & known
        ious.append((ours & true).sum() / (ours | true).sum())
    return float(np.mean(ious))


def naive_names(segments: Maps, truth: Maps) -> Maps:
    named = np.zeros_like(segments)
    for segment in np.unique(segments):
        inside = truth[(segments == segment) & (truth >= 0)]
        if inside.size:
            named[segments == segment] = np.bincount(inside).argmax()
    return named


def by_loop(level: int, which: int, count: int = 4) -> list[tuple[Maps, Maps]]:
    """The best class maps and the truth of each image."""
    pairs = []
    for index in range(count):
        image, truth = scene(index)
        segments = Blocks()(np.array(image))[level]
        pairs.append((naive_names(segments, truth[which]), truth[which]))
    return pairs


@pytest.mark.parametrize(("which", "level", "classes"), [(0, 2, 3), (1, 1, 4)])
def test_scores_are_those_of_loops(which: int, level: int, classes: int) -> None:
    (row,) = score_parts({"blocks": Blocks()}, Scenes(), recall=True)["blocks"].rows
    assert (row.levels, row.untrained) == (Levels(2, 1), False)
    found = (row.objects, row.parts)[which]
    pairs = by_loop(level, which)
    ious = [naive_iou(*pair) for pair in pairs]
    assert found.images == 4
    assert found.region_iou == pytest.approx(np.mean(ious))
    whole = [np.concatenate(maps) for maps in zip(*pairs, strict=True)]
    assert found.region_iou_pooled == pytest.approx(naive_iou(*whole))
    for label in range(classes):
        having = [iou for iou, (_, truth) in zip(ious, pairs, strict=True) if (truth == label).any()]
        assert found.class_images[label] == len(having)
        assert found.class_region_iou[label] == pytest.approx(np.mean(having))
        known = whole[1] >= 0
        ours, true = ((labels == label) & known for labels in whole)
        assert found.class_iou[label] == pytest.approx((ours & true).sum() / (ours | true).sum())
    both = [(torch.tensor(named), torch.tensor(truth)) for named, truth in pairs]
    counts = torch.stack([count_boundaries(*pair, classes, ignore_index=-1) for pair in both])
    f = f_scores(counts)
    assert found.boundary_f == pytest.approx(float(f[:, :-1].nanmean(1).nanmean()))
    assert found.boundary_f_any == pytest.approx(float(f[:, -1].nanmean()))
    assert found.boundary_f_any_pooled == pytest.approx(float(f_scores(counts.sum(0))[-1]))
    assert found.segments == len(np.unique(Blocks()(np.array(scene(0)[0]))[level]))
    assert 0 < found.recall < 1


def test_the_best_names_have_the_iou_of_region_iou() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        segments, truth = (draw.integers(low, 5, (9, 11)).astype(np.int32) for low in (0, -1))
        named = best_names(segments, truth).numpy()
        expected = region_iou(torch.tensor(segments)[None], torch.tensor(truth)[None])
        assert naive_iou(named, truth) == pytest.approx(float(expected), abs=1e-6)


def test_region_miou_is_the_mean_of_torchmetrics_over_images_as_in_the_released_code() -> None:
    (row,) = score_parts({"blocks": Blocks()}, Scenes())["blocks"].rows
    for found, level, which, classes in ((row.objects, 2, 0, 3), (row.parts, 1, 1, 4)):
        jaccard = JaccardIndex(task="multiclass", num_classes=classes, ignore_index=-1)
        ious = [float(jaccard(*map(torch.tensor, pair))) for pair in by_loop(level, which)]
        assert found.region_iou == pytest.approx(np.mean(ious))


def test_names_of_segments_are_scored_as_they_are() -> None:
    def naming(
        image: NDArray[np.uint8], objects: Maps, parts: Maps
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        assert image.shape[:2] == objects.shape == parts.shape
        assert objects.max() < parts.max()
        return np.ones(objects.shape, np.int64), np.full(parts.shape, 3)

    (row,) = score_parts({"blocks": Blocks()}, Scenes(1), naming=naming)["blocks"].rows
    truth = scene(0)[1]
    ones = np.ones_like(truth.objects)
    assert row.objects.region_iou == pytest.approx(naive_iou(ones, truth.objects))
    assert row.parts.region_iou == pytest.approx(naive_iou(3 * ones, truth.parts))
    assert math.isnan(row.objects.recall)


def test_what_cannot_be_scored_is_counted_and_listed() -> None:
    def make(index: int) -> tuple[Image.Image, PartTruth]:
        image, truth = scene(index)
        changed = {1: np.full_like(truth.objects, -1), 2: truth.objects + 7}
        return image, truth._replace(objects=changed.get(index, truth.objects))

    class Picky(Blocks):
        def __call__(self, image: NDArray[np.uint8], name: str = "") -> Maps:
            if name == "3.png":
                raise DataError("no masks of 3.png")
            return super().__call__(image, name)

    done: list[int] = []
    data = Scenes(6, {0: "broken"}, make=make)
    found = score_parts({"blocks": Blocks(), "picky": Picky()}, data, report=done.append)
    assert done == [0, 1, 2, 3, 4, 5, 6]
    assert [scored.rows[0].objects.images for scored in found.values()] == [3, 2]
    reasons = {"0.png": "broken", "1.png": "the object of no pixel is known"}
    reasons["2.png"] = "a pixel has the object 8, expected 0 to 2, or -1 where unknown"
    assert found["blocks"].unscored == reasons
    assert found["picky"].unscored == reasons | {"3.png": "no masks of 3.png"}


def test_no_image_and_no_readable_image_are_rows_without_numbers() -> None:
    for data in (Scenes(0), Scenes(2, {0: "a", 1: "b"})):
        scored = score_parts({"blocks": Blocks()}, data)["blocks"]
        (row,) = scored.rows
        assert (row.objects.images, len(scored.unscored)) == (0, len(data))
        assert math.isnan(row.objects.region_iou)
        assert math.isnan(row.parts.region_iou_pooled)


def test_an_image_of_one_class_and_data_without_parts() -> None:
    def make(index: int) -> tuple[Image.Image, PartTruth]:
        image, truth = scene(index)
        return image, PartTruth(*(np.zeros_like(labels) for labels in truth))

    (row,) = score_parts({"blocks": Blocks()}, Scenes(make=make))["blocks"].rows
    assert row.objects.region_iou == row.parts.region_iou == row.objects.region_iou_pooled == 1
    assert math.isnan(row.objects.boundary_f_any)
    names = PartNames(NAMES.objects, ((), ()))
    (row,) = score_parts({"blocks": Blocks()}, Scenes(names=names))["blocks"].rows
    assert (row.objects.images, row.parts.images) == (4, 0)


def rows(scored: Scored) -> list[tuple[Levels, bool]]:
    return [(row.levels, row.untrained) for row in scored.rows]


def test_objects_of_an_untrained_level_have_a_second_row() -> None:
    found = score_parts({"blocks": Blocks(untrained=1)}, Scenes())["blocks"]
    assert rows(found) == [(Levels(2, 1), True), (Levels(1, 1), False)]
    assert repr(found.rows[0].parts) == repr(found.rows[1].parts)  # Not a number is not equal to itself.
    assert found.rows[0].objects.region_iou != found.rows[1].objects.region_iou
    assert rows(score_parts({"blocks": Blocks(untrained=3)}, Scenes())["blocks"]) == [(Levels(2, 1), True)]


def test_levels_can_be_chosen_and_must_exist() -> None:
    found = score_parts({"a": Blocks(), "b": Blocks(1)}, Scenes())
    assert [rows(scored) for scored in found.values()] == [[(Levels(2, 1), False)], [(Levels(0, 0), False)]]
    chosen = score_parts({"a": Blocks()}, Scenes(), levels=Levels(1, 0))["a"]
    assert rows(chosen) == [(Levels(1, 0), False)]
    with pytest.raises(ConfigError, match=r"has 1 levels, 0 \(finest\) to 0 .* got the level -2"):
        score_parts({"b": Blocks(1)}, Scenes(), levels=Levels(0, -2))


def test_the_center_crop_is_of_image_and_truth_alike() -> None:
    seen: list[tuple[int, ...]] = []

    class Looks(Blocks):
        def __call__(self, image: NDArray[np.uint8], name: str = "") -> Maps:
            seen.append(image.shape)
            return (image[None, ..., 0] > 127).astype(np.int32)

    def make(index: int) -> tuple[Image.Image, PartTruth]:
        labels = np.zeros((20, 40), np.int32)
        labels[:, 10:20] = 1
        image = Image.fromarray((labels * 255).astype(np.uint8)).convert("RGB")
        return image, PartTruth(labels, labels, labels)

    (row,) = score_parts({"looks": Looks()}, Scenes(1, make=make), size=40)["looks"].rows
    assert seen == [(40, 40, 3)]
    assert row.objects.region_iou == 1


def test_a_segmenter_that_breaks_its_contract_is_named() -> None:
    class Small(Segmenter):
        def __call__(self, image: NDArray[np.uint8], name: str = "") -> Maps:
            return np.zeros((1, 2, 2), np.int32)

    with pytest.raises(ContractError, match=r"Small returned int32 \(1, 2, 2\) for the image 0\.png"):
        score_parts({"small": Small()}, Scenes())


def test_a_segmenter_of_varying_levels_breaks_its_contract() -> None:
    class Varying(Segmenter):
        def __call__(self, image: NDArray[np.uint8], name: str = "") -> Maps:
            return np.zeros((3 if name == "0.png" else 1, *image.shape[:2]), np.int32)

    with pytest.raises(ContractError, match=r"Varying returned int32 \(1, .*, expected int32 \(3, "):
        score_parts({"varying": Varying()}, Scenes())
