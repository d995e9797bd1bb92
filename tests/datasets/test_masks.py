"""Folders of masks, and what else a path of masks may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.datasets.coco_masks import Annotations
from castssl.datasets.images import Images
from castssl.datasets.masks import MaskFolder, open_masks
from castssl.datasets.open import open_images
from castssl.errors import DataError


def test_the_demo_has_parts_beside_its_masks() -> None:
    images = open_images("demo:size=32,per_class=2", split="val")
    assert isinstance(images, Images)
    for index in range(len(images)):
        mask, parts = images.mask(index), images.parts(index)
        assert mask is not None
        assert parts is not None
        assert np.array_equal(np.array(mask) > 127, np.array(parts) > 0)
        assert np.array(parts).max() > 1


@pytest.mark.parametrize(("masks", "parts"), [("masks/val", "parts/val"), ("masks", "parts")])
def test_parts_lie_where_masks_lie(tmp_path: Path, masks: str, parts: str) -> None:
    for folder, value in ((masks, 255), (parts, 3)):
        (tmp_path / folder / "cat").mkdir(parents=True)
        Image.new("L", (3, 2), value).save(tmp_path / folder / "cat" / "a.png")
    result = open_masks(tmp_path / masks)
    assert isinstance(result, MaskFolder)
    full, part = result.mask("cat/a.jpg"), result.parts("cat/a.jpg")
    assert full is not None
    assert full.getextrema() == (255, 255)
    assert part is not None
    assert part.getextrema() == (3, 3)
    assert result.knows("cat/a.jpg")
    assert not result.knows("cat/b.jpg")
    assert result.mask("cat/b.jpg") is result.parts("cat/b.jpg") is None


VOC = [0, 0, 0, 128, 0, 0, 224, 224, 192]
"""VOC's colors of background, of the first object, whose gray is 38, and of unknown pixels, 223."""


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ([0, 0, 0, 255, 255, 255], ""),
        ([255, 255, 255, 0, 0, 0], ""),
        (
            VOC,
            r"has a palette with colors, such as \(128, 0, 0\), expected 255 on the object and 0 elsewhere",
        ),
    ],
)
def test_masks_with_a_palette(palette: list[int], message: str, tmp_path: Path) -> None:
    """They count as what they show if it is gray, and are refused if the gray of a color would count."""
    indices = Image.fromarray(np.arange(2, dtype=np.uint8).repeat(2)[None])
    indices.putpalette(palette)
    indices.save(tmp_path / "a.png")
    folder = open_masks(tmp_path)
    if message:
        with pytest.raises(DataError, match=message):
            folder.mask("a.jpg")
        return
    mask = folder.mask("a.jpg")
    assert mask is not None
    assert (mask.mode, np.array(mask).tolist()) == ("L", [[palette[0]] * 2 + [palette[3]] * 2])


def test_masks_of_several_channels(tmp_path: Path) -> None:
    for folder, color in (("masks/gray", 255), ("masks/red", 0), ("parts/red", 0)):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (3, 2), (255, color, color)).save(tmp_path / folder / "a.png")
    mask = open_masks(tmp_path / "masks/gray").mask("a.jpg")
    assert mask is not None
    assert (mask.mode, mask.getextrema()) == ("L", (255, 255))
    red = open_masks(tmp_path / "masks/red")
    with pytest.raises(DataError, match=r"has colors, such as \(255, 0, 0\)"):
        red.mask("a.jpg")
    with pytest.raises(DataError, match=r"the part mask has the mode RGB, expected one channel"):
        red.parts("a.jpg")


def test_part_masks_with_a_palette_count_by_their_indices(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "parts").mkdir()
    indices = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    indices.putpalette(VOC)
    indices.save(tmp_path / "parts/a.png")
    parts = open_masks(tmp_path / "masks").parts("a.jpg")
    assert parts is not None
    assert np.array(parts).tolist() == [[0, 1, 2]]


def test_a_folder_of_another_name_has_no_parts(tmp_path: Path) -> None:
    Image.new("L", (3, 2), 255).save(tmp_path / "a.png")
    assert open_masks(tmp_path).parts("a.png") is None


def test_an_unreadable_part_mask_is_noted(tmp_path: Path) -> None:
    for folder in ("train/cat", "masks/train/cat", "parts/train/cat"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (8, 8), 255).save(tmp_path / folder / "a.png")
    (tmp_path / "parts/train/cat/a.png").write_bytes(b"no picture")
    images = open_images(f"folder:{tmp_path / 'train'}")
    assert isinstance(images, Images)
    assert images.mask(0) is not None
    assert images.parts(0) is None
    assert list(images.bad) == ["the parts of cat/a.png"]


def test_what_is_neither_folder_nor_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "masks.txt").write_text("{}")
    for path, kind in ((tmp_path / "masks.txt", "another kind"), (tmp_path / "none.json", "nothing")):
        with pytest.raises(DataError, match=f"got .*{kind}.*expected a folder"):
            open_masks(path)
    (tmp_path / "a.json").write_text('{"images": [], "categories": [], "annotations": []}')
    assert isinstance(open_masks(tmp_path / "a.json"), Annotations)
