"""The members of a tar file, so that a damaged archive loses nothing without a word.

``tarfile`` ends at the first header that it cannot read as if the archive ended there.  Here reading goes on
at the next valid header, and what was lost is reported.
"""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

_CHAIN = 8
"""So many links may lead to one another, and the last to a file."""
_BLOCK = tarfile.BLOCKSIZE
_CHECKSUM = re.compile(rb"[ 0-7]{6,7}[\0 ]")


class Entry(NamedTuple):
    """A file in an archive."""

    name: str
    offset: int
    """Bytes from the beginning of the archive's file to the content."""
    size: int


class Lost(NamedTuple):
    """Something in an archive that cannot be read."""

    name: str
    """The member; "" if it is not known."""
    reason: str
    torn: bool
    """True if the archive is damaged or cut off, False if one member has no content in it."""


def entries(file: IO[bytes], start: int = 0, end: int | None = None) -> Iterator[Entry | Lost]:
    """The regular files of an uncompressed tar between two bytes of ``file``, and what is lost of it.

    Hard links, and symbolic links to files and folders of the archive, are files with the content of their
    target.  Archives that were concatenated are read to the end.

    Args:
        file: seekable.
        start: where the archive begins.
        end: where it ends, for a tar within a tar; by default where the file ends.

    Raises:
        OSError: if the file cannot be read.
    """
    limit = file.seek(0, os.SEEK_END) if end is None else end
    files: dict[str, Entry] = {}
    links: list[tarfile.TarInfo] = []
    for member in _headers(file, start, limit):
        if isinstance(member, Lost):
            yield member
        elif member.issparse():
            yield Lost(member.name, "a sparse member, which only tar can unpack", torn=False)
        elif member.isreg():
            name = posixpath.normpath(member.name)
            files[name] = Entry(member.name, member.offset_data, member.size)
            yield files[name]
        elif member.islnk() and (target := files.get(posixpath.normpath(member.linkname))):
            files[posixpath.normpath(member.name)] = target._replace(name=member.name)
            yield target._replace(name=member.name)
        elif member.islnk() or member.issym():
            links.append(member)
    for _ in range(_CHAIN):
        found = [(link, list(_follow(link, files))) for link in links]
        links = [link for link, entries in found if not entries]
        yield from (entry for _, entries in found for entry in entries)
        # Links to folders are followed once: folders in folders would double the files each time.
        ends = [entries[0] for _, entries in found if len(entries) == 1]
        files |= {posixpath.normpath(entry.name): entry for entry in ends}
    for link in links:
        yield Lost(link.name, f"a link to {link.linkname}, which leads to no file in the archive", torn=False)


def _follow(link: tarfile.TarInfo, files: dict[str, Entry]) -> Iterator[Entry]:
    folder = posixpath.dirname(link.name) if link.issym() else ""
    target = posixpath.normpath(posixpath.join(folder, link.linkname))
    inside = [name for name in files if name.startswith(target + "/")]
    if target in files:
        yield files[target]._replace(name=link.name)
    elif inside:
        yield from (files[name]._replace(name=link.name + name[len(target) :]) for name in inside)


def _headers(file: IO[bytes], at: int, end: int) -> Iterator[tarfile.TarInfo | Lost]:
    if at >= end:
        yield Lost("", "the file is empty", torn=True)
        return
    while True:
        stop, failed = at, False
        file.seek(at)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.offset >= end:  # behind the archive lie others
                        break
                    if member.isreg() and member.offset_data + member.size > end:
                        yield Lost(member.name, "unexpected end of data", torn=True)
                        return
                    yield member
                    stop = archive.offset
        except (tarfile.TarError, ValueError, OverflowError, EOFError):
            failed = stop == at
        if stop > end:
            yield Lost("", "unexpected end of data", torn=True)
            return
        following, torn, marked = _next_header(file, stop + _BLOCK * failed, end)
        if torn or failed:
            rest = "what follows is lost" if following is None else f"lost up to byte {following}"
            yield Lost("", f"no valid header at byte {stop}, {rest}", torn=True)
        elif following is None and not marked:
            yield Lost("", "no end mark: the archive may have been cut off", torn=False)
        if following is None:
            return
        at = following


def _next_header(file: IO[bytes], at: int, end: int) -> tuple[int | None, bool, bool]:
    """Where the next valid header is, and whether other content or an end mark is found before it."""
    file.seek(at)
    marked = other = torn = False
    while at < end and (block := file.read(min(_BLOCK, end - at))):
        if not block.strip(b"\0"):
            marked = True
        elif _is_header(block):
            return at, other, marked
        else:
            other = True
            torn = torn or not marked  # what follows an end mark belongs to nothing
        at += _BLOCK
    return None, torn, marked


def _is_header(block: bytes) -> bool:
    if len(block) < _BLOCK or not _CHECKSUM.match(block[148:156]):
        return False
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True
