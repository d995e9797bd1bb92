"""The members of a tar file, with a report of everything in a damaged archive that cannot be read.

``tarfile`` alone stops at the first damaged header as if the archive ended there.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

_CHAIN = 8
"""The longest chain of links to a file that is followed."""
_LINKED = 4, 10_000
"""The most files that links to folders add: so many for each file of the archive, and so many more."""
_LONGEST = 4096
"""Characters of a name, as of paths on Linux; lists of names take the length of the longest for each."""


class Entry(NamedTuple):
    """A file in an archive.

    Attributes:
        name: in the archive.
        offset: bytes from the beginning of the archive's file to the content.
        size: bytes.
    """

    name: str
    offset: int
    size: int


class Lost(NamedTuple):
    """Something in an archive that cannot be read.

    Attributes:
        name: the member; "" if it is unknown.
        reason: one line.
        torn: True if the archive is damaged or truncated, False if one member has no content in it.
    """

    name: str
    reason: str
    torn: bool


def entries(file: IO[bytes], start: int = 0, end: int | None = None) -> Iterator[Entry | Lost]:
    """The regular files of an uncompressed tar between two bytes of ``file``, and what cannot be read of it.

    Hard links, and symbolic links to files and folders of the archive, are files with the content of their
    target; of links to folders that would add far more files than there are, the rest is lost.  Concatenated
    archives are read to the end.

    Args:
        file: seekable.
        start: first byte of the archive.
        end: of a tar within a tar, the byte behind it; by default the end of the file.

    Raises:
        OSError: if the file cannot be read.
    """
    files: dict[str, Entry] = {}
    links: list[tarfile.TarInfo] = []
    for member in _members(file, start, file.seek(0, os.SEEK_END) if end is None else end):
        if isinstance(member, Lost):
            yield member
        elif len(member.name) > _LONGEST:
            why = f"a name of {len(member.name)} characters, expected at most {_LONGEST}"
            yield Lost(f"{member.name[:40]}...{member.name[-40:]}", why, torn=False)
        elif member.issparse():
            yield Lost(member.name, "a sparse member, which only tar can unpack", torn=False)
        elif member.isreg():
            entry = Entry(member.name, member.offset_data, member.size)
            files[posixpath.normpath(member.name)] = entry
            yield entry
        elif member.islnk() or member.issym():
            links.append(member)
    for _ in range(_CHAIN):
        rest = []
        for link in links:
            if target := files.get(_target(link)):
                files[posixpath.normpath(link.name)] = target._replace(name=link.name)
                yield target._replace(name=link.name)
            else:
                rest.append(link)
        links = rest
    yield from _in_folders(links, files)


def _in_folders(links: list[tarfile.TarInfo], files: Mapping[str, Entry]) -> Iterator[Entry | Lost]:
    """The files in the folders that links lead to; followed once: folders in folders would grow each time."""
    names = sorted(files) if links else []
    place = {name: number for number, name in enumerate(files)} if links else {}
    left, beyond = _LINKED[0] * len(files) + _LINKED[1], list[str]()
    for link in links:
        folder = _target(link)
        # "0" is the character after "/".
        first, last = bisect_left(names, folder + "/"), bisect_left(names, folder + "0")
        if first == last:
            why = f"a link to {link.linkname}, which leads to no file in the archive"
            yield Lost(link.name, why, torn=False)
        elif last - first > left:
            beyond.append(link.name)
        else:
            left -= last - first
            inside = sorted(names[first:last], key=place.__getitem__)
            yield from (files[name]._replace(name=link.name + name[len(folder) :]) for name in inside)
    if beyond:
        why = (
            f"{len(beyond)} links to folders, such as {beyond[0]}, are not followed: links lead to far more"
            " files than the archive holds"
        )
        yield Lost("", why, torn=False)


def _target(link: tarfile.TarInfo) -> str:
    folder = posixpath.dirname(link.name) if link.issym() else ""
    return posixpath.normpath(posixpath.join(folder, link.linkname))


def _members(file: IO[bytes], offset: int, end: int) -> Iterator[tarfile.TarInfo | Lost]:
    """The members between two bytes, and what is lost among them."""
    if offset >= end:
        yield Lost("", "the file is empty", torn=True)
        return
    while offset < end:
        file.seek(offset)
        try:
            # tarfile skips blocks that are not headers; content among them is reported here.
            with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as archive:
                for member in archive:
                    if member.offset >= end:  # It belongs to a later archive.
                        break
                    if any(_blocks(file, offset, member.offset)):
                        yield Lost(
                            "", f"no valid header at byte {offset}; lost up to {member.offset}", torn=True
                        )
                    offset = archive.offset
                    if member.isreg() and member.offset_data + member.size > end:
                        yield Lost(member.name, "unexpected end of data", torn=True)
                        return
                    yield member
            break
        except (tarfile.TarError, ValueError, OverflowError, EOFError):
            if offset >= end:
                break
            yield Lost("", f"no valid header at byte {offset}", torn=True)
            offset += tarfile.BLOCKSIZE
            if offset >= end:
                return
    content = next(_blocks(file, offset, end), None)
    if content:
        yield Lost("", f"no valid header at byte {offset}; what follows is lost", torn=True)
    elif offset > end:
        yield Lost("", "unexpected end of data", torn=True)
    elif content is None:
        yield Lost("", "no end mark: the archive may have been cut off", torn=False)


def _blocks(file: IO[bytes], offset: int, end: int) -> Iterator[bool]:
    """Whether each block between two bytes has content; a block of zeros is an end mark."""
    file.seek(offset)
    while offset < end and (block := file.read(min(tarfile.BLOCKSIZE, end - offset))):
        yield any(block)
        offset += len(block)
