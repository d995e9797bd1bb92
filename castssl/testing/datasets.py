"""The contract of data sets (:class:`castssl.contracts.DataSet`) as checks.

Each check takes ``"NAME:LOCATION"`` as after ``--data``; or ``"NAME"`` or a factory ``factory() -> DataSet``,
which are tried on the data set's own example.  It raises ContractError with what the author should change.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
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
from torch.utils.data import DataLoader, Dataset

from castssl.contracts import DataSet, Feed, Item, Listing, Target, Turn
from castssl.datasets.decode import header, read
from castssl.datasets.stream import class_number
from castssl.errors import ConfigError, ContractError, DataError, NoSplit
from castssl.testing.claims import Check, Subject, claim, make

READ = 8
"""Images of a split that are decoded, spread evenly."""
STREAMED = 1000
"""Items of a stream that are looked at, from its beginning."""
ALONE = Turn(train=False, seed=0, epoch=0)
"""One reader that measures."""


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
        yield data, location or _example(data, Path(folder), name or type(data).__name__)


def _example(data: DataSet, folder: Path, name: str) -> str:
    location = data.example(folder)
    if not location:
        raise ConfigError(
            f"{name} writes no example of itself: name data that you have, as {name}:{data.location}"
        )
    return location


def _splits(data: DataSet, location: str) -> dict[str, Listing | Feed]:
    """Those splits that there are."""
    found = {}
    for split in data.splits:
        try:
            found[split] = data.open(location, split)
        except NoSplit:  # noqa: PERF203
            claim(split != "train", f"there is no train split at {location!r}: every data set needs one")
    return found


def _images(found: Listing | Feed, turn: Turn = ALONE) -> list[_Image]:
    """The images of a split in order, each ready to be opened."""
    if isinstance(found, Listing):
        source = found.source
        rows = zip(range(len(source)), found.targets.tolist(), strict=False)
        return [_Image(source.name(row), partial(source.open, row), label) for row, label in rows]
    items = islice(found.items(turn), STREAMED)
    return [_Image(*item) for item in items if isinstance(item, Item)]


def _some(images: list[_Image]) -> list[_Image]:
    return [images[number * len(images) // READ] for number in range(READ)] if len(images) > READ else images


def _pixels(image: _Image) -> NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    try:
        with image.open() as opened:
            decoded = opened if isinstance(opened, Image.Image) else header(opened)
            return np.asarray(read(decoded).image)
    except Exception as fault:
        raise ContractError(
            f"{image.name} cannot be read: {type(fault).__name__}: {fault}; open() gives a new binary file of"
            " an encoded image at each call"
        ) from fault


def _path(location: str) -> tuple[str, Path | None, str]:
    """A location as what stands before the path in it, the path if it exists, and what stands behind it."""
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
        split_fault = f"set splits to a tuple of names with 'train' among them, got {data.splits!r}"
        claim(isinstance(data.splits, tuple) and "train" in data.splits, split_fault)
        targets = get_args(Target)
        claim(data.target in targets, f"set target to one of {targets}, got {data.target!r}")
        found = data.open(location, "train")
        wanted = Listing if data.indexed else Feed
        claim(
            isinstance(found, wanted),
            f"indexed is {data.indexed}, so open() returns a {wanted.__name__}, not {type(found).__name__}",
        )


def check_order(subject: Subject) -> None:
    """Opened twice, a split has the same images in the same order with the same labels."""
    with _open(subject) as (data, location):
        for split, found in _splits(data, location).items():
            once, again = (
                [(image.name, image.label) for image in _images(each)]
                for each in (found, data.open(location, split))
            )
            claim(once == again, f"the {split} split has another order when opened again: sort its files")


def check_lengths(subject: Subject) -> None:
    """There are images, and as many labels as images; a stream has as many items as it says."""
    with _open(subject) as (data, location):
        for split, found in _splits(data, location).items():
            if isinstance(found, Listing):
                count, said = len(found.source), len(found.targets)
            else:
                count, said = len(_images(found)), min(found.length, STREAMED)
            claim(count > 0, f"the {split} split has no image: raise NoSplit, or DataError with the reason")
            claim(count == said, f"the {split} split has {count} images, and says or labels {said}")


def check_targets(subject: Subject) -> None:
    """Label paths are int64 (n, L), each label a class of its level or -1; a stream's are class numbers."""
    with _open(subject) as (data, location):
        for split, found in _splits(data, location).items():
            if isinstance(found, Listing):
                _claim_targets(f"the {split} split", found.targets, found.tree.sizes)
            else:
                _claim_labels(found)


def _claim_labels(found: Feed) -> None:
    try:
        for image in _images(found) if found.classes else ():
            class_number(image.label, len(found.classes), image.name)
    except DataError as fault:
        raise ContractError(str(fault)) from fault


def _claim_targets(split: str, targets: Tensor, sizes: tuple[int, ...]) -> None:
    claim(targets.dtype == torch.int64, f"give targets as int64, not {targets.dtype}")
    claim(
        targets.dim() == 2 and targets.shape[1] == len(sizes),
        f"give targets of shape (n, {len(sizes)}), a column for each level, not {tuple(targets.shape)}",
    )
    outside = ((targets < -1) | (targets >= torch.tensor(sizes, dtype=torch.int64))).any(1).nonzero()
    claim(
        not len(outside),
        f"{split} has the label {targets[outside[:1, 0]].tolist()} at levels of {sizes} classes: number"
        " them from 0 below these sizes, -1 for unknown",
    )


def check_label_paths(subject: Subject) -> None:
    """Each known label descends from those above it, by the tree's parents."""
    with _open(subject) as (data, location):
        for split, found in _splits(data, location).items():
            if isinstance(found, Listing) and found.tree.exclusive:
                strange = (~found.tree.valid(found.targets)).nonzero()
                claim(
                    not len(strange),
                    f"the {split} split has a label path that the tree's parents do not allow:"
                    f" {found.targets[strange[:1, 0]].tolist()}; tree.number() and tree.paths() give paths",
                )


def check_splits_agree(subject: Subject) -> None:
    """All splits number their classes alike."""
    with _open(subject) as (data, location):
        trees = {
            split: found.tree if isinstance(found, Listing) else found.classes
            for split, found in _splits(data, location).items()
        }
        other = [split for split, tree in trees.items() if tree != trees["train"]]
        claim(
            not other, f"the classes of {', '.join(other)} differ from those of train: number all by train's"
        )


def check_pictures(subject: Subject) -> None:
    """An image decodes to RGB, and is the same each time that it is opened."""
    with _open(subject) as (data, location):
        for split, found in _splits(data, location).items():
            for image in _some(_images(found)):
                once, again = _pixels(image), _pixels(image)
                claim(
                    np.array_equal(once, again),
                    f"{image.name} of the {split} split is another picture when it is opened again",
                )


class _InWorker(Dataset[list[tuple[str, bytes]]]):
    """Names and pixels, read where this was sent to."""

    def __init__(self, found: Listing | Feed) -> None:
        self.found = found

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> list[tuple[str, bytes]]:
        return [(image.name, _pixels(image).tobytes()) for image in _some(_images(self.found))]


def check_travels_to_workers(subject: Subject) -> None:
    """A pickled copy gives the same images in a data-loader worker."""
    with _open(subject) as (data, location):
        found = data.open(location, "train")
        expected = _InWorker(found)[0]
        try:
            copy = pickle.loads(pickle.dumps(found))
        except Exception as fault:
            raise ContractError(
                f"pickling fails: {fault}; keep paths and numbers, and open files when an image is read"
            ) from fault
        start = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        loader = DataLoader(_InWorker(copy), batch_size=None, num_workers=1, multiprocessing_context=start)
        try:
            got = next(iter(loader))
        except Exception as fault:
            raise ContractError(f"a worker process cannot read what was pickled: {fault}") from fault
        claim(
            list(map(tuple, got)) == expected, "a worker process reads other images: pickle all that decides"
        )


def check_readers_share(subject: Subject) -> None:
    """Two processes that measure on a stream read each item once between them."""
    with _open(subject) as (data, location):
        for split, found in _splits(data, location).items():
            if isinstance(found, Listing) or found.length > STREAMED:
                continue
            turns = [ALONE._replace(rank=rank, world=2) for rank in range(2)]
            shared = sorted(image.name for turn in turns for image in _images(found, turn))
            claim(
                shared == sorted(image.name for image in _images(found)),
                f"two processes read {len(shared)} items of the {split} split, which has {found.length}:"
                " items() must give each reader its own, by rank, world, worker and workers of the turn",
            )


def check_missing_place(subject: Subject) -> None:
    """Data that is not there is a DataError that says where."""
    with _open(subject) as (data, location):
        before, path, behind = _path(location)
        if path is None:
            return  # a name, or nothing
        missing = str(path) + "-is-missing"
        try:
            data.open(f"{before}{missing}{behind}", "train")
        except DataError as refusal:
            claim(missing in str(refusal), f"of missing data, the error should name {missing}: {refusal}")
        except Exception as fault:
            raise ContractError(
                f"of missing data, raise DataError that names the place, not {type(fault).__name__}: {fault}"
            ) from fault
        else:
            raise ContractError("data that is not there opens: raise DataError that names the place")


def check_unknown_split(subject: Subject) -> None:
    """A split that does not exist is a DataError, and no empty listing."""
    with _open(subject) as (data, location):
        try:
            data.open(location, "no-such-split")
        except DataError:
            return
        except Exception as fault:
            raise ContractError(
                f"of an unknown split, raise NoSplit or DataError, not {type(fault).__name__}: {fault}"
            ) from fault
        raise ContractError("a split 'no-such-split' opens: raise NoSplit where there is no such split")


def check_writes_nothing(subject: Subject) -> None:
    """Neither opening nor reading writes into the data's folder."""
    with _open(subject) as (data, location):
        path = _path(location)[1]
        if path is None:
            return
        folder = path if path.is_dir() else path.parent
        before = _files(folder)
        for found in _splits(data, location).values():
            for image in _some(_images(found)):
                _pixels(image)
        changed = sorted(str(file) for file, _ in before ^ _files(folder))
        claim(
            not changed, f"the data's folder was written to: {', '.join(changed[:3])}; keep caches elsewhere"
        )


def _files(folder: Path) -> set[tuple[str, tuple[int, int]]]:
    """Each file below a folder, with its size and time of change."""
    places = (os.path.join(top, file) for top, _, files in os.walk(folder) for file in files)
    return {
        (place, (os.stat(place).st_size, os.stat(place).st_mtime_ns))
        for place in places
        if os.path.exists(place)
    }


checks: list[Check] = [
    check_conforms,
    check_order,
    check_lengths,
    check_targets,
    check_label_paths,
    check_splits_agree,
    check_pictures,
    check_travels_to_workers,
    check_readers_share,
    check_missing_place,
    check_unknown_split,
    check_writes_nothing,
]
"""All checks of this room."""
