"""The contract of data sets (:class:`castssl.contracts.DataSet`) as checks.

Each check takes ``"NAME:LOCATION"`` as after ``--data``; or ``"NAME"`` or a factory ``factory() -> DataSet``,
whose own example is read.  It raises ContractError with what the author should change.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from castssl.contracts import DataSet, LabelMaps, Listing, Target
from castssl.datasets.decode import header, read
from castssl.datasets.images import Images
from castssl.datasets.many_labels import ABSENT, PRESENT, UNKNOWN
from castssl.datasets.stream import class_number
from castssl.errors import ConfigError, ContractError, DataError, NoSplit
from castssl.feed import Feed, Item, Turn
from castssl.labels import LabelTree
from castssl.testing.claims import (
    Check,
    Subject,
    checks_of,
    claim,
    claim_refused,
    in_worker,
    make,
    pickled,
    promised,
)

READ = 8
"""Images of a split that are decoded, spread evenly."""
STREAMED = 1000
"""Items at the start of a stream that are read."""
ALONE = Turn(train=False, seed=0, epoch=0)
"""The only reader of an evaluation."""


class _Image(NamedTuple):
    name: str
    open: Callable[[], IO[bytes] | Image.Image]
    label: object


@contextmanager
def _open(subject: Subject) -> Iterator[tuple[DataSet, str]]:
    """The data set, and a location to open it at."""
    name, _, location = subject.partition(":") if isinstance(subject, str) else ("", "", "")
    data: DataSet = make("datasets", name if isinstance(subject, str) else subject)
    with tempfile.TemporaryDirectory() as folder:
        location = location or data.example(Path(folder))
        if not location:
            name = name or type(data).__name__
            raise ConfigError(
                f"{name} writes no example of itself: name your data, as {name}:{data.location}"
            )
        yield data, location


def _contents(data: DataSet, location: str) -> Iterator[tuple[str, Listing | Feed]]:
    """The splits of a data set that exist."""
    for split in data.splits:
        try:
            content = data.open(location, split)
        except NoSplit:  # noqa: PERF203
            claim(split != "train", f"there is no train split at {location!r}: every data set needs one")
        else:
            yield split, content


def _splits(subject: Subject) -> Iterator[tuple[str, Listing | Feed]]:
    with _open(subject) as opened:
        yield from _contents(*opened)


def _images(content: Listing | Feed, turn: Turn = ALONE) -> list[_Image]:
    """The images of a split in order."""
    if isinstance(content, Listing):
        source = content.source
        rows = zip(range(len(source)), content.targets.tolist(), strict=False)
        return [_Image(source.name(row), partial(source.open, row), label) for row, label in rows]
    items = islice(content.items(turn), STREAMED)
    return [_Image(*item) for item in items if isinstance(item, Item)]


def _some(content: Listing | Feed) -> list[_Image]:
    images = _images(content)
    return [images[number * len(images) // READ] for number in range(READ)] if len(images) > READ else images


def _comparable(label: object) -> object:
    """A label with None in place of NaN, which differs from itself."""
    if isinstance(label, list):
        return [_comparable(part) for part in label]
    return None if isinstance(label, float | np.floating) and math.isnan(label) else label


def _pixels(image: _Image) -> NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    advice = "open() gives a new binary file of an encoded image at each call"
    with promised(f"{image.name} cannot be read: {{}}; {advice}"), image.open() as opened:
        return np.asarray(read(opened if isinstance(opened, Image.Image) else header(opened)).image)


def _path(location: str) -> tuple[str, Path | None, str]:
    """A location as the text before its path, the path if it exists, and the text behind it."""
    parts = re.split("([:?])", location)
    for first in range(0, len(parts), 2):
        for end in range(len(parts), first, -2):
            path = Path("".join(parts[first:end])).expanduser()
            if parts[first] and path.exists():
                return "".join(parts[:first]), path, "".join(parts[end:])
    return location, None, ""


def check_conforms(subject: Subject) -> None:
    """It declares its splits, its targets, and whether it is a stream; opening gives what it declares."""
    with _open(subject) as (data, location):
        claim(isinstance(data, DataSet), f"make {type(data).__name__} a subclass of castssl.datasets.DataSet")
        fault = f"set splits to a tuple of names with 'train' among them, got {data.splits!r}"
        claim(isinstance(data.splits, tuple) and "train" in data.splits, fault)
        targets = get_args(Target)
        claim(data.target in targets, f"set target to one of {targets}, got {data.target!r}")
        content, kind = data.open(location, "train"), Listing if data.indexed else Feed
        name = type(content).__name__
        fault = f"indexed is {data.indexed}, so open() returns a {kind.__name__}, not {name}"
        claim(isinstance(content, kind), fault)


def check_order(subject: Subject) -> None:
    """Opened twice, a split has the same images in the same order with the same labels."""
    with _open(subject) as (data, location):
        for split, content in _contents(data, location):
            reopened = data.open(location, split)
            first, second = (
                [(i.name, _comparable(i.label)) for i in _images(opened)] for opened in (content, reopened)
            )
            fault = f"the {split} split has another order when opened again: sort its files"
            claim(first == second, fault)


def check_lengths(subject: Subject) -> None:
    """There are images, and as many labels as images; a stream has as many items as it declares."""
    for split, content in _splits(subject):
        if isinstance(content, Listing):
            count, declared = len(content.source), len(content.targets)
        else:
            count, declared = len(_images(content)), min(content.length, STREAMED)
        claim(count > 0, f"the {split} split has no image: raise NoSplit, or DataError with the reason")
        claim(count == declared, f"the {split} split has {count} images, and declares or labels {declared}")


def check_targets(subject: Subject) -> None:
    """Label paths are int64 (n, L), each label a class of its level or -1; a stream's are class numbers."""
    for split, content in _splits(subject):
        if isinstance(content, Listing) and not content.tree.exclusive:
            continue
        if isinstance(content, Listing):
            sizes = content.tree.sizes if content.maps is None else ()
            _claim_targets(split, content.targets, sizes)
            continue
        try:
            for image in _images(content) if content.classes else ():
                class_number(image.label, len(content.classes), image.name)
        except DataError as fault:
            raise ContractError(str(fault)) from fault


def check_label_maps(subject: Subject) -> None:
    """Of target "map": a label map for each image, of its size, with classes of the tree or -1."""
    with _open(subject) as (data, location):
        for split, content in _contents(data, location):
            has = isinstance(content, Listing) and content.maps is not None
            fault = f"target is {data.target!r}, so the {split} split has {'no ' * has}maps in its Listing"
            claim(has == (data.target == "map"), fault)
            if isinstance(content, Listing) and content.maps is not None:
                _claim_maps(split, content, content.maps)


def _claim_maps(split: str, content: Listing, maps: LabelMaps) -> None:
    counts = len(content.source), len(maps.source)
    claim(counts[0] == counts[1], f"the {split} split has {counts[0]} images, but {counts[1]} label maps")
    claim(content.tree.levels == 1, f"the classes of pixels are one level, got {content.tree.levels}")
    classes, numbers = content.tree.sizes[0], set(maps.classes.values())
    fault = f"maps.classes numbers {sorted(numbers)}, expected 0 to {classes - 1} and -1"
    claim(numbers <= set(range(-1, classes)), fault)
    colors = len(maps.palette)
    claim(colors in (0, classes), f"the palette has {colors} colors for {classes} classes")
    images = Images(content.source, np.arange(counts[0]), content.targets, content.tree, maps=maps)
    for index in sorted({number * counts[0] // READ for number in range(READ)}):
        with promised("a label map cannot be read: {}"):
            sample = images.fetch(index, labels=True)
        claim(not sample.bad, f"{images.name(index)} or its label map cannot be read: {sample.bad[:1]}")


def _claim_targets(split: str, targets: Tensor, sizes: tuple[int, ...]) -> None:
    claim(targets.dtype == torch.int64, f"give targets as int64, not {targets.dtype}")
    shape, wanted = tuple(targets.shape), f"(n, {len(sizes)}), a column for each level"
    claim(len(shape) == 2 and shape[1] == len(sizes), f"give targets of shape {wanted}, not {shape}")
    outside = ((targets < -1) | (targets >= torch.tensor(sizes, dtype=torch.int64))).any(1).nonzero()
    labels = targets[outside[:1, 0]].tolist()
    fault = f"the {split} split has labels {labels} outside the {sizes} classes: number them from 0, or -1"
    claim(not len(outside), fault)


def check_many_labels(subject: Subject) -> None:
    """Of target "multihot": 1, 0 or -1 for each class of a tree that is not exclusive, as float32 (n, C)."""
    with _open(subject) as (data, location):
        for split, content in _contents(data, location):
            tree = content.tree if isinstance(content, Listing) else LabelTree.none()
            fault = f"target is {data.target!r}, and the tree of {split} has exclusive={tree.exclusive}:"
            fault += " only of target 'multihot' it is False, see castssl.datasets.many_labels"
            claim(tree.exclusive == (data.target != "multihot"), fault)
            if isinstance(content, Listing) and not tree.exclusive:
                _claim_many_labels(split, content.targets, tree)


def _claim_many_labels(split: str, targets: Tensor, tree: LabelTree) -> None:
    claim(targets.dtype == torch.float32, f"give multi-hot targets as float32, not {targets.dtype}")
    shape, wanted = tuple(targets.shape), f"(n, {sum(tree.sizes)}), a column for each class of each level"
    claim(targets.dim() == 2 and shape[1] == sum(tree.sizes), f"give targets of shape {wanted}, not {shape}")
    values = sorted(set(targets.unique().tolist()) - {PRESENT, ABSENT, UNKNOWN})
    fault = f"the {split} split has values {values[:5]}: give 1 (present), 0 (absent), -1 (unknown)"
    claim(not values, fault)
    claim(bool(tree.names), "name the classes: many_labels() takes their names, level by level")
    levels = targets.split(tree.sizes, dim=1)
    for level, parents in enumerate(tree.parents, start=1):
        above = levels[level - 1][:, list(parents)]
        orphans = ((levels[level] == PRESENT) & (above == ABSENT)).nonzero()
        fault = f"image {orphans[:1].tolist()} (row, class) of the {split} split has a class of level {level}"
        claim(not len(orphans), f"{fault} without its parent: set the parent, too, or give no parents")


def check_label_paths(subject: Subject) -> None:
    """A label path is a path of the tree."""
    for split, content in _splits(subject):
        if isinstance(content, Listing) and content.tree.exclusive and content.maps is None:
            strange = (~content.tree.valid(content.targets)).nonzero()
            fault = f"the {split} split has a label path that the tree's parents do not allow:"
            fault += f" {content.targets[strange[:1, 0]].tolist()}; tree.number() and tree.paths() give paths"
            claim(not len(strange), fault)


def check_splits_agree(subject: Subject) -> None:
    """All splits number their classes alike."""
    trees = {name: c.tree if isinstance(c, Listing) else c.classes for name, c in _splits(subject)}
    other = ", ".join(split for split, tree in trees.items() if tree != trees["train"])
    claim(not other, f"the classes of {other} differ from those of train: number all by train's")


def check_images(subject: Subject) -> None:
    """An image decodes to RGB, and is the same each time that it is opened."""
    for split, content in _splits(subject):
        for image in _some(content):
            same = np.array_equal(_pixels(image), _pixels(image))
            claim(same, f"{image.name} of the {split} split is another image when it is opened again")


class _InWorker(Dataset[list[tuple[str, bytes]]]):
    """Names and pixels of some images."""

    def __init__(self, content: Listing | Feed) -> None:
        self.content = content

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> list[tuple[str, bytes]]:
        return [(image.name, _pixels(image).tobytes()) for image in _some(self.content)]


def check_travels_to_workers(subject: Subject) -> None:
    """A pickled copy gives the same images in a data-loader worker."""
    for _, content in islice(_splits(subject), 1):
        expected = _InWorker(content)[0]
        copied = pickled(content, "keep paths and numbers, and open files when an image is read")
        try:
            images = in_worker(_InWorker(copied))
        except Exception as fault:
            raise ContractError(f"a worker process cannot read the pickled copy: {fault}") from fault
        same = list(map(tuple, images)) == expected
        claim(same, "a worker process reads other images: pickle all that decides")


def check_readers_share(subject: Subject) -> None:
    """Two processes of an evaluation read each item of a stream once between them."""
    for split, content in _splits(subject):
        if isinstance(content, Listing) or content.length > STREAMED:
            continue
        turns = [ALONE._replace(rank=rank, world=2) for rank in range(2)]
        shared = sorted(image.name for turn in turns for image in _images(content, turn))
        fault = f"two processes read {len(shared)} items of the {split} split, which has {content.length}:"
        fault += " items() must give each reader its own, by rank, world, worker and workers of the turn"
        claim(shared == sorted(image.name for image in _images(content)), fault)


def check_missing_location(subject: Subject) -> None:
    """Opening data that does not exist is a DataError that names the location."""
    with _open(subject) as (data, location):
        before, path, behind = _path(location)
        if path is not None:  # Else it is a name, or empty.
            missing = f"{path}-is-missing"
            call = partial(data.open, f"{before}{missing}{behind}", "train")
            claim_refused(call, "a missing location", (missing,), DataError, "name the location")


def check_unknown_split(subject: Subject) -> None:
    """A split that does not exist is a DataError, and no empty listing."""
    with _open(subject) as (data, location):
        call = partial(data.open, location, "no-such-split")
        claim_refused(call, "an unknown split", (), DataError, "raise NoSplit where there is no such split")


def check_missing_split(subject: Subject) -> None:
    """Where the file of a split is missing in the example's folder, such as val.txt, opening it is a NoSplit.

    A missing folder, or a missing file further below, may be damage of a published data set.
    """
    if isinstance(subject, str) and ":" in subject:
        return  # Only files of the example may be removed.
    with _open(subject) as (data, location):
        folder = _path(location)[1] or Path(os.devnull)
        for split in (name for name in data.splits if name != "train"):
            found = [one for one in folder.glob(f"{split}.*") if one.is_file() and one.stem == split]
            for one in found:
                one.unlink()
            if found:
                case = f"data without {found[0].name}"
                remedy = f"training goes on without a {split} split, and other errors end it"
                _claim_no_split(partial(data.open, location, split), case, remedy)


def _claim_no_split(call: Callable[[], object], case: str, remedy: str) -> None:
    """``call`` raises NoSplit, or nothing, as where other files have the split's list."""
    try:
        call()
    except NoSplit:
        return
    except Exception as fault:
        message = f"given {case}, raise NoSplit, not {type(fault).__name__}: {fault}; {remedy}"
        raise ContractError(message) from fault


def check_writes_nothing(subject: Subject) -> None:
    """Neither opening nor reading writes into the data's folder."""
    with _open(subject) as (data, location):
        path = _path(location)[1]
        if path is None:
            return
        folder = path if path.is_dir() else path.parent
        before = _files(folder)
        for _, content in _contents(data, location):
            for image in _some(content):
                _pixels(image)
        changed = ", ".join(sorted(file for file, *_ in before ^ _files(folder))[:3])
        claim(not changed, f"the data's folder was written to: {changed}; keep caches elsewhere")


def _files(folder: Path) -> set[tuple[str, int, int]]:
    """Each file below a folder, with its size and time of change."""
    paths = (os.path.join(top, file) for top, _, files in os.walk(folder) for file in files)
    stats = ((path, os.stat(path)) for path in paths if os.path.exists(path))
    return {(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats}


checks: list[Check] = checks_of(globals())
"""All checks of data sets."""
