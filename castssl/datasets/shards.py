"""WebDataset shards: tar files in which the members of one name are one sample.

The layout is webdataset's.  Shards are opened here and not by webdataset, which hands addresses to commands
and ends a damaged shard without a word.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from castssl import ranks
from castssl.contracts import DataSet, Item, Turn, Unreadable
from castssl.datasets.decode import EXTENSIONS
from castssl.datasets.feed import (
    PIPE,
    SHUFFLED,
    Command,
    address,
    fetch,
    first_split,
    need,
    printed,
    read_spec,
)
from castssl.datasets.folder import split_name
from castssl.datasets.tarfiles import Entry, Lost, entries
from castssl.datasets.unreadable import why
from castssl.errors import DataError, NoSplit

OPTIONS = ("num_samples", "num_classes", "split", "input_key", "target_key", "sample_shuffle_size")
"""What may follow the address, as in ``wds/NAME:/path?num_classes=10``."""


class WebDataset(DataSet):
    """WebDataset shards, read as a stream."""

    location = "NAME:/path/to/shards"
    indexed = False

    def open(self, location: str, split: str) -> Shards:
        """See :class:`castssl.contracts.DataSet`."""
        return Shards(location, split, commands=self.commands)


class _Split(NamedTuple):
    shards: tuple[str, ...]
    length: int
    label: str
    """The field of the JSON files that holds the label; "" if ``.cls`` files do."""


class Shards:
    """The samples of a split, in WebDataset shards.

    Args:
        name: ``NAME:/folder`` or an address, and :data:`OPTIONS`.  The folder holds shards with the split in
            their names, or ``_info.json``; ``split=name-{00..99}.tar`` lists them otherwise, ``num_samples``
            gives how many samples they hold, ``num_classes`` how many classes their labels have,
            ``input_key`` which members are images ("jpg;png"), and ``target_key`` which field of the
            ``.json`` is the label.
        split: "train", "val" or "test".
        commands: run ``pipe:COMMAND`` in place of an address, in the root (the train split) or in the list of
            shards: what it prints is a shard.  Never in ``_info.json``.

    Raises:
        DataError: if the address is refused or missing, or the split cannot be opened.
    """

    def __init__(self, name: str, split: str, *, commands: bool = False) -> None:
        need("webdataset", f"wds/{name.partition(':')[0]}", "webdataset")
        self.spec = read_spec("wds", name, OPTIONS)
        if not self.spec.root:
            raise DataError("wds needs the folder or address of the shards: wds/NAME:/path")
        address(self.spec.root, commands=commands)
        self.commands = commands
        keys = self.spec.options.get("input_key", "")
        self.kinds = tuple(keys.lower().split(";")) if keys else tuple(kind[1:] for kind in EXTENSIONS)
        self.classes = tuple(map(str, range(self.spec.number("num_classes"))))
        found = first_split(f"wds/{name}", split, self.spec.options, self._split)
        self.files, self.label = found.shards, self.spec.options.get("target_key", found.label)
        self.lost: list[Unreadable] = []
        self.length = self.spec.number("num_samples") or found.length or self._count()

    def workers(self, world: int) -> int:
        return len(self.files) // world

    def items(self, turn: Turn) -> Iterator[Item | Unreadable]:
        mine = list(self.files)
        if turn.train:  # all readers must agree on the order of the shards
            random.Random(f"{turn.seed} {turn.epoch}").shuffle(mine)
        reader, readers = turn.rank * turn.workers + turn.worker, turn.world * turn.workers
        if turn.train or len(mine) >= readers:
            samples = (item for shard in mine[reader::readers] for item in self._items(shard, 0, 1))
        else:  # each image once, whatever the number of readers
            samples = (item for shard in mine for item in self._items(shard, reader, readers))
        if not turn.train:
            return samples
        from webdataset import shuffle  # type: ignore[import-untyped]

        size = self.spec.number("sample_shuffle_size") or SHUFFLED
        order = random.Random(" ".join(map(str, turn)))
        shuffled: Iterator[Item | Unreadable] = shuffle(size, initial=size // 4, rng=order)(samples)
        return shuffled

    def _items(self, shard: str, first: int, step: int) -> Iterator[Item | Unreadable]:
        """The items of a shard, from ``first`` on every ``step``-th."""
        try:
            with _Local(shard) as (file, cut):
                samples = _samples(file, shard, self.kinds)[first::step]
                yield from (sample for sample in samples if isinstance(sample, Unreadable))
                if cut:
                    yield Unreadable(shard, cut)
                for sample in samples:
                    if not isinstance(sample, Unreadable):
                        yield self._item(file, shard, *sample)
        except DataError:
            raise
        except Exception as error:  # file systems raise almost anything
            yield Unreadable(shard, why(error))

    def _item(self, file: IO[bytes], shard: str, key: str, fields: Mapping[str, Entry]) -> Item:
        where = f"{shard}: {key}"
        content = _content(file, next(fields[kind] for kind in self.kinds if kind in fields))
        return Item(where, partial(io.BytesIO, content), self._label(file, where, fields))

    def _label(self, file: IO[bytes], where: str, fields: Mapping[str, Entry]) -> object:
        if not self.classes and "target_key" not in self.spec.options:
            return None
        if not self.label:
            return _content(file, fields["cls"]) if "cls" in fields else None
        try:
            described = json.loads(_content(file, fields["json"]))
            label: object = described[self.label]
        except KeyError as missing:
            raise DataError(
                f"{where} has no {missing}, expected a .json member with the field {self.label!r}; check the"
                " option target_key"
            ) from None
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}.json holds no labels: {error}; expected a JSON object") from None
        return label

    # which shards there are

    def _split(self, split: str) -> _Split:
        if self.spec.root.startswith(PIPE):
            if "split" in self.spec.options or split_name(split) != "train":
                raise NoSplit(
                    "the root is a command, which counts as the train split; name other data by itself, or"
                    " give the commands as ?split=pipe:..."
                )
            return self._listed(self.spec.root)
        if ".tar" in split or split.startswith(PIPE):
            return self._listed(split)
        info = self._info()
        if info is not None:
            return self._described(split, info)
        if "://" in self.spec.root:
            raise DataError(
                f"{self.spec.root} holds no _info.json; list the shards as"
                " ?split=name-{00..99}.tar&num_samples=N"
            )
        return self._found(split)

    def _listed(self, split: str) -> _Split:
        from webdataset.shardlists import expand_urls  # type: ignore[import-untyped]

        names, _, count = split.rpartition("|")  # A command may have bars of its own.
        names, count = (names, count) if count.isdecimal() else (split, "0")
        try:
            found = expand_urls(names)
        except Exception as error:
            raise DataError(f"cannot read the list of shards {names!r}: {error}") from error
        shards = tuple(self._path(shard, commands=self.commands) for shard in found)
        if "${" in names and any(isinstance(shard, Command) for shard in shards):
            raise DataError(
                f"{names!r} starts a command and has a variable in ${{}}, whose content is not in the name:"
                " write it out, or leave it to the shell, without {}"
            )
        return _Split(shards, int(count), "")

    def _info(self) -> Mapping[str, object] | None:
        for name in ("_info.json", "info.json"):
            try:
                with fetch(self._path(name)) as file:
                    info = json.load(file)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise DataError(f"cannot read {self._path(name)}: {why(error)}") from error
            splits = info.get("splits") if isinstance(info, dict) else None
            if not isinstance(splits, dict):
                raise DataError(f"{self._path(name)}: expected a JSON object with 'splits'")
            return splits
        return None

    def _described(self, split: str, info: Mapping[str, object]) -> _Split:
        found = info.get(split)
        if not isinstance(found, dict):
            raise NoSplit(f"split {split} is not among {', '.join(info)}")
        names, lengths = found.get("filenames"), found.get("shard_lengths") or [0]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
            raise DataError(f"the split {split} in _info.json of {self.spec.root} has no list of filenames")
        length = found.get("num_samples") or sum(lengths)
        return _Split(tuple(map(self._path, names)), int(length), str(found.get("alt_label") or ""))

    def _found(self, split: str) -> _Split:
        folder = Path(self.spec.root)
        shards = sorted(folder.glob("*.tar"))
        word = split_name(split) or split
        named = [
            shard for shard in shards if word in [split_name(part) or part for part in shard.stem.split("-")]
        ]
        if not named and split_name(split) != "train":
            raise NoSplit(f"no shard in {folder} has {split!r} in its name")
        if not shards:
            raise DataError(
                f"{folder} holds no .tar shards and no _info.json; check the path after wds/NAME:"
            )
        return _Split(tuple(map(str, named or shards)), 0, "")

    def _path(self, name: str, *, commands: bool = False) -> str:
        found = address(name, commands=commands)
        if isinstance(found, Command) or "://" in name or Path(name).is_absolute():
            return found
        return f"{self.spec.root.rstrip('/')}/{name}"

    def _count(self) -> int:
        images = labels = 0
        if any("://" in shard or isinstance(shard, Command) for shard in self.files):
            raise DataError(f"{self.spec.called}: the number of samples is not known; give ?num_samples=N")
        for shard in self.files:
            try:
                with _Local(shard) as (file, cut):
                    found = _samples(file, shard, self.kinds)
            except OSError as error:
                raise DataError(f"cannot read the shard {shard}: {why(error)}; check the path") from error
            samples = [sample for sample in found if not isinstance(sample, Unreadable)]
            self.lost += [Unreadable(shard, cut)] if cut else []
            self.lost += [sample for sample in found if isinstance(sample, Unreadable)]
            images += len(samples)
            labels += sum("cls" in fields or "json" in fields for _, fields in samples)
        if self.lost and ranks.is_main():
            warnings.warn(
                f"{self.spec.called}: {len(self.lost)} parts of shards cannot be read, such as"
                f" {self.lost[0].name} ({self.lost[0].reason}); copy the shards anew",
                stacklevel=2,
            )
        kinds = ", ".join(f".{kind}" for kind in self.kinds)
        if not images:
            raise DataError(f"the shards of {self.spec.root} hold no images; expected members {kinds}")
        if self.classes and not labels:
            raise DataError(
                f"the {images} images in the shards of {self.spec.root} have no labels; expected a .cls or"
                " .json member of the same name beside each image, or no option num_classes"
            )
        if self.classes and labels < images and ranks.is_main():
            text = f"{self.spec.called}: {images - labels} of {images} images have no label"
            warnings.warn(f"{text}; those are left out where labels are needed", stacklevel=2)
        return images


class _Local:
    """A shard as an uncompressed file that can be read by position; others are copied for that."""

    def __init__(self, shard: str) -> None:
        self.shard = shard

    def __enter__(self) -> tuple[IO[bytes], str]:
        """The file, and why its rest is missing if it is."""
        if isinstance(self.shard, Command):
            file = printed(self.shard)
            packed, local = file.read(2) == b"\x1f\x8b", True
            file.seek(0)
        else:
            file = fetch(self.shard)
            packed, local = self.shard.endswith((".gz", ".tgz")), "://" not in self.shard
        if local and not packed:
            self.file = file
            return file, ""
        self.file, cut = tempfile.TemporaryFile(), ""
        with file:
            try:
                shutil.copyfileobj(gzip.open(file) if packed else file, self.file)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                cut = why(error)
        return self.file, cut

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _content(file: IO[bytes], entry: Entry) -> bytes:
    file.seek(entry.offset)
    return file.read(entry.size)


def _samples(
    file: IO[bytes], shard: str, kinds: tuple[str, ...]
) -> list[tuple[str, dict[str, Entry]] | Unreadable]:
    """The samples of a shard, by key: its members by kind.  The members of one need not follow each other."""
    lost: list[tuple[str, dict[str, Entry]] | Unreadable] = []
    groups: dict[str, dict[str, Entry]] = {}
    for entry in entries(file):
        path = PurePosixPath(entry.name)
        key, _, field = path.name.partition(".")
        if isinstance(entry, Lost):
            if entry.name and not entry.torn and path.suffix[1:].lower() not in (*kinds, "cls", "json"):
                continue
            lost.append(Unreadable(shard, f"{entry.reason}{f' ({entry.name})' if entry.name else ''}"))
        elif key and field and not path.parts[0].startswith("__"):
            groups.setdefault(str(path.with_name(key)), {})[field.lower()] = entry
    samples = list(lost)
    for key, fields in groups.items():
        found = dict(_split_keys(key, fields, kinds))
        samples += found.items()
        if not found and "cls" in fields:
            samples.append(Unreadable(f"{shard}: {key}", "there is a label, but no image"))
    return samples


def _split_keys(
    key: str, fields: Mapping[str, Entry], kinds: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Entry]]]:
    """The samples among members whose names agree up to the first dot: several if their keys have dots."""
    whole = any(kind in fields for kind in kinds)
    if whole:
        yield key, dict(fields)
    inner: dict[str, dict[str, Entry]] = {}
    for field, entry in fields.items():
        stem, _, kind = field.rpartition(".")
        if stem:
            inner.setdefault(stem, {})[kind] = entry
    for stem, own in inner.items():
        labelled = "cls" in own or "json" in own
        if any(kind in own for kind in kinds) and (labelled or not whole):
            yield f"{key}.{stem}", own
