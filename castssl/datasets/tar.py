"""Images inside plain tar files, read by position.

With positions instead of open archives, processes share nothing, and the source can be pickled.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from castssl import distributed
from castssl.contracts import DataSet, Listing
from castssl.datasets import folder as folders
from castssl.datasets.file_names import ignored, is_image
from castssl.datasets.folder import ClassPath
from castssl.datasets.left_out import left_out
from castssl.datasets.regular import open_regular
from castssl.datasets.split_folders import find_split, no_split, split_name, stand_ins
from castssl.datasets.tarfiles import Lost, entries
from castssl.datasets.text import refuse_options
from castssl.errors import DataError, NoSplit
from castssl.labels import LabelTree
from castssl.system_errors import explain

NESTED = 3
"""The largest number of tars inside one another within an archive."""
AGAIN = 100
"""How many times tars within an archive are read again, since links name them."""


class Member(NamedTuple):
    """The position of one image.

    Attributes:
        parts: the folders (and inner tars) around it, and its own name.
        archive: the index of the archive.
        offset: bytes.
        size: bytes.
    """

    parts: ClassPath
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
        self.names = folders.pack(["/".join(member.parts) for member in members])
        self.spans = np.array([member[1:] for member in members], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def open(self, row: int) -> IO[bytes]:
        """The bytes of one image."""
        archive, offset, size = map(int, self.spans[row])
        with open_regular(self.archives[archive]) as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))

    def name(self, row: int) -> str:
        """The path inside the archive."""
        return os.fsdecode(bytes(self.names[row]))

    def path(self, row: int) -> str:
        """``archive.tar: path inside``."""
        return f"{self.archives[int(self.spans[row, 0])]}: {self.name(row)}"


class TarFiles(DataSet):
    """Class folders inside a tar file, or a folder of tar files; the classes are those of the train split."""

    location = "/path.tar"

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        place = Path(location).expanduser()
        source, members = read_split(place, split)
        paths = folders.same_depth(members)
        classes = set(paths)
        if split_name(split) != "train":
            try:
                _, trained = read_split(place, "train")
            except NoSplit:
                pass  # Only this split is there; its classes are those of its images.
            else:
                train = set(folders.same_depth(trained))
                classes = folders.known_classes(classes, train, f"the {split} split of {place}", "train")
        tree = LabelTree.from_paths(classes)
        return Listing(source, tree.number(paths), tree, left_out=source.left_out)


def read_split(path: Path, split: str) -> tuple[Tar, list[ClassPath]]:
    """The images of ``split`` in a tar file or a folder of tar files, and the class folders of each.

    A file may hold the folders ``train`` and ``val``, or be one split alone; a folder may hold ``train.tar``
    and ``val.tar``, or one tar per class (below ``train/`` and ``val/``).  Tars inside tars, as ImageNet's,
    count as folders.

    Raises:
        DataError: if the path or the split is missing, a tar is compressed or damaged, tars lie inside one
            another more than :data:`NESTED` deep, or there are no images.
    """
    archives, as_folders = _list_archives(path, split)
    scans = [_Scan(archive, number, as_folders) for number, archive in enumerate(archives)]
    members = sorted(member for scan in scans for member in scan.members)
    if not members:
        raise DataError(f"{path} holds no images; expected <class>/<image> inside")
    hidden = dict.fromkeys(folder for scan in scans for folder in scan.folders)
    remarks = left_out(hidden, [name for scan in scans for name in scan.others])
    members = _of_split(members, path, split)
    return Tar(archives, members, remarks), [member.parts[:-1] for member in members]


def _list_archives(path: Path, split: str) -> tuple[list[Path], bool]:
    """The files to read, and whether each is a class."""
    if not path.exists():
        refuse_options(path)
        raise DataError(f"there is no {path}; give a .tar file or a folder of them")
    if path.is_file() and split_name(path.stem) in (None, split_name(split)):
        return [path], False
    folder = path if path.is_dir() else path.parent
    tars = sorted(folder.glob("*.tar"))
    if not tars and not next(folder.glob("*/*.tar"), None):
        raise DataError(f"{path} holds no .tar file; did you mean folder:{path} ?")
    for wanted in stand_ins(split):
        chosen = [tar for tar in tars if split_name(tar.stem) == wanted]
        if len(chosen) == 1:
            return chosen, False
    if path.is_dir() and not any(split_name(tar.stem) for tar in tars):
        tars = sorted(find_split(path, split).folder.glob("*.tar"))
        if tars:
            return tars, True
    no_split(folder, split, [tar.name for tar in tars])


class _Scan:
    """The images of one archive, and the hidden folders and other files that are left out.

    Raises:
        DataError: if the archive cannot be read or is damaged.
    """

    def __init__(self, archive: Path, number: int, as_folder: bool) -> None:
        self.folders, self.others = list[str](), list[str]()
        self._lost: list[Lost] = []
        self._inner: set[int] = set()
        self._again = AGAIN
        parts = (archive.stem,) if as_folder else ()
        try:
            with open_regular(archive) as file:
                position = Member(parts, number, 0, archive.stat().st_size)
                self.members = list(self._members(file, position, 0))
        except OSError as error:
            if explain(error):
                raise  # The fault is not the archive's.
            raise DataError(f"cannot read {archive}: {error.strerror or error}; check the disk") from error
        lost = sorted(self._lost, key=lambda part: not part.torn)
        if not lost:
            return
        example = f"{lost[0].name}: {lost[0].reason}" if lost[0].name else lost[0].reason
        if lost[0].torn:
            raise DataError(
                f"cannot read {archive} as a plain tar: {example}; unpack compressed ones, copy damaged ones"
                " again"
            )
        if distributed.is_main():
            warnings.warn(f"{archive}: {len(lost)} entries cannot be read, such as {example}", stacklevel=2)

    def _members(self, file: IO[bytes], around: Member, depth: int) -> Iterator[Member]:
        """The images of the archive at the position ``around``."""
        if depth > NESTED:
            raise DataError(
                f"{'/'.join(around.parts)} lies in more than {NESTED} tars inside one another; unpack the"
                " outer ones"
            )
        for entry in entries(file, around.offset, around.offset + around.size):
            path = PurePosixPath(entry.name)
            parts = tuple(part for part in path.parts if part not in (".", "/"))
            inner = path.suffix.lower() == ".tar"
            hidden = next((end for end, part in enumerate(parts[:-1], 1) if ignored(part)), 0)
            if hidden:
                self.folders.append("/".join(parts[:hidden]))
            elif isinstance(entry, Lost):
                if entry.torn or not entry.name or inner or is_image(entry.name):
                    self._lost.append(entry._replace(name="/".join((*around.parts, *parts))))
            elif inner and not self._within(entry.offset):
                why = f"tars in it are linked to more than {AGAIN} times"
                self._lost.append(Lost("/".join((*around.parts, *parts)), why, torn=False))
            elif inner:
                stem = (*around.parts, *parts[:-1], path.stem)
                yield from self._members(file, Member(stem, around.archive, *entry[1:]), depth + 1)
            elif is_image(entry.name):
                yield Member((*around.parts, *parts), around.archive, *entry[1:])
            elif parts:
                self.others.append(parts[-1])

    def _within(self, offset: int) -> bool:
        """Whether the tar at this byte is to be read: each once, and a few again by links to it."""
        self._again -= offset in self._inner
        self._inner.add(offset)
        return self._again >= 0


def _of_split(members: list[Member], path: Path, split: str) -> list[Member]:
    """The members below the split's folder, if there are such; without the folders common to all."""
    members = [member for member in members if not _is_mask(member.parts)]
    common = len(os.path.commonprefix([member.parts[:-1] for member in members]))  # noqa: RUF071 - of tuples
    common = min([common, *(max(len(member.parts) - 2, 0) for member in members)])
    members = [member._replace(parts=member.parts[common:]) for member in members]
    heads = {member.parts[0] if len(member.parts) > 1 else "" for member in members}
    if len(heads) < 2 or not all(map(split_name, heads)):
        if split_name(split) != "train" and path.is_file() and not split_name(path.stem):
            no_split(path, split, sorted(heads))
        return members
    for wanted in stand_ins(split):
        chosen = [member for member in members if split_name(member.parts[0]) == wanted]
        if chosen:
            return [member._replace(parts=member.parts[1:]) for member in chosen]
    no_split(path, split, sorted(heads))


def _is_mask(parts: ClassPath) -> bool:
    """True for an image below ``masks/train/`` and the like."""
    return len(parts) > 2 and parts[0] == "masks" and split_name(parts[1]) is not None
