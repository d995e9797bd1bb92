"""Text files of unknown encoding, as editors and spreadsheets write them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from castssl.errors import DataError
from castssl.registry import did_you_mean
from castssl.system_errors import explain

OF_ALL = ("range", "bits")
"""Options behind any location: of :func:`castssl.datasets.depth.split_range`."""
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, in UTF-16, or else in Windows-1252, of which Latin-1 is a part.

    A byte order mark decides; without one, zero bytes mean UTF-16, and bytes that are not UTF-8 Windows-1252.

    Raises:
        DataError: if the file cannot be read, or holds bytes that none of these encodings has.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        if explain(error):
            raise  # The fault is not the file's.
        raise DataError(f"cannot read {path}: {error.strerror}; check path and permissions") from error
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content:
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise DataError(f"{path} is not text in {encoding}: {error.reason}; save it as UTF-8") from error
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_query(query: str) -> list[tuple[str, str]]:
    """The options ``key=value&key=value`` behind a location; a plus sign is one, other than in URLs."""
    return parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)


def known_options(title: str, query: str, offered: Sequence[str]) -> dict[str, str]:
    """The options of :func:`read_query` by name.

    Raises:
        DataError: naming the data ``title``, if one is not among those that it offers.
    """
    options = dict(read_query(query))
    for name in options:
        if name not in offered:
            hint = did_you_mean(name, offered)
            raise DataError(f"{title}: unknown option {name!r}{hint or ':'} expected {', '.join(offered)}")
    return options


def refuse_options(path: Path, offered: Sequence[str] = ()) -> None:
    """Refuse options that a data set took for the end of a path, which does not exist for that reason.

    Args:
        path: that does not exist, such as ``/data?bitz=12``.
        offered: the options of the data set beside :data:`OF_ALL`.

    Raises:
        DataError: as :func:`known_options`, if the path exists without what follows its last question mark.
    """
    base, _, query = str(path).rpartition("?")
    if base and "=" in query and Path(base).exists():
        known_options(base, query, (*offered, *OF_ALL))
