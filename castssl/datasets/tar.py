"""Images inside plain tar files, read by position.

Positions instead of open archives: nothing is shared when a worker is forked, and it pickles.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from castssl import ranks
from castssl.contracts import DataSet, Listing
from castssl.datasets.folder import (
    ClassPath,
    find_split,
    ignored,
    is_image,
    known_classes,
    left_out,
    no_split,
    pack,
    same_depth,
    split_name,
    stand_ins,
)
from castssl.datasets.tarfiles import Lost, entries
from castssl.errors import DataError, NoSplit
from castssl.types import LabelTree

NESTED = 3
"""So many tars may lie inside one another within an archive."""
Skip = Callable[[str, str], None]
"""Takes a folder that is left out, or else the name of a file."""


class Member(NamedTuple):
    """Where one image lies."""

    parts: ClassPath
    """The folders (and inner tars) around it, and its own name."""
    archive: int
    offset: int
    size: int


class Tar:
    """Encoded images by row, out of one or more tar files."""

    def __init__(
        self, archives: Sequence[Path], members: Sequence[Member], left_out: tuple[str, ...] = ()
    ) -> None:
        self.archives = tuple(archives)
        self.left_out = left_out
        self.names = pack(["/".join(member.parts) for member in members])
        self.spans = np.array([member[1:] for member in members], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def open(self, row: int) -> IO[bytes]:
        """The bytes of one image."""
        archive, offset, size = map(int, self.spans[row])
        with self.archives[archive].open("rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))

    def name(self, row: int) -> str:
        """The path inside the archive."""
        return os.fsdecode(bytes(self.names[row]))

    def path(self, row: int) -> str:
        """``archive.tar: path inside``."""
        return f"{self.archives[int(self.spans[row, 0])]}: {self.name(row)}"


def read_split(path: Path, split: str) -> tuple[Tar, list[ClassPath]]:
    """The images of ``split`` in a tar file or a folder of tar files, and the class folders of each.

    A file may hold the folders ``train`` and ``val``, or be one split alone; a folder may hold ``train.tar``
    and ``val.tar``, or one tar per class (below ``train/`` and ``val/``).  Tars inside tars, as ImageNet's,
    count as folders.

    Raises:
        DataError: if the path or the split is missing, a tar is compressed or damaged, tars lie inside one
            another more than :data:`NESTED` deep, or there are no images.
    """
    archives, as_folders = _archives(path, split)
    folders, others = dict[str, None](), list[str]()

    def skip(folder: str, name: str) -> None:
        if folder:
            folders[folder] = None
        elif name:
            others.append(name)

    read = [_scan(at, number, (at.stem,) if as_folders else (), skip) for number, at in enumerate(archives)]
    members = sorted(member for part in read for member in part)
    if not members:
        raise DataError(f"{path} holds no images; expected <class>/<image> inside")
    members = _of_split(members, path, split)
    return Tar(archives, members, left_out(folders, others)), [member.parts[:-1] for member in members]


class TarFiles(DataSet):
    """Class folders inside a tar file, or a folder of tar files; the classes are those of the train split."""

    location = "/path.tar"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        place = Path(location).expanduser()
        source, members = read_split(place, split)
        paths = same_depth(members)
        classes = set(paths)
        if split_name(split) != "train":
            try:
                _, trained = read_split(place, "train")
            except NoSplit:
                pass  # This split alone is there, and has the classes that it shows.
            else:
                called = f"the {split} split of {place}"
                classes = known_classes(classes, set(same_depth(trained)), called, "train")
        tree = LabelTree.from_paths(classes)
        return Listing(source, tree.number(paths), tree, left_out=source.left_out)


def _archives(path: Path, split: str) -> tuple[list[Path], bool]:
    """The files to read, and whether each is a class."""
    if not path.exists():
        raise DataError(f"there is no {path}; give a .tar file or a folder of them")
    if path.is_file() and split_name(path.stem) in (None, split_name(split)):
        return [path], False
    folder = path if path.is_dir() else path.parent
    tars = sorted(folder.glob("*.tar"))
    for wanted in stand_ins(split):
        found = [tar for tar in tars if split_name(tar.stem) == wanted]
        if len(found) == 1:
            return found, False
    if path.is_dir() and not any(split_name(tar.stem) for tar in tars):
        tars = sorted(find_split(path, split).folder.glob("*.tar"))
        if tars:
            return tars, True
    no_split(folder, split, [tar.name for tar in tars])


def _scan(archive: Path, number: int, around: ClassPath, skip: Skip) -> list[Member]:
    lost: list[Lost] = []
    try:
        with archive.open("rb") as file:
            whole = Member(around, number, 0, archive.stat().st_size)
            members = list(_members(file, whole, 0, lost, skip))
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror or error}; check the disk") from error
    torn = [part for part in lost if part.torn]
    if torn:
        named = f" ({torn[0].name})" if torn[0].name else ""
        raise DataError(
            f"cannot read {archive} as a plain tar: {torn[0].reason}{named}; unpack compressed ones, copy"
            " torn ones anew"
        )
    if lost and ranks.is_main():
        named = f", such as {lost[0].name}: {lost[0].reason}" if lost[0].name else f": {lost[0].reason}"
        warnings.warn(f"{archive}: {len(lost)} entries cannot be read{named}", stacklevel=2)
    return members


def _members(file: IO[bytes], around: Member, depth: int, lost: list[Lost], skip: Skip) -> Iterator[Member]:
    """The images of the archive that lies at ``around``, with what cannot be read added to ``lost``.

    What is left out goes to ``skip``: a folder, or else the name of a file.
    """
    if depth > NESTED:
        raise DataError(
            f"{'/'.join(around.parts)} lies in more than {NESTED} tars inside one another; unpack the outer"
            " ones"
        )
    for entry in entries(file, around.offset, around.offset + around.size):
        own = [part for part in PurePosixPath(entry.name).parts if part not in (".", "/")]
        inner = entry.name.lower().endswith(".tar")
        hidden = next((end for end, part in enumerate(own[:-1], start=1) if ignored(part)), 0)
        if hidden:
            skip("/".join(own[:hidden]), "")
            continue
        if isinstance(entry, Lost):
            if entry.torn or not entry.name or inner or is_image(entry.name):
                lost.append(entry._replace(name="/".join((*around.parts, *own))))
            continue
        member = Member((*around.parts, *own), around.archive, entry.offset, entry.size)
        if inner:
            stem = (*member.parts[:-1], PurePosixPath(entry.name).stem)
            yield from _members(file, member._replace(parts=stem), depth + 1, lost, skip)
        elif is_image(entry.name):
            yield member
        else:
            skip("", own[-1] if own else "")


def _of_split(members: list[Member], path: Path, split: str) -> list[Member]:
    """The members below the split's folder, if there are such; without the folders common to all."""
    members = _without_common([member for member in members if not _is_mask(member)])
    heads = {member.parts[0] if len(member.parts) > 1 else "" for member in members}
    if len(heads) < 2 or not all(map(split_name, heads)):
        if split_name(split) != "train" and path.is_file() and not split_name(path.stem):
            no_split(path, split, sorted(heads))
        return members
    for wanted in stand_ins(split):
        found = [member for member in members if split_name(member.parts[0]) == wanted]
        if found:
            return [member._replace(parts=member.parts[1:]) for member in found]
    no_split(path, split, sorted(heads))


def _is_mask(member: Member) -> bool:
    """True for an image below ``masks/train/`` and the like."""
    return len(member.parts) > 2 and member.parts[0] == "masks" and split_name(member.parts[1]) is not None


def _without_common(members: list[Member]) -> list[Member]:
    folders = [member.parts[:-1] for member in members]
    shared = [len(set(names)) == 1 for names in zip(*folders, strict=False)]
    common = min([*shared, False].index(False), *(max(len(folder) - 1, 0) for folder in folders))
    return [member._replace(parts=member.parts[common:]) for member in members]
