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

from castssl import ranks
from castssl.contracts import DataSet, Item, Listing, Turn, Unreadable
from castssl.datasets.feed import SHUFFLED, Spec, class_number, fetch, first_split, need, read_spec
from castssl.errors import DataError
from castssl.types import LabelTree

OPTIONS = ("split", "input_key", "target_key", "num_classes")
"""What may follow the name, as in ``hfds/cifar100?input_key=img&target_key=fine_label``."""


class Hub:
    """A data set of the Hub, or a folder that ``datasets`` can load, read by row.

    Args:
        name: ``NAME[:cache folder]`` and :data:`OPTIONS`: the columns of images and labels ("image" and
            "label" by default), and how many classes a column of numbers without names has.
        split: "train", "val" or "test".

    Raises:
        DataError: if the package, the data set, the split or a column is missing, or a label is no class.
    """

    def __init__(self, name: str, split: str) -> None:
        need("datasets", f"hfds/{name.partition(':')[0]}", "datasets")
        import datasets  # type: ignore[import-untyped]

        spec = read_spec("hfds", name, OPTIONS)
        load = partial(datasets.load_dataset, spec.name, cache_dir=spec.root or None)
        found = first_split(f"hfds/{name}", split, spec.options, lambda called: load(split=called))
        self.called = f"hfds/{name}"
        key, target, self.classes = _columns(spec, found.features)
        images = found.select_columns([key]).cast_column(key, datasets.Image(decode=False))
        self.key, self.images = key, images
        labels = found.select_columns([target])[:][target] if self.classes else [None] * len(found)
        numbers = [class_number(one, len(self.classes), self.name(row)) for row, one in enumerate(labels)]
        self.targets: Tensor = torch.tensor(numbers, dtype=torch.int64)
        """Classes int64 (n,), -1 where there is none."""

    def __len__(self) -> int:
        return len(self.images)

    def open(self, row: int) -> IO[bytes]:
        """The encoded image."""
        return _file(self.images[row][self.key])

    def name(self, row: int) -> str:
        """``hfds/NAME#row``."""
        return f"{self.called}#{row}"

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
        need("datasets", f"hfids/{name.partition(':')[0]}", "datasets")
        import datasets

        self.spec = read_spec("hfids", name, (*OPTIONS, "num_samples", "shuffle_size"))
        self.called = self.spec.called

        def opened(called: str) -> tuple[Any, int]:
            builder = datasets.load_dataset_builder(self.spec.name, cache_dir=self.spec.root or None)
            known = (builder.info.splits or {}).get(called)
            return builder.as_streaming_dataset(split=called), (known.num_examples or 0) if known else 0

        stream, known = first_split(f"hfids/{name}", split, self.spec.options, opened)
        self.length = self.spec.number("num_samples") or known
        if not self.length:
            raise DataError(
                f"{self.called}: the number of images is not known; give ?num_samples=N, or use hfds/"
            )
        if stream.features is None:
            raise DataError(f"{self.called}: the columns are not known before it is downloaded; use hfds/")
        self.key, self.target, self.classes = _columns(self.spec, stream.features)
        self.lost: list[Unreadable] = []
        self.stream = stream.cast_column(self.key, datasets.Image(decode=False))

    def workers(self, world: int) -> int:
        shards = int(self.stream.num_shards)
        return shards // world if shards % world == 0 else shards  # else each process skips the others' items

    def items(self, turn: Turn) -> Iterator[Item | Unreadable]:
        from datasets.distributed import split_dataset_by_node  # type: ignore[import-untyped]

        stream = self.stream
        if turn.train:
            # interleaving more shards than this would leave readers without any
            inputs = max(1, min(10, int(self.stream.num_shards) // (turn.world * turn.workers)))
            size = self.spec.number("shuffle_size") or SHUFFLED
            stream = stream.shuffle(seed=turn.seed, buffer_size=size, max_buffer_input_shards=inputs)
        stream = split_dataset_by_node(stream, rank=turn.rank, world_size=turn.world)
        stream.set_epoch(turn.epoch + (turn.lap << 20))
        for row in stream:
            image = row[self.key]
            label = row.get(self.target) if self.classes else None
            yield Item(self._place(image), partial(_file, image), label)

    def _place(self, image: Mapping[str, Any] | None) -> str:
        found = image or {}
        path = found.get("path") or f"checksum {zlib.crc32(found.get('bytes') or b''):08x}"
        return path if os.path.isabs(path) or "://" in path else f"{self.called}: {path}"


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


def _columns(spec: Spec, features: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """The columns of images and labels, and the names of the classes, () if there are none."""
    import datasets

    key, target = spec.options.get("input_key", "image"), spec.options.get("target_key", "label")
    for column, option in ((key, "input_key"), (target, "target_key")):
        if column not in features and (option == "input_key" or option in spec.options):
            raise DataError(
                f"{spec.called} has no column {column!r}: it has {', '.join(features)}; name one as"
                f" ?{option}=..."
            )
    classes = tuple(map(str, range(spec.number("num_classes"))))
    if isinstance(features.get(target), datasets.ClassLabel):
        return key, target, tuple(features[target].names)
    if target in features and not classes and ranks.is_main():
        warnings.warn(
            f"the column {target!r} of {spec.called} names no classes, so the data counts as unlabelled; if"
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
    if image is None or (image.get("bytes") is None and not image.get("path")):
        raise DataError("there is no image in this row")
    if image.get("bytes") is not None:
        return io.BytesIO(image["bytes"])
    return fetch(image["path"])
