"""Seeded faults of data sets, each with the check that must catch it and words of its message."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from torch.utils.data import get_worker_info

from castssl.contracts import Target
from castssl.datasets import DataSet, Files, Item, LabelTree, Listing, Turn
from castssl.testing import datasets as room
from castssl.testing.claims import Check, Subject
from tests.contracts.healthy import Frames, Labels, Maps, Reel, Tags


class UnknownTarget(Labels):
    target = cast(Target, "paths")


class NoTrain(Labels):
    splits = ("val",)


class Unlike:
    """No subclass: castssl could add nothing to it."""

    location, splits, indexed, target = "/folder", ("train", "val"), True, "path"
    open, example = Labels.open, Labels.example


class StreamsAList(Labels):
    indexed = False


class Shuffles(Labels):
    def rows(self, path: Path) -> list[tuple[str, str]]:
        return random.sample(rows := super().rows(path), len(rows))


class RelabelsAtRandom(Labels):
    def open(self, location: str, split: str) -> Listing:
        found = super().open(location, split)
        order = random.sample(range(len(found.targets)), len(found.targets))
        return found._replace(targets=found.targets[order])


class DropsLabel(Labels):
    def open(self, location: str, split: str) -> Listing:
        found = super().open(location, split)
        return found._replace(targets=found.targets[:-1])


class EmptyVal(Labels):
    def rows(self, path: Path) -> list[tuple[str, str]]:
        return [] if path.stem == "val" else super().rows(path)


class PromisesMore(Frames):
    def open(self, location: str, split: str) -> Reel:
        reel = super().open(location, split)
        reel.length += 1
        return reel


class Floats(Labels):
    def open(self, location: str, split: str) -> Listing:
        found = super().open(location, split)
        return found._replace(targets=found.targets.float())


class FlatTargets(Labels):
    def open(self, location: str, split: str) -> Listing:
        found = super().open(location, split)
        return found._replace(targets=found.targets[:, -1])


class CountsFromOne(Labels):
    def open(self, location: str, split: str) -> Listing:
        found = super().open(location, split)
        return found._replace(targets=found.targets + 1)


class StreamCountsFromOne(Frames):
    def open(self, location: str, split: str) -> Reel:
        reel = super().open(location, split)
        reel.first = 1
        return reel


class OtherParents(Labels):
    def open(self, location: str, split: str) -> Listing:
        found = super().open(location, split)
        targets = found.targets.clone()
        targets[:, 0] = targets[:, 0].flip(0)
        return found._replace(targets=targets)


class TreeOfEachSplit(Labels):
    def classes(self, root: Path, split: str) -> LabelTree:
        return LabelTree.from_paths([label.split("/") for _, label in self.rows(root / f"{split}.txt")])

    def example(self, folder: Path) -> str:
        location = super().example(folder)
        lines = (folder / "val.txt").read_text().splitlines(keepends=True)
        (folder / "val.txt").write_text("".join(line for line in lines if "birch" not in line))
        return location


class OpenedOnce(Files):
    """Hands out one open file for each row."""

    def open(self, row: int) -> IO[bytes]:
        kept: dict[int, IO[bytes]] = self.__dict__.setdefault("kept", {})
        return kept.setdefault(row, super().open(row))


class NeighborAtRandom(Files):
    def open(self, row: int) -> IO[bytes]:
        return super().open(random.randrange(len(self)))


class Text(Files):
    def open(self, row: int) -> IO[bytes]:
        return io.BytesIO(b"no picture")


class Locked(Files):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()


class ForgetsFolder(Files):
    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"folder": "elsewhere"}


class OtherInWorker(Files):
    def open(self, row: int) -> IO[bytes]:
        return super().open(row if get_worker_info() is None else 0)


def with_source(source: type[Files]) -> type[DataSet]:
    """The healthy data set with another source."""

    class Mutant(Labels):
        def open(self, location: str, split: str) -> Listing:
            found = super().open(location, split)
            names = [found.source.name(row) for row in range(len(found.source))]
            return found._replace(source=source(Path(location), names))

    Mutant.__name__ = source.__name__
    return Mutant


class RaisesOSError(Labels):
    def rows(self, path: Path) -> list[tuple[str, str]]:
        path.stat()
        return super().rows(path)


class NamesNoPlace(Labels):
    def open(self, location: str, split: str) -> Listing:
        if not Path(location).exists():
            raise self.refusal("the data is missing")
        return super().open(location, split)


class OpensNothing(Labels):
    def rows(self, path: Path) -> list[tuple[str, str]]:
        return super().rows(path) if path.parent.exists() else []


class TrainForAll(Labels):
    def open(self, location: str, split: str) -> Listing:
        return super().open(location, split if split in self.splits else "train")


class SplitByKey(Labels):
    def open(self, location: str, split: str) -> Listing:
        return super().open(location, {"train": "train", "val": "val"}[split])


class ReadsMissingList(Labels):
    def lacks(self, root: Path, split: str) -> bool:
        return False


class KeepsIndex(Labels):
    def open(self, location: str, split: str) -> Listing:
        found = super().open(location, split)
        (Path(location) / "index.cache").write_text(str(len(found.targets)))
        return found


class CountsReads(Frames):
    def open(self, location: str, split: str) -> Reel:
        return _CountingReel(*super().open(location, split))


class _CountingReel(Reel):
    def items(self, turn: Turn) -> Iterator[Item]:
        for item in super().items(turn):
            with (Path(item.name).parent / "reads.log").open("a") as log:
                log.write(f"{item.name}\n")
            yield item


class IgnoresTurn(Frames):
    def open(self, location: str, split: str) -> Reel:
        return _SameForAll(*super().open(location, split))


class _SameForAll(Reel):
    def items(self, turn: Turn) -> Iterator[Item]:
        return super().items(turn._replace(rank=0, world=1))


class MapsOfPaths(Maps):
    target = "path"


class FewerMaps(Maps):
    def open(self, location: str, split: str) -> Listing:
        listing = super().open(location, split)
        assert listing.maps is not None
        return listing._replace(maps=listing.maps._replace(source=Files(Path(location), ["train-0-map.png"])))


class MoreNumbers(Maps):
    def classes(self) -> LabelTree:
        return LabelTree.flat(("sky", "road"))


class SmallMaps(Maps):
    size = (20, 24)


class StrangeValue(Maps):
    values = (0, 1, 7)


class ColorsOfOthers(Maps):
    def open(self, location: str, split: str) -> Listing:
        listing = super().open(location, split)
        assert listing.maps is not None
        return listing._replace(maps=listing.maps._replace(palette=((0, 0, 0),)))


class TagsOfPaths(Tags):
    target = "path"


class PathsOfTags(Labels):
    target = "multihot"


def with_tags(name: str, change: Callable[[Listing], Listing]) -> type[DataSet]:
    """The healthy data set of many labels with another listing."""

    def open(self: Tags, location: str, split: str) -> Listing:
        return change(Tags.open(self, location, split))

    return type(name, (Tags,), {"open": open})


MUTANTS: list[tuple[Check, Subject, str]] = [
    (room.check_conforms, UnknownTarget, "set target"),
    (room.check_conforms, NoTrain, "'train' among them"),
    (room.check_conforms, Unlike, "a subclass of"),
    (room.check_conforms, StreamsAList, "returns a Feed, not Listing"),
    (room.check_order, Shuffles, "another order"),
    (room.check_order, RelabelsAtRandom, "another order"),
    (room.check_lengths, DropsLabel, "has 6 images, and declares or labels 5"),
    (room.check_lengths, EmptyVal, "val split has no image"),
    (room.check_lengths, PromisesMore, "has 6 images, and declares or labels 7"),
    (room.check_targets, Floats, "int64, not torch.float32"),
    (room.check_targets, FlatTargets, r"shape \(n, 2\)"),
    (room.check_targets, CountsFromOne, "number them from 0"),
    (room.check_targets, StreamCountsFromOne, "expected 0 to 2"),
    (room.check_label_maps, MapsOfPaths, "target is 'path'"),
    (room.check_label_maps, FewerMaps, "has 3 images, but 1 label maps"),
    (room.check_label_maps, MoreNumbers, "expected 0 to 1 and -1"),
    (room.check_label_maps, SmallMaps, "20 x 24 pixels, expected 24 x 20"),
    (room.check_label_maps, StrangeValue, "has the value 7"),
    (room.check_label_maps, ColorsOfOthers, "1 colors for 3 classes"),
    (room.check_many_labels, TagsOfPaths, "exclusive=False"),
    (room.check_many_labels, PathsOfTags, "exclusive=True"),
    *(
        (room.check_many_labels, with_tags(name, change), words)
        for name, change, words in (
            ("Booleans", lambda one: one._replace(targets=one.targets > 0), "float32, not torch.bool"),
            ("OneLevel", lambda one: one._replace(targets=one.targets[:, 2:]), r"shape \(n, 5\)"),
            ("Counts", lambda one: one._replace(targets=one.targets * 2), r"values \[-2.0, 2.0\]"),
            ("Unnamed", lambda one: one._replace(tree=replace(one.tree, names=())), "name the classes"),
            (
                "Orphans",
                lambda one: one._replace(targets=one.targets.flip(0)[:, [1, 0, 2, 3, 4]]),
                "its parent",
            ),
        )
    ),
    (room.check_label_paths, OtherParents, "do not allow"),
    (room.check_splits_agree, TreeOfEachSplit, "classes of val differ"),
    (room.check_images, with_source(OpenedOnce), "cannot be read"),
    (room.check_images, with_source(NeighborAtRandom), "another image"),
    (room.check_images, with_source(Text), "cannot be read"),
    (room.check_travels_to_workers, with_source(Locked), "pickling fails"),
    (room.check_travels_to_workers, with_source(ForgetsFolder), "cannot read the pickled copy"),
    (room.check_travels_to_workers, with_source(OtherInWorker), "other images"),
    (room.check_readers_share, IgnoresTurn, "two processes read 12 items"),
    (room.check_missing_location, RaisesOSError, "not FileNotFoundError"),
    (room.check_missing_location, NamesNoPlace, "should also name"),
    (room.check_missing_location, OpensNothing, "given a missing location, raise DataError: name"),
    (room.check_unknown_split, TrainForAll, "raise NoSplit where there is no such split"),
    (room.check_unknown_split, SplitByKey, "not KeyError"),
    (room.check_missing_split, ReadsMissingList, "without val.txt, raise NoSplit, not DataError"),
    (room.check_writes_nothing, KeepsIndex, "index.cache"),
    (room.check_writes_nothing, CountsReads, "reads.log"),
]
