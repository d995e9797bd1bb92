"""WebDataset shards: tar files in which the members of one name are one sample.

The layout is webdataset's.  Shards are opened here and not by webdataset, which hands addresses to commands
and ends a damaged shard without a message.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from castssl import distributed
from castssl.contracts import DataSet
from castssl.datasets import stream
from castssl.datasets.copies import append, temporary_file
from castssl.datasets.decode import EXTENSIONS
from castssl.datasets.split_folders import split_name
from castssl.datasets.tarfiles import Entry, Lost, entries
from castssl.datasets.unreadable import why
from castssl.errors import DataError, NoSplit
from castssl.feed import Item, Turn, Unreadable
from castssl.system_errors import explain

OPTIONS = ("num_samples", "num_classes", "split", "input_key", "target_key", "sample_shuffle_size")
"""Options behind the address, as in ``wds/NAME:/path?num_classes=10``."""
_Fields = Mapping[str, Entry]


class WebDataset(DataSet):
    """WebDataset shards, read as a stream."""

    location = "NAME:/path/to/shards"
    indexed = False

    def open(self, location: str, split: str) -> Shards:
        """See :class:`castssl.contracts.DataSet`."""
        return Shards(location, split, commands=self.commands)


class _Split(NamedTuple):
    shards: Sequence[str]
    length: int = 0
    label: str = ""  # The field of the JSON files that holds the label; "" if .cls files do.


class Shards:
    """The samples of a split, in WebDataset shards.

    Args:
        name: ``NAME:/folder`` or an address, and :data:`OPTIONS`.  The folder holds shards with the split in
            their names, or ``_info.json``; ``split=name-{00..99}.tar`` lists them otherwise, ``num_samples``
            is their number of samples, ``num_classes`` the number of classes of their labels, ``input_key``
            the extensions of images ("jpg;png"), and ``target_key`` the field of the ``.json`` that holds the
            label.
        split: "train", "val" or "test".
        commands: run ``pipe:COMMAND`` in place of an address, in the root (the train split) or in the list of
            shards: its output is a shard.  Never in ``_info.json``.

    Raises:
        DataError: if the address is refused or missing, or the split cannot be opened.
    """

    def __init__(self, name: str, split: str, *, commands: bool = False) -> None:
        stream.require_package("webdataset", f"wds/{name.partition(':')[0]}", "webdataset")
        self.spec = stream.read_spec("wds", name, OPTIONS)
        if not self.spec.root:
            raise DataError("wds needs the folder or address of the shards: wds/NAME:/path")
        stream.check_address(self.spec.root, commands=commands)
        self.commands = commands
        keys = self.spec.options.get("input_key", "")
        self.kinds = tuple(keys.lower().split(";")) if keys else tuple(kind[1:] for kind in EXTENSIONS)
        self.classes = tuple(map(str, range(self.spec.number("num_classes"))))
        opened = stream.open_split(f"wds/{name}", split, self.spec.options, self._split)
        self.files, self.label = tuple(opened.shards), self.spec.options.get("target_key", opened.label)
        self.lost: list[Unreadable] = []
        self.length = self.spec.number("num_samples") or opened.length or self._count()

    def workers(self, world: int) -> int:
        return len(self.files) // world

    def items(self, turn: Turn) -> Iterator[Item | Unreadable]:
        shards = list(self.files)
        if turn.train:  # All readers must agree on the order of the shards.
            random.Random(f"{turn.seed} {turn.epoch}").shuffle(shards)
        first, step = turn.rank * turn.workers + turn.worker, turn.world * turn.workers
        if turn.train or len(shards) >= step:
            shards, first, step = shards[first::step], 0, 1
        items = (item for shard in shards for item in self._items(shard, first, step))
        if not turn.train:
            return items
        from webdataset import shuffle  # type: ignore[import-untyped]

        size = self.spec.number("sample_shuffle_size") or stream.SHUFFLED
        order = random.Random(" ".join(map(str, turn)))
        shuffled: Iterator[Item | Unreadable] = shuffle(size, initial=size // 4, rng=order)(items)
        return shuffled

    def _items(self, shard: str, first: int, step: int) -> Iterator[Item | Unreadable]:
        """Every ``step``-th item of a shard, from ``first`` on."""
        try:
            with closing(_Shard(shard)) as opened:
                samples, lost = opened.samples(self.kinds)
                yield from lost[first::step]
                for key, fields in islice(samples.items(), first, None, step):
                    image = opened.content(next(fields[kind] for kind in self.kinds if kind in fields))
                    yield Item(
                        f"{shard}: {key}", partial(io.BytesIO, image), self._label(opened, key, fields)
                    )
        except DataError:
            raise
        except Exception as error:  # File systems raise almost anything.
            if explain(error):
                raise
            yield Unreadable(shard, why(error))

    def _label(self, shard: _Shard, key: str, fields: _Fields) -> object:
        if not self.classes and "target_key" not in self.spec.options:
            return None
        if not self.label:
            return shard.content(fields["cls"]) if "cls" in fields else None
        try:
            label: object = json.loads(shard.content(fields["json"]))[self.label]
        except KeyError as missing:
            raise DataError(
                f"{shard.name}: {key} has no {missing}, expected a .json member with the field"
                f" {self.label!r}; check the option target_key"
            ) from None
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{shard.name}: {key}.json holds no labels: {error}; expected a JSON object"
            ) from None
        return label

    def _split(self, split: str) -> _Split:
        """The shards of a split: listed in the name, described in ``_info.json``, or found by their names."""
        root = self.spec.root
        if root.startswith(stream.PIPE):
            if "split" in self.spec.options or split_name(split) != "train":
                raise NoSplit(
                    "the root is a command, which counts as the train split; name other data separately, or"
                    " give the commands as ?split=pipe:..."
                )
            return self._listed(root)
        if ".tar" in split or split.startswith(stream.PIPE):
            return self._listed(split)
        for name in ("_info.json", "info.json"):
            if described := self._described(split, self._path(name)):
                return described
        if "://" in root:
            raise DataError(
                f"{root} holds no _info.json; list the shards as ?split=name-{{00..99}}.tar&num_samples=N"
            )
        return self._named(split, Path(root))

    def _listed(self, split: str) -> _Split:
        from webdataset.shardlists import expand_urls  # type: ignore[import-untyped]

        names, _, count = split.rpartition("|")  # A command may have bars of its own.
        names, count = (names, count) if count.isdecimal() else (split, "0")
        try:
            urls = expand_urls(names)
        except Exception as error:
            raise DataError(f"cannot read the list of shards {names!r}: {error}") from error
        shards = [self._path(url, commands=self.commands) for url in urls]
        if "${" in names and any(isinstance(shard, stream.Command) for shard in shards):
            raise DataError(
                f"{names!r} starts a command and has a variable in ${{}}, whose content is not in the name:"
                " write it out, or leave it to the shell, without {}"
            )
        return _Split(shards, int(count))

    def _described(self, split: str, path: str) -> _Split | None:
        try:
            with stream.open_address(path) as file:
                splits = json.load(file)["splits"]
            if not isinstance(splits, dict):
                raise TypeError(f"'splits' is a {type(splits).__name__}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            if explain(error):
                raise  # The fault is not the file's.
            raise DataError(f"cannot read {path}: {why(error)}; expected an object with 'splits'") from error
        info = splits.get(split)
        if not isinstance(info, dict):
            raise NoSplit(f"split {split} is not among {', '.join(splits)}")
        names = info.get("filenames")
        if not isinstance(names, list) or not names:
            raise DataError(f"{path}: the split {split} has no list of filenames")
        length = info.get("num_samples") or sum(info.get("shard_lengths") or [0])
        return _Split(
            [self._path(str(name)) for name in names], int(length), str(info.get("alt_label") or "")
        )

    def _named(self, split: str, folder: Path) -> _Split:
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
        return _Split(list(map(str, named or shards)))

    def _path(self, name: str, *, commands: bool = False) -> str:
        address = stream.check_address(name, commands=commands)
        if isinstance(address, stream.Command) or "://" in name or Path(name).is_absolute():
            return address
        return f"{self.spec.root.rstrip('/')}/{name}"

    def _count(self) -> int:
        """Count the images of all shards, with warnings about lost parts and missing labels."""
        if any("://" in shard or isinstance(shard, stream.Command) for shard in self.files):
            raise DataError(f"{self.spec.title}: the number of samples is not known; give ?num_samples=N")
        samples: list[_Fields] = []
        for name in self.files:
            try:
                with closing(_Shard(name)) as shard:
                    present, lost = shard.samples(self.kinds)
            except OSError as error:
                if explain(error):
                    raise  # The fault is not the shard's.
                raise DataError(f"cannot read the shard {name}: {why(error)}; check the path") from error
            samples += present.values()
            self.lost += lost
        images, labels = len(samples), sum("cls" in fields or "json" in fields for fields in samples)
        if not images:
            kinds = ", ".join(f".{kind}" for kind in self.kinds)
            raise DataError(f"the shards of {self.spec.root} hold no images; expected members {kinds}")
        if self.classes and not labels:
            raise DataError(
                f"the {images} images in the shards of {self.spec.root} have no labels; expected a .cls or"
                " .json member of the same name beside each image, or no option num_classes"
            )
        remarks = []
        if self.lost:
            remarks.append(
                f"{len(self.lost)} parts of shards cannot be read, such as {self.lost[0].name}"
                f" ({self.lost[0].reason}); copy the shards again"
            )
        if self.classes and labels < images:
            remarks.append(
                f"{images - labels} of {images} images have no label; those are left out where labels are"
                " needed"
            )
        for remark in remarks if distributed.is_main() else ():
            warnings.warn(f"{self.spec.title}: {remark}", stacklevel=2)
        return images


class _Shard:
    """A shard as an uncompressed file that can be read by position; others are copied for that."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cut = ""  # The reason why the rest is missing.
        self._file = (
            stream.run_command(name) if isinstance(name, stream.Command) else stream.open_address(name)
        )
        if "://" in name and not isinstance(name, stream.Command):
            self._copy(self._file)
        compressed = self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        if compressed:
            self._copy(gzip.GzipFile(fileobj=self._file))

    def _copy(self, content: IO[bytes] | gzip.GzipFile) -> None:
        with self._file:
            copy = temporary_file()
            try:
                append(copy, content)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self.cut = why(error)
        copy.seek(0)
        self._file = copy

    def close(self) -> None:
        self._file.close()

    def content(self, entry: Entry) -> bytes:
        self._file.seek(entry.offset)
        return self._file.read(entry.size)

    def samples(self, kinds: tuple[str, ...]) -> tuple[dict[str, _Fields], list[Unreadable]]:
        """The samples by key, each its members by extension, and what is lost.

        The members of a sample need not follow each other.
        """
        lost: list[Unreadable] = []
        groups: dict[str, dict[str, Entry]] = {}
        for entry in entries(self._file):
            path = PurePosixPath(entry.name)
            key, _, field = path.name.partition(".")
            if isinstance(entry, Lost):
                needed = path.suffix[1:].lower() in (*kinds, "cls", "json")
                if entry.torn or not entry.name or needed:
                    named = f" ({entry.name})" if entry.name else ""
                    lost.append(Unreadable(self.name, entry.reason + named))
            elif key and field and not path.parts[0].startswith("__"):
                groups.setdefault(str(path.with_name(key)), {})[field.lower()] = entry
        lost += [Unreadable(self.name, self.cut)] if self.cut else []
        samples: dict[str, _Fields] = {}
        for key, fields in groups.items():
            inner = dict(_split_keys(key, fields, kinds))
            samples |= inner
            if not inner and "cls" in fields:
                lost.append(Unreadable(f"{self.name}: {key}", "there is a label, but no image"))
        return samples, lost


def _split_keys(key: str, fields: _Fields, kinds: tuple[str, ...]) -> Iterator[tuple[str, _Fields]]:
    """The samples of members that have a name up to the first dot in common; several if keys have dots."""
    groups: dict[str, dict[str, Entry]] = {"": dict(fields)}
    for field, entry in fields.items():
        stem, _, kind = field.rpartition(".")
        if stem:
            groups.setdefault(stem, {})[kind] = entry
    undotted = any(kind in fields for kind in kinds)
    for stem, group in groups.items():
        labeled = "cls" in group or "json" in group
        if any(kind in group for kind in kinds) and (labeled or not stem or not undotted):
            yield (f"{key}.{stem}" if stem else key), group
