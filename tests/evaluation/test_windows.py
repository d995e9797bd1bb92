"""Class maps by windows, against mmsegmentation's own arithmetic and a loop over windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Superpixels
from castssl.data.normalize import normalize
from castssl.errors import ConfigError
from castssl.evaluation.windows import Windows, boxes, class_logits, classes_at, renumber, with_longer_side
from castssl.models.create import create
from castssl.objectives.segmentation import SegmentationModel
from castssl.registry import build
from castssl.types import View


def mmseg(height: int, width: int, crop: int, stride: int) -> list[tuple[int, int, int, int]]:
    """The windows of mmsegmentation's ``slide_inference``."""
    found = []
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            found.append((max(bottom - crop, 0), max(right - crop, 0), bottom, right))
    return found


@pytest.mark.parametrize("crop", [16, 20, 33])
@pytest.mark.parametrize("stride", [1, 7, 16])
def test_windows_lie_as_in_mmsegmentation(crop: int, stride: int) -> None:
    for height in range(1, 70, 3):
        for width in (5, 16, 32, 33, 61):
            assert boxes(height, width, Windows(crop, stride)) == mmseg(height, width, crop, stride)


def model(name: str = "nano_seg") -> tuple[SegmentationModel, Superpixels]:
    torch.manual_seed(0)
    encoder = create(name, image_size=32)
    found = SegmentationModel(encoder, "segmenter", 5)
    return found, build("superpixels", encoder.config.superpixels)


def images(height: int = 48, width: int = 40) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(2, 3, 6, 5, generator=draw)
    return (torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1) * 255).byte()


def viewed(superpixels: Superpixels, images: Tensor) -> View:
    return View(normalize(images), superpixels(images))


def by_hand(found: SegmentationModel, superpixels: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return found.eval()(viewed(superpixels, images))


@pytest.mark.parametrize("name", ["nano_seg", "nano_vit_seg"])
def test_the_whole_image_at_once(name: str) -> None:
    found, superpixels = model(name)
    found.train()
    photos = images(32, 32)
    maps = class_logits(found, viewed(superpixels, photos), superpixels)
    assert found.training
    assert maps.shape == (2, 5, 32, 32)
    torch.testing.assert_close(maps, by_hand(found, superpixels, photos))


@pytest.mark.parametrize("name", ["nano_seg", "nano_vit_seg", "timm:test_vit"])
def test_logits_of_overlapping_windows_are_averaged(name: str) -> None:
    found, superpixels = model(name)
    photos = images()
    maps = class_logits(found, viewed(superpixels, photos), superpixels, Windows(32, 16))
    total, seen = torch.zeros(2, 5, 48, 40), torch.zeros(48, 40)
    for top, left in ((0, 0), (0, 8), (16, 0), (16, 8)):
        at = (..., slice(top, top + 32), slice(left, left + 32))
        total[at] += by_hand(found, superpixels, photos[at])
        seen[at] += 1
    torch.testing.assert_close(maps, total / seen, atol=1e-5, rtol=1e-5)


def test_superpixels_of_the_whole_image_are_cut() -> None:
    """Labels of a window are numbered anew, and more of them than the model's own number have room."""
    found, _ = model()
    superpixels = build("superpixels", "grid:cell=3")
    photos = images()
    once = class_logits(found, viewed(superpixels, photos), superpixels, Windows(32, 16, once=True))
    windowed = class_logits(found, viewed(superpixels, photos), superpixels, Windows(32, 16))
    assert once.isfinite().all()
    assert not torch.allclose(once, windowed)
    # a cell of the whole image lies in one window here, where it has one value
    assert (once[:, :, 3:6, 3:6] == once[:, :, 3:4, 3:4]).all()
    square = viewed(superpixels, images(48, 48))
    one = class_logits(found, square, superpixels, Windows(48, 48, once=True))
    torch.testing.assert_close(one, class_logits(found, square, superpixels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("once", [False, True])
def test_an_image_below_the_window_is_enlarged_to_it(once: bool) -> None:
    """As in Segmenter: its shorter side becomes that of the window, also if only one side is below it."""
    found, superpixels = model()
    photos = images(20, 45)
    view = viewed(superpixels, photos)
    maps = class_logits(found, view, superpixels, Windows(32, 24, once=once))
    large = torch.nn.functional.interpolate(view.image, (32, 72), mode="bilinear")
    nearest = torch.nn.functional.interpolate(view.segments[:, None].float(), (32, 72), mode="nearest-exact")
    enlarged = View(large, nearest[:, 0].int())
    assert maps.shape == (2, 5, 32, 72)
    torch.testing.assert_close(
        maps, class_logits(found, enlarged, superpixels, Windows(32, 24, once=once)), rtol=0, atol=0
    )
    whole = class_logits(found, view, superpixels)
    assert whole.shape == (2, 5, 20, 45)


def test_labels_are_renumbered_image_by_image() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 30, (4, 5, 4), generator=draw, dtype=torch.int32)
    labels[0] = labels[0].clamp(min=7)
    labels[1] = -1
    found, count = renumber(labels)
    for image, new in zip(labels, found, strict=True):
        names = sorted(set(image.flatten().tolist()) - {-1})
        expected = [names.index(each) if each >= 0 else -1 for each in image.flatten().tolist()]
        assert new.flatten().tolist() == expected
    assert count == int(found.max()) + 1
    assert found.dtype == torch.int32


def test_windows_that_leave_pixels_out_are_refused() -> None:
    for stride in (0, 33):
        with pytest.raises(ConfigError, match="the stride is 1 to 32"):
            Windows(32, stride)


@pytest.mark.parametrize("longer", [24, 48, 70])
def test_a_longer_side_resizes_image_and_superpixels(longer: int) -> None:
    found, superpixels = model()
    view = viewed(superpixels, images(48, 40))
    shown, count = with_longer_side(view, superpixels, longer)
    assert shown.image.shape[2:] == shown.segments.shape[1:] == (longer, 40 * longer // 48)
    for row in range(longer):
        source = int((row + 0.5) * 48 / longer)
        assert set(shown.segments[0, row].tolist()) <= set(view.segments[0, source].tolist())
    expected = found.eval()(shown, (count, *found.encoder.sizes[1:]))
    torch.testing.assert_close(class_logits(found, view, superpixels, longer=longer), expected)


def test_patches_of_a_resized_image_are_those_of_the_patch_embedding() -> None:
    """48 x 40 pixels at a longer side of 32: 4 x 4 patches of 8 pixels, the last of which are cut."""
    found, superpixels = model("nano_vit_seg")
    shown, count = with_longer_side(viewed(superpixels, images(48, 40)), superpixels, 32)
    assert count == 16
    assert torch.equal(shown.segments, superpixels(torch.zeros(2, 3, 32, 26).byte()))
    assert found.encoder.dense(shown, (count,)).grid == (4, 4)


@pytest.mark.parametrize("classes", [2, 16, 37])
def test_classes_of_resized_logits_are_those_of_all_at_once(classes: int) -> None:
    logits = torch.randn(2, classes, 6, 5, generator=torch.Generator().manual_seed(0))
    for size in ((6, 5), (23, 31), (3, 2)):
        expected = F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1)
        assert torch.equal(classes_at(logits, size), expected)
