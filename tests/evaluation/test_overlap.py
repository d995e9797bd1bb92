from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.encoder_config import EncoderConfig
from castssl.errors import DataError
from castssl.evaluation import overlap
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.evaluation.overlap import Overlap, masked_by, object_masks, scores
from castssl.labels import LabelTree
from castssl.metrics.partition import best_overlap
from castssl.superpixels.grid import Grid
from castssl.superpixels.merge import KINDS
from castssl.types import Hierarchy, Tokens, View
from tests.evaluation import toys

SIDE = 32
"""Pixels of a side of the images; the center view of 28 pixels leaves out two at each border."""
LEFT_HALF = np.s_[:, :16]
ONE_CELL = np.s_[:9, :9]
NOTHING = np.s_[:0, :0]
OUTSIDE = np.s_[:, :2]


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

    def mask(self, name: str) -> Image.Image | None:
        return Image.new("L", (2, 2), 255) if self.knows(name) else None

    parts = mask


def written(root: Path, *objects: Any, parts: Mapping[int, np.ndarray] | None = None) -> Path:
    """A data set whose held-out images have these objects, and parts by image."""
    for folder in ("train/a", "val/a", "masks/val/a", "parts/val/a"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE)).save(root / "train/a/0.png")
    for number, region in enumerate(objects):
        name, mask = f"val/a/{number:02}.png", np.zeros((SIDE, SIDE), np.uint8)
        mask[region] = 255
        Image.new("RGB", (SIDE, SIDE), (9 * number, 90, 0)).save(root / name)
        Image.fromarray(mask).save(root / "masks" / name)
        if parts and number in parts:
            Image.fromarray(parts[number].astype(np.uint8)).save(root / "parts" / name)
    return root


def evaluation(root: Path, *sizes: int, **options: Any) -> Evaluation:
    view = {"view": CenterView(28), "superpixels": Grid(7), "batch_size": 2}
    return toys.evaluation(root, Overlap(sizes or (16, 2)), **view | options)


def measured(root: Path, encoder: Encoder | None = None, **options: Any) -> dict[str, float]:
    return evaluation(root, **options)(Subject(encoder or Halves()))


def means(results: Mapping[str, float], measure: str) -> list[float]:
    return [value for name, value in results.items() if name.startswith(measure)]


def test_masks_are_cut_as_the_center_view() -> None:
    pixels = np.zeros((30, 40), np.uint8)
    pixels[10:20, 14:24] = 255
    view = CenterView(60)
    image = view.crop(Image.merge("RGB", [Image.fromarray(pixels)] * 3))[0].image
    mask = view.crop_mask(Image.fromarray(pixels)) > 127
    assert (mask.dtype, mask.shape) == (torch.bool, (60, 60))
    bright = image.float().mean(0) > 127
    assert float((bright & mask).sum() / (bright | mask).sum()) > 0.9
    numbers = view.crop_mask(Image.fromarray(pixels.astype(np.int32) * 2))
    assert torch.equal(numbers == 510, mask)


def test_objects_outside_the_view_are_left_out(tmp_path: Path) -> None:
    root = written(tmp_path, LEFT_HALF, OUTSIDE, NOTHING, ONE_CELL)
    held_out = evaluation(root).held_out
    assert isinstance(held_out, Images)
    masks = object_masks(held_out, range(4), CenterView(28))
    assert list(masks) == [0, 3]
    inside, parts = masks[0]
    assert inside.float().mean() == 0.5
    assert set(parts.flatten().tolist()) == {-1}


def test_masks_of_other_values_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = written(tmp_path, *[LEFT_HALF] * 3, OUTSIDE, NOTHING)
    assert evaluation(root).evaluators[0].images() == [0, 1, 2]
    assert capsys.readouterr().err == ""
    for number, most in ((0, 1), (2, 38)):  # 38 is the gray of the first object of VOC's palette.
        path = root / f"masks/val/a/{number:02}.png"
        Image.open(path).point(lambda value, most=most: value and most).save(path)
    assert evaluation(root).evaluators[0].images() == [1]
    noted = capsys.readouterr().err
    assert "images left out, as their masks have no object: 2, such as a/00.png. The largest value" in noted
    assert "of these masks is 38; expected 255 on the object and 0 elsewhere" in noted


def test_a_limit_spreads_over_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = written(tmp_path, *[LEFT_HALF] * 10)
    monkeypatch.setattr(overlap, "MASKED", 5)
    assert evaluation(root).evaluators[0].images() == [0, 2, 4, 6, 8]
    monkeypatch.setattr(overlap, "MASKED", 99)
    assert evaluation(root).evaluators[0].images() == list(range(10))


def test_each_stage_gets_the_mean_of_its_best_overlaps(tmp_path: Path) -> None:
    encoder = Halves()
    encoder.train()
    results = measured(written(tmp_path, LEFT_HALF, ONE_CELL, LEFT_HALF), encoder)
    assert means(results, "object") == pytest.approx([(1 / 8 + 1 + 1 / 8) / 3, (1 + 1 / 8 + 1) / 3])
    # Both halves are background if one cell alone is the object: 15 of 16 cells, and nothing of the object.
    assert means(results, "region") == pytest.approx([1, (1 + 15 / 32 + 1) / 3])
    assert means(results, "part") == []
    assert encoder.training


def test_parts_count_where_they_are_known(tmp_path: Path) -> None:
    half = np.zeros((SIDE, SIDE))
    half[LEFT_HALF] = 1
    halves = half.copy()
    halves[16:] *= 2
    root = written(tmp_path, LEFT_HALF, ONE_CELL, LEFT_HALF, parts={0: halves, 2: half})
    results = measured(root)
    assert [len(means(results, name)) for name in overlap.MEASURES] == [2, 2, 2]
    # Left and right half: the background is right, one part gets all of the left half, the other nothing.
    assert means(results, "part") == pytest.approx([1, ((1 + 1 / 2 + 0) / 3 + 1) / 2])
    assert measured(root, batch_size=1) == results


def test_a_segmenting_encoder_is_asked_to_segment(tmp_path: Path) -> None:
    class Deeper(Halves):
        def segment(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
            hierarchy = Halves.forward(self, view)
            return hierarchy._replace(stages=hierarchy.stages[:1], assigns=())

    assert len(means(measured(written(tmp_path, ONE_CELL), Deeper()), "region")) == 1


def test_images_without_an_object_do_not_count(tmp_path: Path) -> None:
    root = written(tmp_path, NOTHING, ONE_CELL)
    assert means(measured(root), "object")[0] == 1
    written(tmp_path, NOTHING, NOTHING)
    assert measured(root) == evaluation(root).baselines()["chance"] == {}


def test_an_unreadable_image_does_not_lend_its_mask_to_another(tmp_path: Path) -> None:
    root = written(tmp_path, LEFT_HALF, ONE_CELL)
    (root / "val/a/00.png").write_bytes(b"")
    # Its header is unreadable, too, so it has no mask.
    assert means(measured(root), "object")[0] == 1
    noise = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "val/a/00.png")
    content = bytearray((root / "val/a/00.png").read_bytes())
    content[1000:1100] = bytes(100)
    (root / "val/a/00.png").write_bytes(content)
    evaluated = evaluation(root)
    assert evaluated.evaluators[0].images() == [0, 1]
    assert means(evaluated(Subject(Halves())), "object")[0] == 1
    assert means(evaluated.baselines()["chance"], "object")[0] == 1


def test_superpixels_run_where_they_belong(tmp_path: Path) -> None:
    root = written(tmp_path, LEFT_HALF, ONE_CELL)
    assert measured(root, superpixels=Grid(7, runs_on="worker")) == measured(root)


def test_merging_at_random_has_its_ends_and_its_seed(tmp_path: Path) -> None:
    root = written(tmp_path, LEFT_HALF, ONE_CELL)
    results = evaluation(root, 16, 1).baselines()["chance"]
    assert means(results, "object") == pytest.approx([(1 / 8 + 1) / 2, (1 / 2 + 1 / 16) / 2])
    # One segment is one region: half the image is right, or 15 of 16 cells.
    assert means(results, "region") == pytest.approx([1, (1 / 4 + 15 / 32) / 2])
    again = [evaluation(root, 4, seed=seed).baselines()["chance"] for seed in (3, 3, 0, 1, 2, 4)]
    assert again[0] == again[1]
    assert len({one["object_iou_4"] for one in again}) > 1
    evaluated = evaluation(root, 4)
    evaluated(Subject(Halves()))
    assert evaluated.baselines()["chance"] == evaluation(root, 4).baselines()["chance"]


def test_superpixels_are_merged_by_color_once_and_in_no_pass_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = written(tmp_path, LEFT_HALF, LEFT_HALF)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 99, (SIDE, SIDE, 3), np.uint8)
        pixels[LEFT_HALF] += np.array([120, 0, 60], np.uint8)
        Image.fromarray(pixels).save(root / f"val/a/{number:02}.png")
    evaluated = evaluation(root, 16, 2)
    evaluated(Subject(Halves()))
    monkeypatch.setattr(overlap, "merge", None)
    evaluated(Subject(Halves()))
    monkeypatch.setattr(evaluated, "batches", None)
    results = evaluated.baselines()
    assert [name for name, values in results.items() if values] == ["chance", *KINDS[:-1]]
    assert means(results["color"], "region") == means(results["neighbors"], "region") == [1, 1]
    assert means(results["color"], "object") == pytest.approx([1 / 8, 1])
    assert means(results["chance"], "region")[1] < 0.9


def test_an_object_that_is_a_union_of_superpixels_is_hard_to_hit_by_chance(tmp_path: Path) -> None:
    chance = evaluation(written(tmp_path, *[LEFT_HALF] * 30), 2).baselines()["chance"]["object_iou_2"]
    half = torch.arange(28).expand(28, -1) < 14
    assert chance < 0.9 * float(best_overlap(half.long()[None], half[None]))


def test_scores_are_no_numbers_without_known_parts() -> None:
    half = torch.arange(8).expand(1, 8, -1) < 4
    unknown: Tensor = torch.full((1, 8, 8), -1)
    assert scores(half.long(), half, unknown)[:2].tolist() == [[1], [1]]
    assert bool(scores(half.long(), half, unknown)[2].isnan().all())


def test_masks_choose_the_images_that_they_know() -> None:
    source = Listed(["x/a.png", "x/b.png", "y/c.png"])
    images = Images(source, np.arange(3), torch.empty(3, 0, dtype=torch.int64), LabelTree.none())
    first, second = images.take([0]), images.take([1, 2])
    masked, indices = masked_by(Known({"x/b.png"}), first, second)
    assert [masked.name(index) for index in indices] == ["x/b.png"]
    assert masked.masks is not None
    assert images.masks is second.masks is None
    with pytest.raises(DataError, match="know none of the images"):
        masked_by(Known({"z"}), first, second)


def test_masks_of_training_images_are_not_those_of_images_held_out_of_them(tmp_path: Path) -> None:
    root = written(tmp_path, LEFT_HALF, ONE_CELL)
    (root / "masks/val/a/00.png").unlink()
    both = open_images(f"folder:{root}", split="val")
    assert isinstance(both, Images)
    for train, held_out, own in (([1], [0], []), ([0], [1], [0])):
        evaluator = Overlap((16, 2), masks=root / "masks/val")
        images = both.take(train), both.take(held_out)
        evaluated = Evaluation(*images, Grid(7), CenterView(28), [evaluator])
        assert list(evaluator.images()) == own
        assert evaluated(Subject(Halves()))["object_iou_16"] == 1
