"""``pairs:DIR``: images and label maps of one's own, in two folders with the same file names."""

from __future__ import annotations

from pathlib import Path

from castssl.contracts import DataSet, Listing
from castssl.datasets.folder import look_through
from castssl.datasets.label_maps import IGNORED, class_table
from castssl.datasets.left_out import some
from castssl.datasets.pixel_classes import PixelClasses, voc_palette
from castssl.datasets.segmentation_sets import Pair, list_pairs, write_pair
from castssl.datasets.split_folders import find_split
from castssl.datasets.text import known_options, read_text
from castssl.errors import DataError

IMAGES = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit")
LABELS = ("labels", "label", "annotations", "masks", "mask", "segmentationclass", "gt", "gtfine")
OPTIONS = ("classes", "ignore", "values", "reduce_zero_label")
_TRUE = {"1": True, "true": True, "yes": True, "": True, "0": False, "false": False, "no": False}


class LabelPairs(DataSet):
    """Images and label maps (.png) of the same names: images/ and labels/, in or around folders of the
    splits.

    ``DIR/images/train/a.jpg`` with ``DIR/labels/train/a.png``, or ``DIR/train/images/a.jpg`` with
    ``DIR/train/labels/a.png``; without folders of splits there is only a train split.  The classes are those
    of ``DIR/classes.txt``, one name per line, or numbers by ``pairs:DIR?classes=21``.

    Options: ``classes=N``; ``ignore=V``, a value that is unknown, by default 255 with more than two classes
    and without ``values``; ``reduce_zero_label=1``: 0 is unknown, and 1 is the first class;
    ``values=0,255``: the value of each class.

    Raises:
        DataError: if folders, classes or pairs are missing, or an option is unknown or contradicts another.
    """

    location = "/path/to/folder?classes=21"
    target = "map"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        path, _, query = location.partition("?")
        root = Path(path).expanduser()
        images, labels = find_folders(root, split)
        classes, table = read_options(root, query)
        files, left_out = look_through(images)
        known = {name.rpartition(".")[0]: name for name in look_through(labels).names}
        below = images.relative_to(root).as_posix(), labels.relative_to(root).as_posix()
        stems = [name.rpartition(".")[0] for name in files]
        alone = sorted(set(known) - set(stems))
        if alone:
            sentence = f"left out {len(alone):,} label maps without an image: {some(alone)}"
            left_out = (*left_out, sentence)
        pairs = [
            Pair(f"{below[0]}/{name}", f"{below[1]}/{known.get(stem, stem + '.png')}")
            for name, stem in zip(files, stems, strict=True)
        ]
        return list_pairs(root, pairs, classes, table, left_out)

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        for split in ("train", "val"):
            write_pair(folder / f"images/{split}/a.jpg", folder / f"labels/{split}/a.png", (0, 1, 2, 255))
        return f"{folder}?classes=3"


def find_folders(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of images and of label maps of a split.

    Raises:
        DataError: if there are no such folders, or no such split.
    """
    if (outer := _two(root)) is not None:
        images, labels = outer
        folder = find_split(images, split).folder
        if not (beside := labels / folder.relative_to(images)).is_dir():
            raise DataError(f"there is no {beside}, expected the label maps of the images in {folder}")
        return folder, beside
    folder = find_split(root, split).folder
    if (inner := _two(folder)) is None:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise DataError(
            f"{folder} has the folders [{some(inside)}], expected two: one of images, called"
            f" {', '.join(IMAGES[:3])} or the like, and one of label maps, called {', '.join(LABELS[:4])} or"
            " the like"
        )
    return inner


def _two(folder: Path) -> tuple[Path, Path] | None:
    places = folder.iterdir() if folder.is_dir() else ()
    inside = {place.name.lower(): place for place in places if place.is_dir()}
    images, labels = (
        next((inside[name] for name in names if name in inside), None) for names in (IMAGES, LABELS)
    )
    return None if images is None or labels is None else (images, labels)


def read_options(root: Path, query: str) -> tuple[PixelClasses, dict[int, int]]:
    """The classes, and the class of each value of the label maps.

    Args:
        root: the folder, maybe with ``classes.txt``.
        query: the options as ``classes=21&ignore=0``.

    Raises:
        DataError: if an option is unknown or no number, or options contradict each other.
    """
    options = known_options("pairs", query, OPTIONS)
    listed = root / "classes.txt"
    names = [line.strip() for line in read_text(listed).splitlines()] if listed.is_file() else []
    names = [name for name in names if name]
    values = [_number("values", value) for value in options.get("values", "").split(",") if value]
    counts = [len(names), _number("classes", options.get("classes", "0")), len(values)]
    given = {count for count in counts if count}
    if len(given) != 1:
        raise DataError(
            f"pairs: got {counts[0]} names in {listed}, classes={counts[1]} and {counts[2]} values; expected"
            " the same number of classes in one of them at least, as pairs:DIR?classes=21"
        )
    (classes,) = given
    reduced = _TRUE.get(options.get("reduce_zero_label", "0").lower())
    if reduced is None or (reduced and values):
        raise DataError("pairs: reduce_zero_label is 0 or 1, and not given together with values=")
    ignored = _number("ignore", options["ignore"]) if "ignore" in options else None
    if ignored is None and not values and 2 < classes <= IGNORED:
        ignored = IGNORED
    if values:
        if len({*values, ignored}) <= len(values):
            raise DataError(f"pairs: values={options['values']} and ignore={ignored}: a value occurs twice")
        table = {value: number for number, value in enumerate(values)}
        table |= {} if ignored is None else {ignored: -1}
    else:
        table = class_table(classes, reduce_zero_label=reduced, ignored=ignored)
    return PixelClasses(tuple(names or map(str, range(classes))), voc_palette(classes)), table


def _number(option: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) > 65535:
        raise DataError(f"pairs: {option} takes numbers from 0 to 65535, got {text!r}")
    return int(text)
