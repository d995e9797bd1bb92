"""Images and label maps of one's own, with label files as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.datasets.pixel_classes import voc_palette
from castssl.errors import DataError, NoSplit


def write(root: Path, split: str, stem: str = "a", labels: Image.Image | None = None) -> None:
    """One pair, images and labels outside of the folders of splits."""
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (9, 90, 9)).save(root / "images" / split / f"{stem}.jpg")
    if labels is not None:
        labels.save(root / "labels" / split / f"{stem}.png")


def values(*numbers: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.resize(np.array(numbers, dtype=dtype), (4, 6)))


def read(spec: str, split: str = "train") -> list[int]:
    """The classes of the first label map."""
    images = open_images(spec, split=split)
    assert isinstance(images, Images)
    labels = images.fetch(0, labels=True).labels
    assert labels is not None
    return [int(value) for value in labels.ravel()]


def test_both_layouts_and_a_set_without_splits(tmp_path: Path) -> None:
    outer, inner, flat = (tmp_path / name for name in ("outer", "inner", "flat"))
    for split in ("training", "validation"):
        write(outer, split, labels=values(0, 1, 2))
        write(inner / split, "", labels=values(0, 1, 2))
    write(flat, "", labels=values(2, 1))
    for root in (outer, inner):
        for split in ("train", "val"):
            assert read(f"pairs:{root}?classes=3", split)[:3] == [0, 1, 2]
        with pytest.raises(NoSplit):
            read(f"pairs:{root}?classes=3", "test")
    assert read(f"pairs:{flat}?classes=3")[:2] == [2, 1]
    with pytest.raises(NoSplit, match="no val split"):
        read(f"pairs:{flat}?classes=3", "val")


def test_names_of_classes_come_from_a_file(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=values(0, 1, 255))
    (tmp_path / "classes.txt").write_bytes(b"sky\r\nroad\r\ncar\r\n")
    images = open_images(f"pairs:{tmp_path}")
    assert isinstance(images, Images)
    assert images.pixel_tree.names == (("sky", "road", "car"),)
    assert read(f"pairs:{tmp_path}")[:3] == [0, 1, -1]
    with pytest.raises(DataError, match=r"3 names in .*classes.txt, classes=4"):
        read(f"pairs:{tmp_path}?classes=4")


def test_a_mask_of_0_and_255_is_not_read_as_unknown_pixels(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=values(0, 255))
    with pytest.raises(DataError, match=r"a.png has the value 255.*values=0,255"):
        read(f"pairs:{tmp_path}?classes=2")
    assert read(f"pairs:{tmp_path}?values=0,255")[:2] == [0, 1]
    assert read(f"pairs:{tmp_path}?classes=2&ignore=255")[:2] == [0, -1]


def test_any_other_value_may_be_ignored(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=values(0, 1, 2))
    assert read(f"pairs:{tmp_path}?values=1,2&ignore=0")[:3] == [-1, 0, 1]


def test_one_bit_palettes_and_16_bits(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=values(0, 255).convert("1"))
    assert read(f"pairs:{tmp_path}?classes=2")[:2] == [0, 1]
    palette = values(0, 1, 2, 255).convert("P")
    palette.putpalette([channel for color in voc_palette(256) for channel in color])
    palette.putdata([0, 1, 2, 255] * 6)
    write(tmp_path, "train", labels=palette)
    assert read(f"pairs:{tmp_path}?classes=3")[:4] == [0, 1, 2, -1]
    write(tmp_path, "train", labels=values(0, 700, 65535, dtype=np.uint16))
    assert read(f"pairs:{tmp_path}?classes=1000&ignore=65535")[:3] == [0, 700, -1]
    with pytest.raises(DataError, match=r"has the value 65535.*expected 0 to 999"):
        read(f"pairs:{tmp_path}?classes=1000")


def test_reduce_zero_label(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=values(0, 1, 3, 255))
    assert read(f"pairs:{tmp_path}?classes=3&reduce_zero_label=1")[:4] == [-1, 0, 2, -1]
    assert read(f"pairs:{tmp_path}?classes=4")[:4] == [0, 1, 3, -1]
    with pytest.raises(DataError, match=r"has the value 3.*reduce_zero_label"):
        read(f"pairs:{tmp_path}?classes=3")


def test_colors_are_refused_with_a_hint(tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA", "LA"):
        write(tmp_path, "train", labels=values(0, 1).convert(mode))
        with pytest.raises(DataError, match=rf"a.png has the mode {mode}, expected one channel.*convert"):
            read(f"pairs:{tmp_path}?classes=2")
    (tmp_path / "labels" / "train" / "a.png").unlink()
    values(0, 1).save(tmp_path / "labels" / "train" / "a.jpg")
    with pytest.raises(DataError, match=r"a.jpg is a JPEG.*use PNG"):
        read(f"pairs:{tmp_path}?classes=2")


def test_another_size_than_the_images_is_refused_with_both(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=Image.new("L", (3, 2)))
    with pytest.raises(DataError, match=r"a.png has 3 x 2 pixels, expected 6 x 4 as its image"):
        read(f"pairs:{tmp_path}?classes=2")


def test_a_label_map_turns_with_its_image(tmp_path: Path) -> None:
    """A camera's image on its side: the label map may lie as the stored or as the upright image."""
    stored = values(*range(24))
    for labels in (stored, stored.transpose(Image.Transpose.ROTATE_270)):
        write(tmp_path, "train", labels=labels)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (6, 4)).save(tmp_path / "images" / "train" / "a.jpg", exif=exif)
        expected = np.asarray(stored.transpose(Image.Transpose.ROTATE_270)).ravel().tolist()
        assert read(f"pairs:{tmp_path}?classes=24") == expected


def test_missing_partners_are_left_out_and_reported(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=values(0))
    write(tmp_path, "train", "b")
    values(0).save(tmp_path / "labels" / "train" / "c.png")
    for name in ("._a.png", "Thumbs.db"):
        (tmp_path / "labels" / "train" / name).write_bytes(b"\0")
    images = open_images(f"pairs:{tmp_path}?classes=3")
    assert isinstance(images, Images)
    assert len(images) == 1
    assert any("without an image: c" in sentence for sentence in images.left_out)
    assert any("labels/train/b.png" in sentence for sentence in images.left_out)
    (tmp_path / "labels" / "train" / "a.png").unlink()
    with pytest.raises(DataError, match="each of 2 pairs lacks a file"):
        open_images(f"pairs:{tmp_path}?classes=3")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "expected the same number of classes"),
        ("?clases=3", "unknown option 'clases'.*classes"),
        ("?classes=three", "classes takes numbers from 0 to 65535, got 'three'"),
        ("?classes=3&ignore=1", "the ignored value 1 is one of 3 classes"),
        ("?values=0,255&ignore=255", "a value occurs twice"),
        ("?values=0,0", "a value occurs twice"),
        ("?values=0,255&reduce_zero_label=1", "not given together with values"),
        ("?classes=3&values=0,255", "classes=3 and 2 values"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, query: str, words: str) -> None:
    write(tmp_path, "train", labels=values(0))
    with pytest.raises(DataError, match=words):
        open_images(f"pairs:{tmp_path}{query}")


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"has the folders \[photos\], expected two: one of images"):
        open_images(f"pairs:{tmp_path}?classes=3")
    with pytest.raises(DataError, match="nowhere"):
        open_images(f"pairs:{tmp_path}/nowhere?classes=3")


def test_no_subset_by_class(tmp_path: Path) -> None:
    write(tmp_path, "train", labels=values(0))
    with pytest.raises(DataError, match="many classes per image"):
        open_images(f"pairs:{tmp_path}?classes=3", subset="imagenet100")
