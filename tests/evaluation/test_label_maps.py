"""Label maps are read before training: all faults at once, in one process or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.evaluation.label_maps import NAMED, check_label_maps
from castssl.testing.processes import together


def pairs(root: Path, *values: int, side: int = 4) -> Images:
    """An image for each value, which all pixels of its label map have but one, of class 0."""
    for at, value in enumerate(values):
        labels = np.full((side, side), value, dtype=np.uint8)
        labels[0, 0] = 0 if value != 255 else 255
        for folder, pixels in (("images", labels), ("labels", labels)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{at}.png")
    images = open_images(f"pairs:{root}?classes=3")
    assert isinstance(images, Images)
    return images


@pytest.mark.parametrize("workers", [0, 1])
def test_label_maps_without_a_fault_have_a_share_of_labeled_pixels(tmp_path: Path, workers: int) -> None:
    """Maps and images that cannot be decoded do not count: training replaces them."""
    images = pairs(tmp_path, 0, 1, 255, 2, 2)
    (tmp_path / "labels" / "3.png").write_bytes(b"no image")
    (tmp_path / "images" / "4.png").write_bytes(b"")
    assert check_label_maps(images, workers=workers) == {"labeled": 2 / 3}


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    images = pairs(tmp_path, 0, 7, 1)
    Image.new("L", (5, 4)).save(tmp_path / "labels" / "2.png")
    with pytest.raises(
        DataError, match=r"2 of 3 label maps(?s:.*)/1.png has the value 7(?s:.*)/2.png has 5 x 4"
    ):
        check_label_maps(images)
    images = pairs(tmp_path, *[9] * (NAMED + 2))
    with pytest.raises(DataError, match="and 2 more"):
        check_label_maps(images)


def test_maps_that_are_unknown_everywhere_teach_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pixel of 2 label maps has a class"):
        check_label_maps(pairs(tmp_path, 255, 255))


def check_a_share(rank: int, root: str) -> None:
    images = open_images(f"pairs:{root}?classes=3")
    assert isinstance(images, Images)
    assert check_label_maps(images.take([0, 1, 2])) == {"labeled": 2 / 3}
    with pytest.raises(DataError, match=r"1 of 4 label maps(?s:.*)3.png has the value 7"):
        check_label_maps(images)


@pytest.mark.distributed
def test_two_processes_share_the_maps_and_both_know_the_faults(tmp_path: Path) -> None:
    pairs(tmp_path, 0, 255, 1, 7)
    together(check_a_share, str(tmp_path))
