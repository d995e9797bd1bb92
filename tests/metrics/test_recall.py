"""Average recall beside a greedy matching that loops over thresholds, masks and regions."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from castssl.errors import PluginError
from castssl.metrics.recall import LIMIT, AverageRecall

Maps = NDArray[np.int32]


def naive(images: list[tuple[Maps, Maps]]) -> float:
    """COCO's matching: each mask in its order takes the free region of the largest IoU at the threshold."""
    hits, total = np.zeros(10), 0
    for maps, regions in images:
        masks = []
        for level in maps[::-1]:
            areas = {label: int((level == label).sum()) for label in np.unique(level[level >= 0])}
            masks += [level == label for label in sorted(areas, key=lambda one: (-areas[one], one))]
        true = [regions == number for number in np.unique(regions[regions > 0])]
        total += len(true)
        for place, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
            free = set(range(len(true)))
            for mask in masks[:LIMIT]:
                iou = {at: (mask & true[at]).sum() / (mask | true[at]).sum() for at in free}
                best = max(iou, key=lambda at: iou[at], default=None)
                if best is not None and iou[best] >= threshold - 1e-9:
                    free.remove(best)
            hits[place] += len(true) - len(free)
    return float(hits.mean() / total)


def drawn(seed: int) -> list[tuple[Maps, Maps]]:
    """Regions, and segments of two levels that are near some of them."""
    draw = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        regions = np.kron(draw.integers(-1, 4, (3, 3)), np.ones((4, 5), int)).astype(np.int32)
        fine = np.where(draw.random(regions.shape) < 0.1, -1, regions + 1).astype(np.int32)
        images.append((np.stack([fine, fine // 2]), regions))
    return images


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_greedy_matching(seed: int) -> None:
    recall, images = AverageRecall(), drawn(seed)
    for maps, regions in images:
        recall.update(maps, regions)
    assert recall.compute() == pytest.approx(naive(images))
    assert 0 < recall.compute() < 1


def test_exact_segments_are_all_found_and_one_segment_finds_one() -> None:
    regions = np.arange(1, 5, dtype=np.int32).repeat(6).reshape(4, 6)
    recall = AverageRecall()
    recall.update(regions[None], regions)
    assert recall.compute() == 1
    # Half of the image is no region's half; a whole level of one segment overlaps each by a quarter.
    recall.update(np.zeros((1, 4, 6), np.int32), regions)
    assert recall.compute() == 0.5


def test_only_the_first_masks_count() -> None:
    fine = np.arange(150, dtype=np.int32).reshape(10, 15)
    recall = AverageRecall()
    recall.update(fine[None], (fine == 149).astype(np.int32))
    assert recall.compute() == 0  # equally large segments count in the order of their numbers
    recall.update(fine[None], (fine == LIMIT - 1).astype(np.int32))
    assert recall.compute() == 0.5


def test_without_regions_or_without_segments() -> None:
    none = np.zeros((4, 4), np.int32)
    recall = AverageRecall()
    assert math.isnan(recall.compute())
    recall.update(none[None], none - 1)
    assert math.isnan(recall.compute())
    recall = AverageRecall()
    recall.update(none[None] - 1, none + 1)
    assert recall.compute() == 0


def test_wrong_sizes_and_a_missing_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"got \(1, 4, 4\) and \(4, 5\)"):
        AverageRecall().update(np.zeros((1, 4, 4), np.int32), np.zeros((4, 5), np.int32))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(PluginError, match="install faster-coco-eval"):
        AverageRecall()
