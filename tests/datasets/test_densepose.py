"""DensePose in its published layout, and the groups of its body parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from castssl.datasets.coco_masks import BODY_PARTS
from castssl.datasets.densepose import FILES, GROUPS, group, open_densepose
from castssl.errors import DataError
from tests.datasets import densepose_files


@pytest.mark.parametrize("name", FILES)
def test_images_and_body_parts(tmp_path: Path, name: str) -> None:
    root = densepose_files.coco(tmp_path, name.format("minival"))
    data = open_densepose(root)
    assert [data.name(index) for index in range(len(data))] == [
        "val2014/COCO_val2014_000000000139.jpg",
        "val2014/COCO_val2014_000000000785.jpg",
    ]
    for index, expected in enumerate(densepose_files.maps()):
        image, truth = data.read(index)
        assert image.size == (24, 16)
        assert np.array_equal(truth.parts, expected)
        assert np.array_equal(truth.objects, np.minimum(expected, 1))


def test_groups_hold_each_part_once() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(BODY_PARTS)
    parts = np.arange(-1, 15, dtype=np.int32)
    assert group(parts, 14).tolist() == parts.tolist()
    # torso; hands; feet; legs; arms; head.
    assert group(parts, 4).tolist() == [-1, 0, 2, 3, 3, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 1]
    assert group(parts, 1).tolist() == [-1, 0] + [1] * 14


def test_what_is_not_densepose(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"densepose_coco_2014_train\.json or .*densepose_train2014\.json"):
        open_densepose(tmp_path, "train")
    persons = densepose_files.two_persons()[2:]
    path = tmp_path / "annotations" / "densepose_minival2014.json"
    densepose_files.write(path, densepose_files.densepose(persons))
    with pytest.raises(DataError, match="has no dp_masks"):
        open_densepose(tmp_path)
