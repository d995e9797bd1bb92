"""Data that can only be read in order: :class:`Stream`, and the options, addresses and labels of readers."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from castssl.datasets.copies import append, temporary_file
from castssl.datasets.decode import Decoded, header, read
from castssl.datasets.depth import Range
from castssl.datasets.pil_warnings import silence_pil
from castssl.datasets.text import known_options
from castssl.datasets.unreadable import TRIES, Clipped, Ledger, why
from castssl.errors import CastError, DataError, NoSplit
from castssl.feed import Feed, Item, Turn, Unreadable
from castssl.installer import install
from castssl.labels import LabelTree
from castssl.system_errors import explain

SHUFFLED = 4096
"""Size of the shuffle buffer in encoded images, unless the data's name gives another one."""
SCHEMES = ("file", "http", "https", "ftp", "s3", "gs", "gcs", "hf", "az", "abfs")
"""Addresses that fsspec reads; none of them starts a command."""
PIPE = "pipe:"
"""The prefix of an address that is a shell command, which prints a file."""
ARCHIVES = ("zip", "tar", "gzip", "bz2", "xz", "zstd")
"""Prefixes that ``datasets`` chains before an address to name a file of an archive, as fsspec does."""

_SPLITS = {"val": ("val", "validation", "valid", "test")}
_T = TypeVar("_T")
_Sample = tuple[Image.Image, Tensor, tuple[Unreadable | Clipped, ...]]


class Stream:
    """A data set that can only be read in order: WebDataset shards, or streamed Hub and TFDS data.

    Shuffling is approximate (a buffer and the order of shards), ranks and workers divide the shards among
    them, and a run cannot resume exactly in the middle of an epoch: it continues with a new shuffle.  ``bad``
    holds the unreadable images and shards so far, which are skipped; in TFDS data the first one ends the
    stream.

    Args:
        feed: the items of a split.
        name: the data set, for messages.
        declared: the values of black and white in images of more than 8 bits; None if their files give them.
    """

    def __init__(self, feed: Feed, name: str, declared: Range | None = None) -> None:
        self.name = name
        self.feed = feed
        self.tree = LabelTree.flat(feed.classes) if feed.classes else LabelTree.none()
        self.length = feed.length
        self.declared = declared
        self.bad = Ledger()

    def __len__(self) -> int:
        """The declared number of images of the split."""
        return self.length

    def share(self, turn: Turn, batch_size: int) -> int:
        """The images that a worker reads in an epoch: in training whole batches, the same for each worker.

        Raises:
            DataError: if a worker would get no shard to train on.
        """
        most = self.feed.workers(turn.world)
        if turn.train and most is not None and most < turn.workers:
            raise DataError(
                f"{self.name} has too few shards for {turn.world} processes of {turn.workers} workers: each"
                f" worker needs one, which is enough for {most} workers; use fewer or smaller shards"
            )
        share = math.ceil(self.length / (turn.world * turn.workers))
        return math.ceil(share / batch_size) * batch_size if turn.train else share

    def read(self, turn: Turn, count: int | None) -> Iterator[_Sample]:
        """RGB images, their label paths int64 (L,), and the faults of each image and of those before it.

        Args:
            turn: which part of the stream.
            count: number of images; a shorter stream starts again.  By default each image once.

        Raises:
            DataError: if a hundred images in a row are unreadable, a label is not a class of the data, the
                stream breaks, or it has no readable image.
        """
        silence_pil()
        faults: list[Unreadable] = []
        # The last image waits for the faults behind it.
        last: _Sample | None = None
        try:
            for name, decoded, target in itertools.islice(
                self._decode(turn, faults, count is not None), count
            ):
                if last:
                    yield last
                clipped = (Clipped(name, decoded.remark),) if decoded.remark else ()
                last = decoded.image, target, (*faults, *clipped)
                faults.clear()
        except CastError:
            raise
        except Exception as error:
            if explain(error):
                raise  # The fault is not the stream's.
            raise DataError(
                f"{self.name} cannot be read any further: {why(error)}; check the shards, the options and the"
                " connection"
            ) from error
        if last:
            yield (*last[:2], (*last[2], *faults))
        elif faults and turn.world * turn.workers == 1:
            raise DataError(f"{self.name} has no readable image{_example(faults)}")
        elif faults:  # Other readers may have some.
            self.bad.note(faults)

    def _decode(
        self, turn: Turn, faults: list[Unreadable], repeat: bool
    ) -> Iterator[tuple[str, Decoded, Tensor]]:
        for lap in itertools.count(turn.lap):
            empty = True
            for item in self.feed.items(turn._replace(lap=lap)):
                decoded = item if isinstance(item, Unreadable) else self._decode_item(item)
                if not isinstance(decoded, Unreadable):
                    empty = False
                    yield decoded
                    continue
                faults.append(decoded)
                if len(faults) >= TRIES:
                    raise DataError(
                        f"{len(faults)} images in a row of {self.name} cannot be read, the last is"
                        f" {decoded.name} ({decoded.reason}); check the shards and the options"
                    )
            if not repeat:
                return
            if empty:
                raise DataError(
                    f"{self.name} has no readable image for one of {turn.world * turn.workers} readers"
                    f"{_example(faults)}; use fewer workers, or copy the shards again"
                )

    def _decode_item(self, item: Item) -> tuple[str, Decoded, Tensor] | Unreadable:
        target = [class_number(item.label, self.tree.sizes[0], item.name)] if self.tree.levels else []
        try:
            with item.open() as opened:
                image = opened if isinstance(opened, Image.Image) else header(opened, self.declared)
                if image is opened:
                    image.load()  # A draft of the data set stays.
                decoded = read(image, declared=self.declared)
        except Exception as error:  # Decoders raise almost anything on a broken file.
            if explain(error):
                raise
            return Unreadable(item.name, why(error))
        return item.name, decoded, torch.tensor(target, dtype=torch.int64)


def _example(faults: Sequence[Unreadable]) -> str:
    return f": {faults[-1].name} ({faults[-1].reason})" if faults else ""


class Spec(NamedTuple):
    """The parts of a data set's name, ``NAME[:root][?option=value&...]``.

    Attributes:
        title: for messages.
        name: of the data set.
        root: "" if the name has none.
        options: by name.
    """

    title: str
    name: str
    root: str
    options: Mapping[str, str]

    def number(self, option: str) -> int:
        """A whole number among the options; 0 if it is absent.

        Raises:
            DataError: if it is not a whole number, or negative.
        """
        text = self.options.get(option, "0")
        if not text.isdecimal():
            raise DataError(f"{self.title}: {option}={text} is not a whole number from 0")
        return int(text)


def read_spec(kind: str, name: str, allowed: Sequence[str]) -> Spec:
    """Split ``NAME[:root][?option=value&...]`` into its parts.

    Raises:
        DataError: if an option is not among the known ones.
    """
    base, _, query = name.partition("?")
    base, _, root = base.partition(":")
    options = known_options(f"{kind}/{base}", query, sorted(allowed))
    return Spec(f"{kind}/{base}", base, str(Path(root).expanduser()) if root[:1] == "~" else root, options)


def require_package(package: str, title: str, *requirements: str) -> None:
    """Check that an optional package is installed.

    Raises:
        DataError: if it is not; gives the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise DataError(f"{title} needs the package {package}; install it with: {install(*requirements)}")


class Command(str):
    """A ``pipe:`` address that may be run.  A plain text that begins so, such as a file's name, may not."""

    __slots__ = ()


def check_address(text: str, *, commands: bool = False) -> str:
    """``text`` if it is a local path or an address of :data:`SCHEMES`; an allowed :class:`Command`.

    A name of data may come from a configuration or from a file beside the data, so it must not be able to
    start a command: ``pipe:`` and other schemes that webdataset hands to programs are refused.

    Args:
        text: from the data's name or a file beside the data.
        commands: the user's ``--allow-commands``, for text in the name itself: ``pipe:`` passes.

    Raises:
        DataError: if it is none of these.
    """
    if commands and text.startswith(PIPE):
        return Command(text)
    scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]+):", text)
    remote = scheme is not None and scheme[1].lower() in SCHEMES
    if "::" in text or (scheme and not remote) or (remote and "://" not in text):
        raise DataError(
            f"{text!r} is refused as an address of data: the name of data cannot start a command; expected a"
            f" path or an address that begins with {', '.join(f'{name}://' for name in SCHEMES)}; download"
            " the output of the command, and give the folder. A pipe: command in the name itself, and not in"
            " files beside the data, runs with --allow-commands, which no configuration file can give"
        )
    return text


def open_address(place: str) -> IO[bytes]:
    """The file at a path or address.

    Raises:
        DataError: if the address is refused, see :func:`check_address`, or needs a missing package.
        OSError: if it cannot be read.
    """
    if "://" not in place:
        return open(place, "rb")
    import fsspec

    refused = set(re.findall(r"([A-Za-z0-9+.-]+)://", place)) - {*SCHEMES, *ARCHIVES}
    if refused:
        check_address(f"{refused.pop()}://...")
    try:
        file: IO[bytes] = fsspec.open(place, "rb").open()
    except ImportError as error:
        raise DataError(f"cannot read {place}: {error}") from error
    return file


def run_command(command: Command) -> IO[bytes]:
    """The standard output of a command, as a temporary file at its beginning.

    Raises:
        DataError: if its exit code is not 0, or its output cannot be copied, such as to a full disk.
        OSError: if it cannot be started.
    """
    file = temporary_file()
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    # In a session of its own: Ctrl-C reaches the run alone, which then finishes its step.
    line = command.removeprefix(PIPE)
    with subprocess.Popen(line, shell=True, start_new_session=True, **options) as child:
        assert child.stdout is not None
        append(file, child.stdout)
    if child.returncode:
        file.close()
        raise DataError(
            f"the command {line!r} ended with exit code {child.returncode}, expected 0: its output is not"
            " used; run it in a shell to see the error"
        )
    file.seek(0)
    return file


def open_split(title: str, split: str, options: Mapping[str, str], opener: Callable[[str], _T]) -> _T:
    """The result of ``opener`` for the first usual name of a split that the data has.

    Args:
        title: the data, for messages.
        split: "train", "val" or "test".
        options: of the data's name; ``split`` among them replaces the usual names.
        opener: raises almost anything if there is no split of this name.

    Raises:
        NoSplit: if no name can be opened.
    """
    first: Exception | None = None
    for name in (options["split"],) if "split" in options else _SPLITS.get(split, (split,)):
        try:
            return opener(name)
        except Exception as error:  # noqa: PERF203 - each library has its own error for a missing split
            if explain(error) or (isinstance(error, DataError) and not isinstance(error, NoSplit)):
                raise
            first = first or error
            if isinstance(error, OSError):  # Unreachable or missing: another split's name does not help.
                break
    reason = str(first).split("\n")[0] or repr(first)  # Some libraries list all splits in further lines.
    raise NoSplit(
        f"cannot open the {split} split of {title}: {reason}; check the name, the root after ':' and the"
        " options after '?'"
    ) from first


def class_number(label: object, classes: int, where: str) -> int:
    """A label as a class, -1 if the image has none.

    Args:
        label: a whole number, text or bytes that spell one, or None, NaN, "" or -1 for no label.
        classes: how many there are.
        where: the image, for messages.

    Raises:
        DataError: if it is anything else, or not below ``classes``.
    """
    value: Any = label.decode("utf-8", "replace").strip() if isinstance(label, bytes) else label
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return -1
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -2
    if not -1 <= number < classes or (isinstance(value, float) and number != value):
        raise DataError(
            f"the label of {where} is {value!r}, but the data has {classes} classes: expected 0 to"
            f" {classes - 1}, or -1 for none; correct the labels or the option num_classes"
        )
    return number
