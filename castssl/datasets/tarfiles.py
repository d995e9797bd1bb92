"""The members of a tar file, with a report of everything in a damaged archive that cannot be read.

``tarfile`` alone stops at the first damaged header as if the archive ended there.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

_CHAIN = 8
"""The longest chain of links to a file that is followed."""


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
    target.  Concatenated archives are read to the end.

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
    for link in links:  # To folders, or to nothing.  Followed once: folders in folders would grow each time.
        folder = _target(link)
        inside = [name for name in files if name.startswith(folder + "/")]
        yield from (files[name]._replace(name=link.name + name[len(folder) :]) for name in inside)
        if not inside:
            yield Lost(
                link.name, f"a link to {link.linkname}, which leads to no file in the archive", torn=False
            )


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
