"""Data behind timm's readers: the Hugging Face Hub (``hfds``) and what can only be streamed.

``hfds`` is map-style and so can be shuffled and resumed exactly.  ``wds``, ``hfids`` and ``tfds`` can only be
read in order: see :class:`Stream`.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl

import torch
from torch import Tensor

from castssl.data.folders import NoSplit, split_name
from castssl.data.guards import Guarded
from castssl.data.unreadable import Ledger
from castssl.errors import DataError
from castssl.types import LabelTree

TREES = ("breeds", "cub", "aircraft", "inat21-mini", "tree")
"""The kinds of data that bring a label tree, by colon."""
KINDS = ("folder", "tar", "wds", "hfds", "hfids", "tfds", "demo", *TREES)
"""What a data spec may begin with."""

_PACKAGES = {
    "wds": ("webdataset", "webdataset"),
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow_datasets", "tensorflow-datasets tensorflow-cpu"),
}
_CALLED = {"val": ("val", "validation", "valid", "test")}


def parse(spec: str) -> tuple[str, str]:
    """The kind of a data spec and the rest of it; ``demo`` may stand alone.

    Raises:
        DataError: if it begins with no known kind; names what was likely meant.
    """
    if spec == "demo":
        return "demo", ""
    for mark in (":", "/"):
        kind, _, name = spec.partition(mark)
        if name and kind in KINDS and (mark == ":") == (kind in ("folder", "tar", "demo", *TREES)):
            return kind, name
    hint = f"did you mean folder:{spec} ? " if Path(spec).expanduser().exists() else ""
    raise DataError(
        f"unknown data {spec!r}: {hint}expected demo, folder:/path, tar:/path.tar, wds/NAME:/path, hfds/NAME,"
        " hfids/NAME or tfds/NAME; or with a label tree breeds:living17:/path, cub:/path, aircraft:/path,"
        " inat21-mini:/path, tree:/path or tree:/path/labels.csv"
    )


def _timm_reader(kind: str, name: str, split: str, **settings: Any) -> Any:
    """timm's reader of ``NAME[:root][?option=value&...]``, under any usual name of the split."""
    package, install = _PACKAGES[kind]
    if importlib.util.find_spec(package) is None:
        raise DataError(f"{kind}/{name} needs the package {package}; install it with: pip install {install}")
    name, _, query = name.partition("?")
    name, _, root = name.partition(":")
    settings |= {key: _value(text) for key, text in parse_qsl(query)}
    settings["root"] = os.path.expanduser(root) or None
    names = (settings.pop("split"),) if "split" in settings else _CALLED.get(split, (split,))
    failures: list[Exception] = []
    for called in names:
        reader = _try(kind, name, called, settings, failures)
        if reader is not None:
            return reader
        if isinstance(failures[-1], OSError):  # unreachable or missing: another split's name does not help
            break
    reason = str(failures[0]).split("\n")[0] or repr(failures[0])  # TFDS goes on to list all that it has
    raise NoSplit(
        f"cannot open the {split} split of {kind}/{name}: {reason}; check the name, the root after ':'"
        " and the options after '?'"
    ) from failures[0]


def _try(kind: str, name: str, split: str, settings: dict[str, Any], failures: list[Exception]) -> Any:
    from timm.data import create_reader  # type: ignore[attr-defined]

    try:
        if kind == "wds":
            split = _shards(settings["root"] or "", split, settings.get("num_samples"))
        return create_reader(f"{kind}/{name}", split=split, **settings)
    except DataError:
        raise
    except Exception as failure:  # each library has its own way to say that there is no such split
        failures.append(failure)
        return None


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _shards(root: str, split: str, samples: int | None) -> str:
    """A split as timm's WebDataset reader wants it: a name in ``_info.json``, or shards and their size."""
    folder = Path(root).expanduser()
    if not root:
        raise DataError("wds needs the folder or address of the shards: wds/NAME:/path")
    if ".tar" in split or "://" in root or any((folder / n).exists() for n in ("_info.json", "info.json")):
        return split
    shards = sorted(folder.glob("*.tar"))
    named = [shard for shard in shards if split_name(split) in map(split_name, shard.stem.split("-"))]
    if not named and split_name(split) != "train":
        raise ValueError(f"no shard in {folder} has {split!r} in its name")
    if not shards:
        raise DataError(f"{folder} holds no .tar shards and no _info.json; check the path after wds/NAME:")
    count = samples or sum(map(_labelled, named or shards))
    return "::".join(shard.name for shard in named or shards) + f"|{count}"


def _labelled(shard: Path) -> int:
    with tarfile.open(shard) as archive:
        members = archive.getnames()
    count = sum(member.endswith(".cls") for member in members)
    if not count:
        raise DataError(
            f"{shard} holds no .cls files, which timm's WebDataset reader requires ({members[:3]} ...); write"
            " one beside each image, 0 if there are no classes"
        )
    return count


class Hub:
    """A map-style Hugging Face data set, by timm's ``hfds`` reader."""

    def __init__(self, name: str, split: str) -> None:
        self.called = f"hfds/{name}"
        self._reader = _timm_reader("hfds", name, split)
        self.classes = tuple(self._reader.class_to_idx)
        if not self.classes:  # then the column may not exist either; the image column always does
            key = self._reader.image_key
            self._reader = _timm_reader("hfds", name, split, target_key=key)

    def __len__(self) -> int:
        return len(self._reader)

    def open(self, row: int) -> tuple[IO[bytes], int | None]:
        """The encoded image and its class; None if the data set names no classes."""
        file, label = self._reader[row]
        return file, int(label) if self.classes else None

    def name(self, row: int) -> str:
        """``hfds/NAME#row``."""
        return f"{self.called}#{row}"

    def place(self, row: int) -> str:
        """As :meth:`name`."""
        return self.name(row)

    def labels(self) -> Iterator[int]:
        """All classes in order, without reading images."""
        return map(int, self._reader.iter_targets())


class Stream:
    """A data set that can only be read in order: WebDataset shards, or streamed Hub and TFDS data.

    Shuffling is approximate (a buffer and the order of shards), ranks and workers share out the shards, and
    a run cannot resume exactly in the middle of an epoch: it goes on with a fresh shuffle.  ``bad`` knows the
    unreadable images met so far, which are left out; in TFDS data the first one ends the stream.

    Args:
        kind: "wds", "hfids" or "tfds".
        name: ``NAME[:root][?option=value&...]``; ``num_classes`` gives a WebDataset its label tree.
        split: "train", "val" or "test".

    Raises:
        DataError: if the package is missing or the split cannot be opened.
    """

    def __init__(self, kind: str, name: str, split: str) -> None:
        base, _, query = name.partition("?")
        options = dict(parse_qsl(query))
        classes = int(options.pop("num_classes", 0))
        name = base + "".join(f"{'&' if i else '?'}{k}={v}" for i, (k, v) in enumerate(options.items()))
        self.called = (kind, name, split)
        reader = self._open()
        names = tuple(reader.class_to_idx) or tuple(map(str, range(classes)))
        self.tree = LabelTree.flat(names) if names else LabelTree.none()
        self.length = int(reader.num_samples)
        self.bad = Ledger()

    def __len__(self) -> int:
        """How many images the split says that it has."""
        return self.length

    def _open(self, **settings: Any) -> Any:
        kind, name, split = self.called
        mode = "RGB" if kind == "tfds" else ""  # TFDS hands over arrays, the others pictures
        return _timm_reader(kind, name, split, input_img_mode=mode, **settings)

    def target(self, label: Any) -> Tensor:
        """The label path int64 (L,) of a class as the reader gives it."""
        return torch.tensor([int(label)] if self.tree.levels else [], dtype=torch.int64)

    def reader(self, *, train: bool, batch_size: int, seed: int, workers: int) -> Any:
        """A fresh timm reader for one loader: iterates ``(picture, class)``, has ``set_epoch``.

        Raises:
            DataError: if a worker would get no shard.
        """
        reader = self._open(is_training=train, batch_size=batch_size, seed=seed)
        reader.set_loader_cfg(num_workers=workers)
        shards = len(reader.split_info.filenames) if self.called[0] == "wds" else None
        if shards is not None and shards < reader.dist_num_replicas * max(1, workers):
            raise DataError(
                f"wds/{self.called[1]} has {shards} shards for {reader.dist_num_replicas} processes of"
                f" {max(1, workers)} workers; use fewer workers or smaller shards: each needs one at least"
            )
        return reader

    def guarded(self, reader: Any) -> Guarded:
        """``reader`` as pictures that could be read."""
        kind, name, _ = self.called
        return Guarded(kind, f"{kind}/{name.partition('?')[0]}", reader)
