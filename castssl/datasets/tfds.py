"""TensorFlow data sets as a stream, by timm's reader; TensorFlow decodes their images itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from PIL import Image

from castssl.contracts import DataSet
from castssl.datasets.stream import open_split, read_spec, require_package
from castssl.feed import Item, Turn, Unreadable

OPTIONS = ("split", "input_key", "target_key", "shuffle_size", "prefetch_size", "download")
"""Options behind the name."""


class TensorFlowData(DataSet):
    """A TensorFlow data set, read as a stream."""

    location = "NAME"
    indexed = False

    def open(self, location: str, split: str) -> TensorFlow:
        """See :class:`castssl.contracts.DataSet`."""
        return TensorFlow(location, split)


class TensorFlow:
    """A split of a TensorFlow data set; an image that TensorFlow cannot decode ends it.

    Args:
        name: ``NAME[:root][?option=value&...]``.
        split: "train", "val" or "test".

    Raises:
        DataError: if the package is missing or the split cannot be opened.
    """

    def __init__(self, name: str, split: str) -> None:
        title = f"tfds/{name.partition(':')[0]}"
        require_package("tensorflow_datasets", title, "tensorflow-datasets", "tensorflow-cpu")
        self.spec = read_spec("tfds", name, OPTIONS)
        self.split, reader = open_split(
            f"tfds/{name}", split, self.spec.options, lambda one: (one, self._reader(one))
        )
        self.classes = tuple(reader.class_to_idx)
        self.length = int(reader.num_samples)
        self.lost: list[Unreadable] = []
        self._readers: dict[tuple[object, ...], Any] = {}

    def workers(self, world: int) -> int | None:
        return None

    def items(self, turn: Turn) -> Iterator[Item | Unreadable]:
        key = tuple(turn._replace(epoch=0, lap=0))
        if key not in self._readers:
            reader = self._reader(self.split, is_training=turn.train, seed=turn.seed)
            reader.set_loader_cfg(num_workers=turn.workers)
            self._readers = {key: reader}
        reader = self._readers[key]
        reader.set_epoch(turn.epoch + (turn.lap << 20))
        for number, (image, label) in enumerate(reader):
            yield Item(f"{self.spec.title}#{number}", partial(_identity, image), label)

    def _reader(self, split: str, **settings: Any) -> Any:
        from timm.data import create_reader  # type: ignore[attr-defined]

        numbers = {name: self.spec.number(name) for name in ("shuffle_size", "prefetch_size")}
        keys = {name: self.spec.options.get(name) for name in ("input_key", "target_key")}
        settings |= {name: value for name, value in {**numbers, **keys}.items() if value}
        return create_reader(
            f"tfds/{self.spec.name}",
            root=self.spec.root or None,
            split=split,
            download=self.spec.options.get("download") == "True",
            **settings,
        )


def _identity(image: Image.Image) -> Image.Image:
    return image
