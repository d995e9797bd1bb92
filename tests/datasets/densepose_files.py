"""A file in the layout of DensePose-COCO, cut down, and what it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core.mask import encode  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

Json = dict[str, Any]
Boxes = Mapping[int, tuple[slice, slice]]
"""The cells of a body part, by its number, in the grid of 256 x 256 cells."""


def person(number: int, image: int, bbox: list[float], parts: Boxes) -> Json:
    """An annotation; the parts that are not given are [], as in the published files."""
    masks: list[Any] = [[] for _ in range(14)]
    for part, cells in parts.items():
        mask = np.zeros((256, 256), np.uint8)
        mask[cells] = 1
        runs = encode(np.asfortranarray(mask))
        masks[part - 1] = {"size": [256, 256], "counts": bytes(runs["counts"]).decode()}
    points = {"dp_I": [2.0], "dp_U": [0.5], "dp_V": [0.5], "dp_x": [128.0], "dp_y": [64.0]}
    return {
        **{"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 9.0, "bbox": bbox},
        **{"segmentation": [[0, 0, 1, 0, 1, 1]], "keypoints": [0] * 51, "num_keypoints": 0},
        **{"dp_masks": masks, **points},
    }


def densepose(annotations: list[Json]) -> Json:
    """Two images of 24 x 16 pixels, and these annotations."""
    return {
        "images": [
            {"id": 139, "file_name": "COCO_val2014_000000000139.jpg", "width": 24, "height": 16},
            {"id": 785, "file_name": "COCO_val2014_000000000785.jpg", "width": 24, "height": 16},
        ],
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
        "annotations": annotations,
    }


def two_persons() -> list[Json]:
    """A person of torso and head in the first image, one beyond the border, and one without body parts."""
    upper, lower, whole = slice(0, 64), slice(64, 256), slice(0, 256)
    bare = person(3, 139, [20.0, 0.0, 4.0, 4.0], {})
    del bare["dp_masks"]
    return [
        person(1, 139, [4.0, 2.0, 8.0, 12.0], {1: (lower, whole), 14: (upper, slice(64, 192))}),
        person(2, 785, [-4.0, 8.5, 8.0, 16.0], {3: (whole, whole)}),
        bare,
    ]


def maps() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The body parts of both images, int64 (16, 24)."""
    first, second = np.zeros((2, 16, 24), np.int64)
    first[5:14, 4:12], first[2:5, 6:10] = 1, 14
    second[8:, :4] = 3
    return first, second


def write(path: Path, content: Json) -> Path:
    """The file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(root: Path, name: str = "densepose_coco_2014_minival.json") -> Path:
    """COCO's folder with these annotations and images."""
    write(root / "annotations" / name, densepose(two_persons()))
    (root / "val2014").mkdir()
    for number in ("139", "785"):
        Image.new("RGB", (24, 16), "gray").save(root / "val2014" / f"COCO_val2014_{number:0>12}.jpg")
    return root
