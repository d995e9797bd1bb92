"""Object and part masks from one JSON file in COCO's layout, as PartImageNet and DensePose have it.

PartImageNet (He et al., https://arxiv.org/abs/2112.00933) annotates parts of ImageNet's images: its
categories are parts, and an object is the union of its parts.  The layout is that of
https://cocodataset.org/#format-data: ``images`` (id, file_name, width, height), ``categories`` (id, name),
``annotations`` (id, image_id, category_id, segmentation); a segmentation is a list of polygons
[x0, y0, x1, y1, ...] in pixels, or run lengths {size, counts} down the columns.

DensePose (Guler et al., https://arxiv.org/abs/1802.00434) annotates persons of COCO.  Its annotations have
``dp_masks``, a mask of each of 14 body parts, or [], as run lengths on a grid of 256 x 256 cells that covers
the person's ``bbox`` [x, y, width, height].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from castssl.datasets.path_matching import FileNames, parts
from castssl.errors import DataError, PluginError
from castssl.installer import install

FAR = 1e6
"""The limit of a polygon's coordinates in pixels."""
LARGEST = 2**26
"""The limit of an image's size in pixels."""
BODY_PARTS = (
    *("torso", "right hand", "left hand", "left foot", "right foot"),
    *("right upper leg", "left upper leg", "right lower leg", "left lower leg"),
    *("left upper arm", "right upper arm", "left lower arm", "right lower arm", "head"),
)
"""DensePose's, in the order of ``dp_masks``."""
BOX = (256, 256)
"""Rows and columns of their grid."""


class Region(NamedTuple):
    """An annotated region.

    Attributes:
        part: its number, from 1.
        shape: checked polygons, run lengths, or compressed ones.
        box: x, y, width and height of the grid of :data:`BOX` in the image; None if the shape is one of the
            image's own pixels.
    """

    part: int
    shape: Any
    box: tuple[float, ...] | None = None


class Annotated(NamedTuple):
    """One image and its annotations.

    Attributes:
        height: pixels.
        width: pixels.
        regions: parts are numbered in the order of category ids, or of :data:`BODY_PARTS`.
    """

    height: int
    width: int
    regions: list[Region]


class Annotations:
    """Masks by file name, found by the rule of :class:`castssl.datasets.path_matching.FileNames`.

    The folders in the file may be others than those of the images: PartImageNet's are not ImageNet's.  In a
    file with body parts, persons without them are background.

    Args:
        images: by the file's name.
        names: of the parts, the first belongs to value 1 of :meth:`parts`.
        matched: of each image that is known, its name in ``images``; by default any name is looked for.
    """

    def __init__(
        self,
        images: Mapping[str, Annotated],
        names: Sequence[str],
        matched: Mapping[str, str] | None = None,
    ) -> None:
        self._images = images
        self.names = tuple(names)
        self._matched = matched
        self._index = FileNames(images)

    @classmethod
    def read(cls, path: Path) -> Annotations:
        """Read and check a file.

        Raises:
            DataError: if it is not JSON, lacks a key, two images share a path, an annotation belongs to no
                image or category, or its segmentation is neither polygons nor runs that fill the image.
            PluginError: if it has compressed runs and faster-coco-eval is not installed.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON ({error}); download the annotations again") from error
        try:
            return cls(*_parse(content))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    @property
    def files(self) -> tuple[str, ...]:
        """Each image's file name, in the order of the file."""
        return tuple(self._images)

    def match(self, names: Iterable[str]) -> dict[str, str]:
        """The file name of each image that has masks, where these are the names of all images."""
        return self._index.among(names)

    def among(self, names: Iterable[str]) -> Annotations:
        """The masks of these images alone, so that no mask is of two of them."""
        return Annotations(self._images, self.names, self.match(names))

    def knows(self, name: str) -> bool:
        """Whether the file has that image."""
        return self._find(name) is not None

    def _find(self, name: str) -> Annotated | None:
        if self._matched is not None:
            return self._images[self._matched[name]] if name in self._matched else None
        found = self._index.find(name)
        return None if found is None else self._images[found[0]]

    def _get(self, name: str) -> Annotated:
        if (image := self._find(name)) is None:
            raise KeyError(name)
        return image

    def mask(self, name: str) -> Image.Image | None:
        """The union of all annotations, mode "L", 255 on them; None if the file does not have the image."""
        labels = self._labels(name)
        return None if labels is None else Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8))

    def parts(self, name: str) -> Image.Image | None:
        """1, 2, ... by category, 0 elsewhere, mode "L" ("I" if there are over 255); None if unknown.

        Where annotations overlap, the smallest of them counts.
        """
        labels = self._labels(name)
        if labels is None:
            return None
        return Image.fromarray(labels.astype(np.uint8) if len(self.names) < 256 else labels)

    def shape(self, name: str) -> tuple[int, int]:
        """Height and width of an image of the file."""
        image = self._get(name)
        return image.height, image.width

    def regions(self, name: str) -> list[tuple[int, NDArray[np.bool_]]]:
        """Of each annotation of an image, the largest first: the part 1, 2, ... and the mask (H, W)."""
        image = self._get(name)
        drawn = [(region.part, _draw(region, image)) for region in image.regions]
        return sorted(drawn, key=lambda pair: -int(pair[1].sum()))

    def _labels(self, name: str) -> NDArray[np.int32] | None:
        if not self.knows(name):
            return None
        labels = np.zeros(self.shape(name), np.int32)
        for part, inside in self.regions(name):
            labels[inside] = part
        return labels


def _parse(content: Any) -> tuple[dict[str, Annotated], list[str]]:
    """The images by name, and the names of the parts in the order of their ids."""
    images, categories, annotations = (
        objects(content, key) for key in ("images", "categories", "annotations")
    )
    names = {
        whole_number(category, "id", "categories"): str(category.get("name", "")) for category in categories
    }
    part = {number: index for index, number in enumerate(sorted(names), start=1)}
    by_name: dict[str, Annotated] = {}
    by_id: dict[int, Annotated] = {}
    for image in images:
        number, height, width = (whole_number(image, key, "images") for key in ("id", "height", "width"))
        file = image.get("file_name")
        name = "/".join(parts(file)) if isinstance(file, str) else ""
        twice = name in by_name or number in by_id
        if not name or twice or min(height, width) < 1 or height * width > LARGEST:
            raise DataError(
                f"image {number}: got {file!r} of {width} x {height} pixels"
                f"{', whose name or id is there twice' if twice else ''}; expected images of 1 to {LARGEST}"
                " pixels whose ids and names differ"
            )
        by_name[name] = by_id[number] = Annotated(height, width, [])
    persons = any("dp_masks" in annotation for annotation in annotations)
    for annotation in annotations:
        title = f"annotation {annotation.get('id', '(without id)')}"
        number, category = (
            whole_number(annotation, key, "annotations") for key in ("image_id", "category_id")
        )
        if number not in by_id or category not in part:
            wrong = f"category_id {category}" if number in by_id else f"image_id {number}"
            raise DataError(f"{title} has {wrong}, which is not among the images and categories")
        if not persons:
            size = by_id[number].height, by_id[number].width
            shape = _shape(annotation.get("segmentation"), size, title)
            by_id[number].regions.append(Region(part[category], shape))
        elif "dp_masks" in annotation:
            by_id[number].regions.extend(_body_parts(annotation, title))
    return by_name, [*BODY_PARTS] if persons else [names[number] for number in part]


def _body_parts(annotation: Mapping[str, Any], title: str) -> list[Region]:
    """The body parts of a person that have a mask."""
    masks, box = annotation["dp_masks"], annotation.get("bbox")
    numbers = isinstance(box, list) and [type(value) in {int, float} and abs(value) < FAR for value in box]
    if not isinstance(box, list) or numbers != [True] * 4 or min(box[2:]) <= 0:
        raise DataError(f"{title} has the bbox {str(box)[:60]}, expected [x, y, width, height] in pixels")
    if not isinstance(masks, list) or len(masks) != len(BODY_PARTS):
        raise DataError(f"{title}: expected a list of {len(BODY_PARTS)} dp_masks, got {str(masks)[:60]}")
    shapes = [_shape(mask, BOX, title) if mask else None for mask in masks]
    return [Region(part, shape, tuple(box)) for part, shape in enumerate(shapes, 1) if shape is not None]


def objects(content: Any, key: str) -> list[Mapping[str, Any]]:
    """The list ``key`` of a file in COCO's layout.

    Raises:
        DataError: if there is no such list of objects.
    """
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(
            f"expected an object with the lists images, categories and annotations, as in COCO's and"
            f" PartImageNet's files; {key} is {'missing' if items is None else 'no list of objects'}"
        )
    return items


def whole_number(item: Mapping[str, Any], key: str, where: str) -> int:
    """The value of ``key`` of an object of the list ``where``.

    Raises:
        DataError: if it is not a whole number.
    """
    value = item.get(key)
    if type(value) is not int:
        raise DataError(f"{where}: expected a whole number as {key}, got {value!r} in {str(dict(item))[:80]}")
    return value


def _shape(segmentation: Any, shape: tuple[int, int], title: str) -> Any:
    """Checked: polygons float64 (n, 2), run lengths int64, or compressed ones as they are."""
    size = [*shape]
    try:
        if isinstance(segmentation, list):
            polygons = [np.array(polygon).reshape(-1, 2) for polygon in segmentation]
            if all(p.dtype.kind in "if" and len(p) >= 3 and (abs(p) < FAR).all() for p in polygons):
                return [polygon.astype(np.float64) for polygon in polygons]
        elif segmentation["size"] == size and isinstance(segmentation["counts"], str):
            _decoder()
            return {"size": size, "counts": segmentation["counts"].encode()}
        elif segmentation["size"] == size:
            counts, pixels = np.array(segmentation["counts"]), size[0] * size[1]
            whole = counts.dtype.kind == "i" and counts.ndim == 1
            # No run is longer than the image, so the sum of huge ones cannot overflow to its size.
            if whole and counts.min() >= 0 and counts.max() <= pixels == counts.sum():
                return counts
    except (TypeError, KeyError, ValueError):
        pass  # Of another layout.
    raise DataError(
        f"{title}: got the segmentation {str(segmentation)[:60]!r}, expected polygons [[x0, y0, x1, y1, x2,"
        f" y2, ...], ...] within {FAR:g} pixels, or {{size: {size}, counts: [...]}} with runs that fill the"
        " image"
    )


def _decoder() -> Any:
    try:
        return import_module("faster_coco_eval.core.mask")
    except ImportError as error:
        library = "faster-coco-eval"
        raise PluginError(f"compressed run lengths need {library}: {install(library)}") from error


def _draw(region: Region, image: Annotated) -> NDArray[np.bool_]:
    """bool (H, W), without the parts outside the image."""
    size = BOX if region.box else (image.height, image.width)
    if isinstance(region.shape, dict):
        try:
            inside = np.asarray(_decoder().decode(region.shape), np.bool_)
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"the compressed run lengths {str(region.shape)[:60]}... do not fill {size[0]} x {size[1]}"
                f" pixels: {error}; download the annotations again"
            ) from error
    elif isinstance(region.shape, np.ndarray):
        filled = np.repeat(np.arange(len(region.shape)) % 2 == 1, region.shape)
        inside = np.asarray(filled.reshape(size[1], size[0]).T)  # Runs go down the columns.
    else:
        inside = np.zeros(size, np.bool_)
        for polygon in region.shape:
            inside |= fill(polygon, *size)
    return paste(inside, region.box, image.height, image.width) if region.box else inside


def paste(mask: NDArray[np.bool_], box: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """A mask whose grid covers a box of an image: a pixel has the value of the cell that its center is in.

    Args:
        mask: bool (h, w).
        box: x, y, width and height in pixels; it may reach beyond the image.
        height: of the image.
        width: of the image.

    Returns:
        bool (height, width).
    """
    pasted = np.zeros((height, width), np.bool_)
    cells = []
    for side, start, length, count in zip((height, width), box[1::-1], box[:1:-1], mask.shape, strict=True):
        cell = np.floor((np.arange(side) + 0.5 - start) / length * count).astype(np.int64)
        pixels = np.flatnonzero((cell >= 0) & (cell < count))
        cells.append((pixels, cell[pixels]))
    (rows, row_cells), (columns, column_cells) = cells
    pasted[np.ix_(rows, columns)] = mask[np.ix_(row_cells, column_cells)]
    return pasted


def fill(polygon: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centers lie in a polygon, by the even-odd rule.

    OpenCV's and Pillow's polygons include the pixels of their outline, which makes small parts too large.

    Args:
        polygon: float64 (n, 2), x and y in pixels; the first pixel's center is at (0.5, 0.5).
        height: of the image.
        width: of the image.

    Returns:
        bool (height, width).
    """
    start, end = polygon, np.roll(polygon, -1, 0)
    centers = np.arange(height) + 0.5
    rows, edges = np.nonzero((start[:, 1] <= centers[:, None]) != (end[:, 1] <= centers[:, None]))
    (x0, y0), (x1, y1) = start[edges].T, end[edges].T
    crossings = x0 + (centers[rows] - y0) / (y1 - y0) * (x1 - x0)
    changes = np.zeros((height, width + 1), np.int64)
    np.add.at(changes, (rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)), 1)
    inside: NDArray[np.bool_] = changes.cumsum(1)[:, :width] % 2 == 1
    return inside
