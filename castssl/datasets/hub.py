"""Data sets of the Hugging Face Hub, by ``datasets``: by index (``hfds``) and as a stream (``hfids``)."""

from __future__ import annotations

import io
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import IO, Any

import torch
from torch import Tensor

from castssl import distributed
from castssl.contracts import DataSet, Listing
from castssl.datasets import stream
from castssl.errors import DataError
from castssl.feed import Item, Turn, Unreadable
from castssl.labels import LabelTree

OPTIONS = ("split", "input_key", "target_key", "num_classes")
"""Options behind the name, as in ``hfds/cifar100?input_key=img&target_key=fine_label``."""


class Hub:
    """A data set of the Hub, or a folder that ``datasets`` can load, read by row.

    Args:
        name: ``NAME[:cache folder]`` and :data:`OPTIONS`: the columns of images and labels ("image" and
            "label" by default), and how many classes a column of numbers without names has.
        split: "train", "val" or "test".

    Raises:
        DataError: if the package, the data set, the split or a column is missing, or a label is not a class.
    """

    def __init__(self, name: str, split: str) -> None:
        stream.require_package("datasets", f"hfds/{name.partition(':')[0]}", "datasets")
        import datasets  # type: ignore[import-untyped]

        self.title = f"hfds/{name}"
        spec = stream.read_spec("hfds", name, OPTIONS)
        load = partial(datasets.load_dataset, spec.name, cache_dir=spec.root or None)
        rows = stream.open_split(self.title, split, spec.options, lambda one: load(split=one))
        self.key, target, self.classes = _columns(spec, rows.features)
        self.images = rows.select_columns([self.key]).cast_column(self.key, datasets.Image(decode=False))
        labels = rows.select_columns([target])[:][target] if self.classes else [None] * len(rows)
        numbers = [
            stream.class_number(one, len(self.classes), self.name(row)) for row, one in enumerate(labels)
        ]
        # Classes int64 (n,), -1 where there is none.
        self.targets: Tensor = torch.tensor(numbers, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def open(self, row: int) -> IO[bytes]:
        """The encoded image."""
        return _file(self.images[row][self.key])

    def name(self, row: int) -> str:
        """``hfds/NAME#row``."""
        return f"{self.title}#{row}"

    def path(self, row: int) -> str:
        """As :meth:`name`."""
        return self.name(row)


class HubStream:
    """A data set of the Hub that is read in order while it is downloaded.

    Args:
        name: as for :class:`Hub`, and the options ``num_samples``, where the Hub does not know it, and
            ``shuffle_size``.
        split: "train", "val" or "test".

    Raises:
        DataError: as for :class:`Hub`, or if the number of images is not known.
    """

    def __init__(self, name: str, split: str) -> None:
        stream.require_package("datasets", f"hfids/{name.partition(':')[0]}", "datasets")
        import datasets

        self.spec = stream.read_spec("hfids", name, (*OPTIONS, "num_samples", "shuffle_size"))

        def opener(one: str) -> tuple[Any, int]:
            builder = datasets.load_dataset_builder(self.spec.name, cache_dir=self.spec.root or None)
            info = (builder.info.splits or {}).get(one)
            return builder.as_streaming_dataset(split=one), (info.num_examples or 0) if info else 0

        rows, declared = stream.open_split(f"hfids/{name}", split, self.spec.options, opener)
        self.length = self.spec.number("num_samples") or declared
        if not self.length:
            raise DataError(
                f"{self.spec.title}: the number of images is not known; give ?num_samples=N, or use hfds/"
            )
        if rows.features is None:
            raise DataError(
                f"{self.spec.title}: the columns are not known before it is downloaded; use hfds/"
            )
        self.key, self.target, self.classes = _columns(self.spec, rows.features)
        self.lost: list[Unreadable] = []
        self.rows = rows.cast_column(self.key, datasets.Image(decode=False))

    def workers(self, world: int) -> int:
        shards = int(self.rows.num_shards)
        # Where the shards cannot be divided, each process skips the items of the others.
        return shards // world if shards % world == 0 else shards

    def items(self, turn: Turn) -> Iterator[Item | Unreadable]:
        from datasets.distributed import split_dataset_by_node  # type: ignore[import-untyped]

        rows = self.rows
        if turn.train:
            # Interleaving more shards than this would leave readers without any.
            inputs = max(1, min(10, int(self.rows.num_shards) // (turn.world * turn.workers)))
            size = self.spec.number("shuffle_size") or stream.SHUFFLED
            rows = rows.shuffle(seed=turn.seed, buffer_size=size, max_buffer_input_shards=inputs)
        rows = split_dataset_by_node(rows, rank=turn.rank, world_size=turn.world)
        rows.set_epoch(turn.epoch + (turn.lap << 20))
        for row in rows:
            image = row[self.key]
            label = row.get(self.target) if self.classes else None
            path = (image or {}).get(
                "path"
            ) or f"checksum {zlib.crc32((image or {}).get('bytes') or b''):08x}"
            absolute = os.path.isabs(path) or "://" in path
            yield Item(path if absolute else f"{self.spec.title}: {path}", partial(_file, image), label)


class HubData(DataSet):
    """A data set of the Hugging Face Hub, or a folder that ``datasets`` can load."""

    location = "NAME"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        source = Hub(location, split)
        tree = LabelTree.flat(source.classes) if source.classes else LabelTree.none()
        return Listing(source, source.targets.view(-1, 1)[:, : tree.levels], tree)


class StreamedHubData(DataSet):
    """A data set of the Hugging Face Hub, read as a stream while it is downloaded."""

    location = "NAME"
    indexed = False

    def open(self, location: str, split: str) -> HubStream:
        """See :class:`castssl.contracts.DataSet`."""
        return HubStream(location, split)


def _columns(spec: stream.Spec, features: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """The columns of images and labels, and the names of the classes, () if there are none."""
    import datasets

    key, target = spec.options.get("input_key", "image"), spec.options.get("target_key", "label")
    for column, option in ((key, "input_key"), (target, "target_key")):
        if column not in features and (option == "input_key" or option in spec.options):
            raise DataError(
                f"{spec.title} has no column {column!r}: it has {', '.join(features)}; name one as"
                f" ?{option}=..."
            )
    classes = tuple(map(str, range(spec.number("num_classes"))))
    if isinstance(features.get(target), datasets.ClassLabel):
        return key, target, tuple(features[target].names)
    if target in features and not classes and distributed.is_main():
        warnings.warn(
            f"the column {target!r} of {spec.title} names no classes, so the data counts as unlabeled; if"
            " it holds class numbers, give how many there are as ?num_classes=N",
            stacklevel=2,
        )
    return key, target, classes if target in features else ()


def _file(image: Mapping[str, Any] | None) -> IO[bytes]:
    """The encoded image that ``datasets`` holds as bytes or as a path.

    Raises:
        DataError: if there is none.
        OSError: if the path cannot be read.
    """
    image = image or {}
    if image.get("bytes") is not None:
        return io.BytesIO(image["bytes"])
    if not image.get("path"):
        raise DataError("there is no image in this row")
    return stream.open_address(image["path"])
