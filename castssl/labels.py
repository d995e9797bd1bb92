"""The label levels of a data set, and label paths through them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from castssl.errors import DataError


@dataclass(frozen=True)
class LabelTree:
    """The label levels of a data set, coarse to fine.

    Args:
        sizes: classes per level; ``()`` means unlabeled.
        parents: for each level but the coarsest, the parent (index in the level above) of each class.
        names: class names per level, or ``()`` if unnamed.
        exclusive: False if an image may carry many labels at once.

    Raises:
        DataError: if lengths disagree, a parent is out of range, or a coarse class has no child.
    """

    sizes: tuple[int, ...] = ()
    parents: tuple[tuple[int, ...], ...] = ()
    names: tuple[tuple[str, ...], ...] = ()
    exclusive: bool = True

    def __post_init__(self) -> None:
        if self.exclusive and len(self.parents) != max(len(self.sizes) - 1, 0):
            raise DataError(
                f"a label tree of {len(self.sizes)} levels needs {max(len(self.sizes) - 1, 0)} parent"
                f" tables, got {len(self.parents)}; give one table for each level but the coarsest"
            )
        for level, table in enumerate(self.parents, start=1):
            self._check(level, table)
        if self.names and tuple(map(len, self.names)) != self.sizes:
            raise DataError(f"got {tuple(map(len, self.names))} class names for levels of {self.sizes}")

    def _check(self, level: int, table: tuple[int, ...]) -> None:
        if len(table) != self.sizes[level]:
            raise DataError(f"level {level} has {self.sizes[level]} classes but {len(table)} parents")
        above, present = range(self.sizes[level - 1]), set(table)  # A stranger's size may be any number.
        missing, strange = {*above[: len(table) + 5]} - present, {n for n in present if n not in above}
        if strange or missing:
            raise DataError(
                f"level {level}: parents out of range {sorted(strange)[:5]}, classes of level {level - 1}"
                f" without a child {sorted(missing)[:5]}; expected each of 0..{self.sizes[level - 1] - 1}"
            )

    @property
    def levels(self) -> int:
        """How many levels there are; 0 if unlabeled."""
        return len(self.sizes)

    @classmethod
    def none(cls) -> LabelTree:
        """The tree of an unlabeled data set."""
        return cls()

    @classmethod
    def flat(cls, names: Sequence[str]) -> LabelTree:
        """A tree of one level."""
        return cls(sizes=(len(names),), names=(tuple(names),))

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[str]], *, first_seen: bool = False) -> LabelTree:
        """The tree that named label paths spell, coarse to fine.

        A class is its whole path, so one name may stand below two parents: ``fruit/orange`` and
        ``color/orange`` are two classes.  Class folders and tables are numbered by this one rule.

        Args:
            paths: class names; an empty name, and all that follow it, is unknown.
            first_seen: number each level's classes as they are met, instead of by alphabet of their paths.

        Raises:
            DataError: if the paths differ in length, or no path goes below a class.
        """
        levels = _prefixes(list(dict.fromkeys(map(tuple, paths))))
        if not first_seen:
            levels = [sorted(level) for level in levels]
        index = [{prefix: number for number, prefix in enumerate(level)} for level in levels]
        return cls(
            sizes=tuple(map(len, levels)),
            parents=tuple(
                tuple(above[prefix[:-1]] for prefix in level)
                for above, level in zip(index, levels[1:], strict=False)
            ),
            names=tuple(tuple(prefix[-1] for prefix in level) for level in levels),
        )

    def named(self) -> list[list[tuple[str, ...]]]:
        """The classes of each level as paths of names, coarse to fine; no levels without names."""
        levels: list[list[tuple[str, ...]]] = []
        for level, names in enumerate(self.names):
            above = [levels[-1][parent] for parent in self.parents[level - 1]] if level else [()] * len(names)
            levels.append([(*path, name) for path, name in zip(above, names, strict=True)])
        return levels

    def number(self, paths: Iterable[Sequence[str]]) -> Tensor:
        """The label paths of named paths, as :meth:`from_paths` takes them: int64 (n, L), -1 where unknown.

        Raises:
            DataError: if a path is not in the tree; names up to five of them.
        """
        numbers = [{path: number for number, path in enumerate(level)} for level in self.named()]
        rows: dict[tuple[str, ...], list[int]] = {}
        listed = [tuple(path) for path in paths]
        for path in dict.fromkeys(listed):
            named = path[: path.index("")] if "" in path else path
            ends = range(min(len(named), len(numbers)))
            path_numbers = [numbers[end].get(named[: end + 1], -1) for end in ends]
            if len(path) == len(numbers) and -1 not in path_numbers:
                rows[path] = path_numbers + [-1] * (len(numbers) - len(path_numbers))
        strange = sorted({"/".join(path) for path in listed if path not in rows})
        if strange:
            raise DataError(
                f"{len(strange)} classes are not in the label tree: {', '.join(strange[:5])}"
                + (", ..." if len(strange) > 5 else "")
            )
        return torch.tensor([rows[path] for path in listed], dtype=torch.int64).view(len(listed), self.levels)

    def paths(self) -> Tensor:
        """The label path of each finest class: int64 (C, L), coarse to fine; (0, 0) if unlabeled.

        Raises:
            DataError: if the levels are not a tree, as those of images that carry many labels.
        """
        if len(self.parents) != max(self.levels - 1, 0):
            raise DataError(f"{self.levels} levels with {len(self.parents)} parent tables have no paths")
        columns = [torch.arange(self.sizes[-1])] if self.sizes else []
        for table in reversed(self.parents):
            columns.insert(0, torch.tensor(table)[columns[0]])
        return torch.stack(columns, dim=1) if columns else torch.zeros(0, 0, dtype=torch.int64)

    def valid(self, paths: Tensor) -> Tensor:
        """Which label paths can be walked down this tree: bool (B,).

        A label -1 is unknown and agrees with everything; a known one must be a class, and descend from each
        known one above it.  Does not wait for a device, but copies the tree to it: inside a model keep
        :meth:`paths` as a buffer instead.

        Args:
            paths: int64 (B, L), coarse to fine.

        Raises:
            DataError: if ``paths`` is not (B, L).
        """
        if paths.dim() != 2 or paths.shape[1] != self.levels:
            raise DataError(f"label paths of shape {tuple(paths.shape)}, expected (B, {self.levels})")
        fits = torch.ones(len(paths), dtype=torch.bool, device=paths.device)
        label = torch.full_like(paths[:, 0], -1) if self.levels else paths.sum(1)
        for level in reversed(range(self.levels)):
            labels, size = paths[:, level], self.sizes[level]
            fits &= (labels >= -1) & (labels < size) & ((labels == -1) | (label == -1) | (labels == label))
            label = torch.where(label == -1, labels, label)
            if level:
                above = torch.tensor(self.parents[level - 1]).to(paths.device, non_blocking=True)
                label = torch.where(label == -1, label, above[label.clamp(0, size - 1)])
        return fits

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain lists and strings for JSON; :meth:`from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> LabelTree:
        """The tree that :meth:`to_dict` wrote, also after a trip through JSON.

        Raises:
            DataError: if a field is missing or unknown, or the tree does not hold.
        """
        wanted = {"sizes", "parents", "names", "exclusive"}
        if set(saved) != wanted:
            raise DataError(f"a saved label tree has the fields {sorted(wanted)}, got {sorted(saved)}")
        try:
            sizes = tuple(map(int, saved["sizes"]))
            parents = tuple(tuple(map(int, table)) for table in saved["parents"])
            names = tuple(tuple(map(str, level)) for level in saved["names"])
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"a saved label tree has lists of numbers and of names: {error}") from error
        return cls(sizes=sizes, parents=parents, names=names, exclusive=bool(saved["exclusive"]))


def _prefixes(paths: Sequence[tuple[str, ...]]) -> list[list[tuple[str, ...]]]:
    """The classes of each level as paths from the root, in the order of first sight."""
    depths = {len(path) for path in paths}
    if len(depths) > 1:
        raise DataError(f"label paths of {sorted(depths)} levels, expected equally many in each")
    levels: list[list[tuple[str, ...]]] = []
    for level in range(max(depths, default=0)):
        prefixes = list(dict.fromkeys(path[: level + 1] for path in paths if all(path[: level + 1])))
        childless = sorted(set(levels[-1]) - {prefix[:-1] for prefix in prefixes}) if level else []
        if childless:
            raise DataError(
                f"{len(childless)} classes of level {level - 1} have no class below them, as"
                f" {'/'.join(childless[0])!r}; name the finer class of one image of each at least"
            )
        levels.append(prefixes)
    return levels
