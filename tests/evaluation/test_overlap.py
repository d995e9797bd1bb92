from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.contracts import Encoder
from castssl.datasets.images import Images
from castssl.encoder_config import EncoderConfig
from castssl.errors import DataError
from castssl.evaluation.overlap import MEASURES, Pair, known_to, objects, overlaps, random_overlaps, segmented
from castssl.metrics.partition import best_overlap
from castssl.superpixels.grid import Grid
from castssl.types import Hierarchy, LabelTree, Tokens, View


class Drawn:
    """Pictures 40 x 30 whose object is a bright square; every third has no mask, every fourth no parts."""

    def __init__(self, count: int = 6) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def pair(self, index: int, /) -> tuple[Image.Image, Image.Image] | None:
        mask = self.mask(index)
        return None if mask is None else (Image.merge("RGB", [self._square(index)] * 3), mask)

    def mask(self, index: int, /) -> Image.Image | None:
        return None if index % 3 == 2 else self._square(index)

    def parts(self, index: int, /) -> Image.Image | None:
        """The square's upper half is part 1, its lower half part 2."""
        parts = np.array(self._square(index)) // 255
        parts[15:] *= 2
        return None if index % 4 == 3 else Image.fromarray(parts)

    def _square(self, index: int) -> Image.Image:
        pixels = np.zeros((30, 40), np.uint8)
        pixels[10:20, 12 + index : 22 + index] = 255
        return Image.fromarray(pixels)


class Halves(Encoder):
    """An encoder of two stages: every superpixel alone, then left and right half."""

    dim = 2
    sizes: tuple[int, ...] = (16, 2)
    config = EncoderConfig("halves")

    def forward(self, view: View) -> Hierarchy:
        assert not self.training
        assert view.image.dtype == torch.float32
        rows = len(view.image)
        fine = Tokens(torch.zeros(rows, 16, 2), torch.zeros(rows, 1, 2), torch.ones(rows, 16))
        right = torch.arange(16) % 4 // 2
        assign = torch.nn.functional.one_hot(right, 2).float().expand(rows, -1, -1)
        coarse = Tokens(torch.zeros(rows, 2, 2), torch.zeros(rows, 1, 2), torch.full((rows, 2), 8.0))
        return Hierarchy(view.segments, (fine, coarse), (assign,))


class Listed:
    """A source of nothing but names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return self.names[row]

    path = name

    def open(self, row: int) -> IO[bytes]:
        raise FileNotFoundError(self.names[row])


class Known:
    """Masks of some names."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def knows(self, name: str) -> bool:
        return name in self.names

    def whole(self, name: str) -> Image.Image | None:
        return Image.new("L", (2, 2), 255) if self.knows(name) else None

    parts = whole


def left_half(size: int = 16) -> Pair:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, : size // 2] = True
    return Pair(torch.randint(256, (3, size, size), dtype=torch.uint8), mask)


def one_cell(size: int = 16) -> Pair:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[: size // 4, : size // 4] = True
    return Pair(torch.randint(256, (3, size, size), dtype=torch.uint8), mask)


def test_images_and_masks_are_cut_alike() -> None:
    pairs = objects(Drawn(), 60)
    assert len(pairs) == 4
    assert [pair.parts is None for pair in pairs] == [False, False, True, False]
    for image, mask, parts in pairs:
        assert parts is None or torch.equal(parts > 0, mask)
        assert parts is None or set(parts.flatten().tolist()) == {0, 1, 2}
        assert (image.dtype, image.shape) == (torch.uint8, (3, 60, 60))
        assert (mask.dtype, mask.shape) == (torch.bool, (60, 60))
        bright = image.float().mean(0) > 127
        assert float((bright & mask).sum() / (bright | mask).sum()) > 0.9


def test_objects_outside_the_square_are_left_out() -> None:
    assert len(objects(Drawn(60), 30)) < len(objects(Drawn(20), 30)) * 3


def test_a_limit_spreads_over_all_images() -> None:
    class Recorded(Drawn):
        asked: list[int]

        def mask(self, index: int, /) -> Image.Image | None:
            self.asked.append(index)
            return None

    drawn = Recorded(10)
    drawn.asked = []
    assert objects(drawn, 16, limit=5) == []
    assert drawn.asked == [0, 2, 4, 6, 8]
    drawn.asked = []
    objects(drawn, 16, limit=99)
    assert drawn.asked == list(range(10))


def test_each_stage_gets_the_mean_of_its_best_overlaps() -> None:
    encoder = Halves()
    encoder.train()
    pairs = [left_half(), one_cell(), left_half()]
    found = overlaps(encoder, segmented(pairs, Grid(4), batch=2), device="cpu")
    assert found["object_iou"] == pytest.approx(((1 / 8 + 1 + 1 / 8) / 3, (1 + 1 / 8 + 1) / 3))
    # Both halves are background if one cell alone is the object: 15 of 16 cells, and nothing of the object.
    assert found["region_iou"] == pytest.approx((1, (1 + 15 / 32 + 1) / 3))
    assert "part_iou" not in found
    assert encoder.training


def test_parts_count_where_they_are_known() -> None:
    upper, unknown = left_half(), one_cell()
    parts = upper.inside.to(torch.uint8)
    parts[8:] *= 2
    pairs = [upper._replace(parts=parts), unknown, upper._replace(parts=upper.inside.long())]
    found = overlaps(Halves(), segmented(pairs, Grid(4), batch=2), device="cpu")
    assert tuple(found) == MEASURES
    # Left and right half: the background is right, one part gets all of the left half, the other nothing.
    assert found["part_iou"] == pytest.approx((1, ((1 + 1 / 2 + 0) / 3 + 1) / 2))
    assert overlaps(Halves(), segmented(pairs, Grid(4), batch=1), device="cpu") == found


def test_a_segmenting_encoder_is_asked_to_segment() -> None:
    class Deeper(Halves):
        def segment(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
            whole = Halves.forward(self, view)
            return whole._replace(stages=whole.stages[:1], assigns=())

    assert len(overlaps(Deeper(), segmented([one_cell()], Grid(4)), device="cpu")["region_iou"]) == 1


def test_images_without_an_object_do_not_count() -> None:
    nothing = Pair(left_half()[0], torch.zeros(16, 16, dtype=torch.bool))
    assert overlaps(Halves(), segmented([nothing, one_cell()], Grid(4)), device="cpu")["object_iou"][0] == 1
    with pytest.raises(DataError, match="mask"):
        overlaps(Halves(), segmented([nothing], Grid(4)), device="cpu")
    with pytest.raises(DataError, match="mask"):
        random_overlaps(segmented([], Grid(4)), [2])


def test_superpixels_run_where_they_belong() -> None:
    pairs = [left_half(), one_cell()]
    assert overlaps(Halves(), segmented(pairs, Grid(4, runs_on="worker")), device="cpu") == overlaps(
        Halves(), segmented(pairs, Grid(4)), device="cpu"
    )


def test_merging_at_random_has_its_ends_and_its_seed() -> None:
    pairs = [left_half(), one_cell()]
    found = random_overlaps(segmented(pairs, Grid(4)), [16, 1])
    assert found["object_iou"] == pytest.approx(((1 / 8 + 1) / 2, (1 / 2 + 1 / 16) / 2))
    # One segment is one region: half the image is right, or 15 of 16 cells.
    assert found["region_iou"] == pytest.approx((1, (1 / 4 + 15 / 32) / 2))
    images = segmented(pairs, Grid(4))
    assert random_overlaps(images, [4], seed=3) == random_overlaps(images, [4], seed=3)
    assert len({random_overlaps(images, [4], seed=seed)["object_iou"] for seed in range(5)}) > 1


def test_an_object_that_is_a_union_of_superpixels_is_hard_to_hit_by_chance() -> None:
    pairs = [left_half() for _ in range(30)]
    (score,) = random_overlaps(segmented(pairs, Grid(4)), [2])["object_iou"]
    perfect = best_overlap(pairs[0][1].long()[None], pairs[0][1][None])
    assert score < 0.9 * float(perfect)


def test_masks_choose_the_images_that_they_know() -> None:
    source = Listed(["x/a.png", "x/b.png", "y/c.png"])
    images = Images(source, np.arange(3), torch.empty(3, 0, dtype=torch.int64), LabelTree.none())
    first, second = images.take([0]), images.take([1, 2])
    known = known_to(Known({"x/b.png"}), first, second)
    assert known is not None
    assert [known.name(index) for index in range(len(known))] == ["x/b.png"]
    assert known.mask(0) is not None
    assert images.masks is second.masks is None
    assert known_to(Known({"z"}), first, second) is None
