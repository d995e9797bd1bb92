"""Object and part masks from one JSON file in COCO's layout, as PartImageNet has it.

PartImageNet (He et al., https://arxiv.org/abs/2112.00933) annotates parts of ImageNet's pictures: its
categories are parts, and an object is the union of its parts.  The layout is that of
https://cocodataset.org/#format-data: ``images`` (id, file_name, width, height), ``categories`` (id, name),
``annotations`` (id, image_id, category_id, segmentation); a segmentation is a list of polygons
[x0, y0, x1, y1, ...] in pixels, or run lengths {size, counts} down the columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from castssl.errors import DataError, PluginError
from castssl.installer import install

FAR = 1e6
"""Pixels; no polygon reaches that far."""
LARGEST = 2**26
"""Pixels; no annotated picture has more."""


class Region(NamedTuple):
    """One annotation."""

    part: int
    """From 1; index of its category in the order of ids, plus one."""
    shape: Any
    """Polygons, or run lengths, checked."""


class Annotated(NamedTuple):
    """What is known of one picture."""

    height: int
    width: int
    regions: list[Region]


class Annotations:
    """Masks by file name; only the last part of a path counts, as PartImageNet's folders are not ImageNet's.

    Args:
        known: what is known by the last part of the file's name.
        names: of the parts, the first belongs to value 1 of :meth:`parts`.
    """

    def __init__(self, known: Mapping[str, Annotated], names: Sequence[str]) -> None:
        self._known = known
        self.names = tuple(names)

    @classmethod
    def read(cls, path: Path) -> Annotations:
        """Read and check a file.

        Raises:
            DataError: if it is no JSON, lacks a key, two pictures share a name, an annotation belongs to no
                picture or category, or its segmentation is neither polygons nor runs that fill the picture.
            PluginError: if it has compressed runs and pycocotools is not installed.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON ({error}); fetch the file of annotations again") from error
        try:
            return cls(*_understood(content))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def knows(self, name: str) -> bool:
        """Whether the file has that picture."""
        return _last(name) in self._known

    def whole(self, name: str) -> Image.Image | None:
        """The union of all annotations, mode "L", 255 on them; None if the file does not know the picture."""
        found = self._labels(name)
        return None if found is None else Image.fromarray(np.where(found > 0, 255, 0).astype(np.uint8))

    def parts(self, name: str) -> Image.Image | None:
        """1, 2, ... by category, 0 elsewhere, mode "L" ("I" if there are over 255); None if unknown.

        Where annotations overlap, the smallest of them counts.
        """
        found = self._labels(name)
        if found is None:
            return None
        return Image.fromarray(found.astype(np.uint8) if len(self.names) < 256 else found)

    def _labels(self, name: str) -> NDArray[np.int32] | None:
        known = self._known.get(_last(name))
        if known is None:
            return None
        labels = np.zeros((known.height, known.width), np.int32)
        drawn = [(region.part, _drawn(region.shape, known)) for region in known.regions]
        for part, inside in sorted(drawn, key=lambda pair: -int(pair[1].sum())):
            labels[inside] = part
        return labels


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _understood(content: Any) -> tuple[dict[str, Annotated], list[str]]:
    images, categories, annotations = (_list(content, key) for key in ("images", "categories", "annotations"))
    order = sorted({_int(each, "id", "categories") for each in categories})
    part = {number: index + 1 for index, number in enumerate(order)}
    names = {_int(each, "id", "categories"): str(each.get("name", "")) for each in categories}
    known: dict[str, Annotated] = {}
    by_id: dict[int, Annotated] = {}
    for image in images:
        number, height, width = (_int(image, key, "images") for key in ("id", "height", "width"))
        file = image.get("file_name")
        name = _last(file) if isinstance(file, str) else ""
        again = name in known or number in by_id
        if not name or again or min(height, width) < 1 or height * width > LARGEST:
            raise DataError(
                f"image {number}: got {file!r} of {width} x {height} pixels"
                f"{', whose name or id is there twice' if again else ''}; expected pictures of 1 to"
                f" {LARGEST} pixels whose ids differ, and whose names differ in their last part"
            )
        known[name] = by_id[number] = Annotated(height, width, [])
    for each in annotations:
        at, category = (_int(each, key, "annotations") for key in ("image_id", "category_id"))
        if at not in by_id or category not in part:
            wrong = f"image_id {at}" if at not in by_id else f"category_id {category}"
            raise DataError(f"{_called(each)} has {wrong}, which is not among the images and categories")
        by_id[at].regions.append(Region(part[category], _shape(each, by_id[at])))
    return known, [names[number] for number in order]


def _list(content: Any, key: str) -> list[Mapping[str, Any]]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise DataError(
            f"expected an object with the lists images, categories and annotations, as in COCO's and"
            f" PartImageNet's files; {key} is {'missing' if found is None else 'no list of objects'}"
        )
    return found


def _int(each: Mapping[str, Any], key: str, where: str) -> int:
    value = each.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where}: expected a whole number as {key}, got {value!r} in {str(dict(each))[:80]}")
    return value


def _called(each: Mapping[str, Any]) -> str:
    return f"annotation {each.get('id', '(without id)')}"


def _shape(each: Mapping[str, Any], image: Annotated) -> Any:
    """Checked: polygons float64 (n, 2), run lengths int64, or compressed ones as they are."""
    given = each.get("segmentation")
    if isinstance(given, list):
        if all(_is_polygon(polygon) for polygon in given):
            return [np.array(polygon, np.float64).reshape(-1, 2) for polygon in given]
    elif isinstance(given, dict) and given.get("size") == [image.height, image.width]:
        counts = given.get("counts")
        if isinstance(counts, str):
            _decoder()
            return {"size": [image.height, image.width], "counts": counts.encode()}
        if _is_runs(counts, image.height * image.width):
            return np.array(counts, np.int64)
    raise DataError(
        f"{_called(each)}: got the segmentation {str(given)[:60]!r}, expected polygons [[x0, y0, x1, y1, x2,"
        f" y2, ...], ...] within {FAR:g} pixels, or {{size: [{image.height}, {image.width}], counts: [...]}}"
        " with runs that fill the picture"
    )


def _is_polygon(given: Any) -> bool:
    return (
        isinstance(given, list)
        and len(given) >= 6
        and len(given) % 2 == 0
        and all(isinstance(x, (int, float)) and abs(x) < FAR for x in given)  # NaN is not.
    )


def _is_runs(counts: Any, pixels: int) -> bool:
    whole = isinstance(counts, list) and all(isinstance(run, int) and run >= 0 for run in counts)
    return whole and sum(counts) == pixels


def _decoder() -> Any:
    try:
        return import_module("pycocotools.mask")
    except ImportError as error:
        raise PluginError(f"compressed run lengths need pycocotools: {install('pycocotools')}") from error


def _drawn(shape: Any, image: Annotated) -> NDArray[np.bool_]:
    """bool (H, W); what lies outside the picture is cut off."""
    if isinstance(shape, dict):
        return np.asarray(_decoder().decode(shape), np.bool_)
    if isinstance(shape, np.ndarray):
        inside = np.repeat(np.arange(len(shape)) % 2 == 1, shape)
        return np.asarray(inside.reshape(image.width, image.height).T)  # Runs go down the columns.
    filled = np.zeros((image.height, image.width), np.bool_)
    for polygon in shape:
        filled |= fill(polygon, image.height, image.width)
    return filled


def fill(polygon: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centres lie in a polygon, by the even-odd rule.

    OpenCV's and Pillow's polygons hold the pixels of their outline, too, which makes small parts too large.

    Args:
        polygon: float64 (n, 2), x and y in pixels; the first pixel's centre is at (0.5, 0.5).
        height: of the picture.
        width: of the picture.

    Returns:
        bool (height, width).
    """
    start, end = polygon, np.roll(polygon, -1, 0)
    centres = np.arange(height) + 0.5
    rows, edges = np.nonzero((start[:, 1] <= centres[:, None]) != (end[:, 1] <= centres[:, None]))
    (x0, y0), (x1, y1) = start[edges].T, end[edges].T
    crossings = x0 + (centres[rows] - y0) / (y1 - y0) * (x1 - x0)
    turns = np.zeros((height, width + 1), np.int64)
    np.add.at(turns, (rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)), 1)
    inside: NDArray[np.bool_] = turns.cumsum(1)[:, :width] % 2 == 1
    return inside
