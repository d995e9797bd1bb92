"""What every stream of pictures has in common: the options in its name, its items, its labels."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, SupportsInt, TypeVar
from urllib.parse import parse_qsl

from castssl.errors import DataError, NoSplit
from castssl.installer import install

SHUFFLED = 4096
"""Encoded images among which the next one is drawn, unless the data's name says otherwise."""
SCHEMES = ("file", "http", "https", "ftp", "s3", "gs", "gcs", "hf", "az", "abfs")
"""Addresses that are read, by fsspec; none of them starts a command."""
PIPE = "pipe:"
"""How an address begins that is a shell command, which prints a file."""
ARCHIVES = ("zip", "tar", "gzip", "bz2", "xz", "zstd")
"""What may be chained before an address where ``datasets`` names a file of an archive, as fsspec does."""

_CALLED = {"val": ("val", "validation", "valid", "test")}
_T = TypeVar("_T")


class Spec(NamedTuple):
    """The name of a data set, taken apart."""

    called: str
    """For messages."""
    name: str
    root: str
    """"" if there is none."""
    options: Mapping[str, str]

    def number(self, option: str) -> int:
        """A whole number among the options; 0 if it is not given.

        Raises:
            DataError: if it is no whole number, or negative.
        """
        text = self.options.get(option, "0")
        if not text.isdecimal():
            raise DataError(f"{self.called}: {option}={text} is not a whole number from 0")
        return int(text)


def read_spec(kind: str, name: str, known: Sequence[str]) -> Spec:
    """Take ``NAME[:root][?option=value&...]`` apart.

    Raises:
        DataError: if an option is not among the known ones.
    """
    base, _, query = name.partition("?")
    base, _, root = base.partition(":")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(known))
    if unknown:
        listed = ", ".join(sorted(known))
        raise DataError(f"{kind}/{base} has no option {unknown[0]!r}: expected one of {listed}")
    return Spec(f"{kind}/{base}", base, str(Path(root).expanduser()) if root[:1] == "~" else root, options)


def need(package: str, called: str, *requirements: str) -> None:
    """Refuse to go on without an optional package.

    Raises:
        DataError: if it is not installed; names the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise DataError(f"{called} needs the package {package}; install it with: {install(*requirements)}")


class Command(str):
    """A ``pipe:`` address that may be run; a text that only looks like it, as a file's name may, is none."""

    __slots__ = ()


def address(text: str, *, commands: bool = False) -> str:
    """``text`` if it is a local path or an address of :data:`SCHEMES`; a :class:`Command` if that is allowed.

    A name of data may come from a configuration or from a file beside the data, so it must not be able to
    start a command: ``pipe:`` and other schemes that webdataset hands to programs are refused.

    Args:
        text: as the data's name or a file beside the data has it.
        commands: the user's ``--allow-commands``, for what stands in the name itself: ``pipe:`` passes.

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
            " what a command prints, and give the folder. A pipe: command that stands in the name itself, and"
            " not in files beside the data, runs with --allow-commands, which no file of settings can give"
        )
    return text


def fetch(place: str) -> IO[bytes]:
    """The file at a path or address.

    Raises:
        DataError: if the address is refused, see :func:`address`, or needs a package that is not installed.
        OSError: if it cannot be read.
    """
    if "://" not in place:
        return open(place, "rb")
    import fsspec

    refused = set(re.findall(r"([A-Za-z0-9+.-]+)://", place)) - {*SCHEMES, *ARCHIVES}
    if refused:
        address(f"{refused.pop()}://...")
    try:
        file: IO[bytes] = fsspec.open(place, "rb").open()
    except ImportError as error:
        raise DataError(f"cannot read {place}: {error}") from error
    return file


def printed(command: Command) -> IO[bytes]:
    """What a command writes to its standard output, as a temporary file at its beginning.

    Raises:
        DataError: if it fails: its exit code is not 0.
        OSError: if it cannot be started, or the disk is full.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    # In a session of its own: Ctrl-C reaches the run alone, which then finishes its step.
    line = command.removeprefix(PIPE)
    with subprocess.Popen(line, shell=True, start_new_session=True, **options) as child:
        shutil.copyfileobj(child.stdout, file)  # type: ignore[arg-type]
    if child.returncode:
        file.close()
        raise DataError(
            f"the command {line!r} ended with exit code {child.returncode}, expected 0: what it printed is"
            " not used; run it in a shell to see what is wrong"
        )
    file.seek(0)
    return file


def first_split(called: str, split: str, names: Mapping[str, str], opened: Callable[[str], _T]) -> _T:
    """What ``opened`` makes of the first usual name of a split that the data has.

    Args:
        called: the data, for messages.
        split: "train", "val" or "test".
        names: the options of the data's name, of which ``split`` replaces the usual names.
        opened: raises almost anything if there is no split of this name.

    Raises:
        NoSplit: if there is none.
    """
    failures: list[Exception] = []
    for name in (names["split"],) if "split" in names else _CALLED.get(split, (split,)):
        found = _attempt(opened, name)
        if not isinstance(found, Exception):
            return found
        failures.append(found)
        if isinstance(found, OSError):  # unreachable or missing: another split's name does not help
            break
    reason = str(failures[0]).split("\n")[0] or repr(failures[0])  # some go on with a list of all there is
    raise NoSplit(
        f"cannot open the {split} split of {called}: {reason}; check the name, the root after ':' and the"
        " options after '?'"
    ) from failures[0]


def _attempt(opened: Callable[[str], _T], name: str) -> _T | Exception:
    try:
        return opened(name)
    except DataError as error:
        if not isinstance(error, NoSplit):
            raise
        return error
    except Exception as error:  # each library has its own error for a split that is not there
        return error


def class_number(label: object, classes: int, where: str) -> int:
    """A label as a class, -1 if the image has none.

    Args:
        label: a whole number, text or bytes that spell one, or None, NaN, "" or -1 for no label.
        classes: how many there are.
        where: the image, for messages.

    Raises:
        DataError: if it is anything else, or beyond the classes.
    """
    text = label.decode("utf-8", "replace").strip() if isinstance(label, bytes) else label
    if text is None or text == "" or (isinstance(text, float) and math.isnan(text)):
        return -1
    try:
        number = int(text) if isinstance(text, (str, SupportsInt)) else None
    except ValueError:
        number = None
    if number is None or (isinstance(text, float) and number != text):
        raise DataError(f"the label of {where} is {text!r}, expected a class number from 0")
    if not -1 <= number < classes:
        raise DataError(
            f"the label of {where} is {text!r}, but the data has {classes} classes: expected 0 to"
            f" {classes - 1}, or -1 for none; correct the labels or the option num_classes"
        )
    return number
