"""The nouns that cross borders between rooms.

Shape letters: B images, N tokens, K pooled tokens, D channels, H x W pixels, L label levels, C classes.
Named tuples, because collation, Accelerate, DDP and device transfer carry them through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from castssl.errors import DataError


class View(NamedTuple):
    """One augmented look at each image of a batch.

    Before ``to_views`` (a *raw* view) ``image`` is uint8 RGB, and ``segments`` is (B, 0, 0) when the
    superpixels run on the device.
    """

    image: Tensor
    """float32 (B, 3, H, W), normalised RGB."""
    segments: Tensor
    """int32 (B, H, W), values in [0, capacity)."""


RawView = View
"""A :class:`View` before ``castssl.data.normalize``: uint8 image, segments maybe (B, 0, 0)."""


class Batch(NamedTuple):
    """What a loader yields and an objective consumes."""

    views: Sequence[View]
    target: Tensor
    """Label path int64 (B, L), coarse to fine, L = 0 if unlabelled; or multi-hot float32 (B, C); or a map of
    classes int64 (B, H, W), -1 where unknown."""


class Tokens(NamedTuple):
    """The tokens of one stage; a row with mass 0 is padding."""

    x: Tensor
    """float (B, N, D)."""
    cls: Tensor
    """float (B, 1, D)."""
    mass: Tensor
    """float32 (B, N), stem cells behind each token."""
    keys: Tensor | None = None
    """float (B, N, d), the last attention's keys, mean over heads."""
    received: Tensor | None = None
    """float32 (B, N), attention each token received: mean over heads, sum over queries."""


class Pooled(NamedTuple):
    """What a pooling returns."""

    x: Tensor
    """float (B, K, D)."""
    cls: Tensor
    """float (B, 1, D)."""
    assign: Tensor
    """float32 (B, N, K); a valid row sums to 1, a padded row is all 0."""


class Hierarchy(NamedTuple):
    """All stages of one forward pass, and how each token was handed to the next stage."""

    segments: Tensor
    """int32 (B, H, W); -1 where a label was out of range, see :mod:`castssl.superpixel_labels`."""
    stages: tuple[Tokens, ...]
    """Fine to coarse."""
    assigns: tuple[Tensor, ...]
    """One fewer than ``stages``."""

    def parents(self, stage: int) -> Tensor:
        """The token of ``stage`` that each finest token ended up in: int64 (B, N), hard (argmax) chain."""
        at = torch.arange(self.stages[0].x.shape[1], device=self.segments.device)
        at = at.expand(self.stages[0].x.shape[0], -1)
        for assign in self.assigns[: stage % len(self.stages)]:
            at = assign.argmax(-1).gather(1, at)
        return at

    def labels(self, stage: int) -> Tensor:
        """The segmentation at ``stage``: int64 (B, H, W); -1 where a pixel's segment has no token."""
        at = self.parents(stage).masked_fill(self.stages[0].mass <= 0, -1)
        flat = self.segments.flatten(1).long()
        return at.gather(1, flat.clamp(min=0)).masked_fill(flat < 0, -1).view(self.segments.shape)


class DenseTokens(NamedTuple):
    """The finest tokens of an encoder, which know of its coarser stages, and where they lie."""

    x: Tensor
    """float (B, N, D)."""
    mass: Tensor
    """float32 (B, N), what lies behind each token; 0 is padding."""
    labels: Tensor
    """int (B, H, W), the token of each pixel; -1 where a pixel has none."""
    grid: tuple[int, int] | None = None
    """Rows and columns if the tokens are the cells of a regular grid, row by row; None if they have no grid,
    as superpixels."""


class Outcome(NamedTuple):
    """What an objective returns."""

    loss: Tensor
    """float32 scalar with gradient, mean over this rank's batch."""
    logs: Mapping[str, Tensor]
    """Detached float scalars."""


@dataclass(frozen=True)
class LabelTree:
    """The label levels of a data set, coarse to fine.

    Args:
        sizes: classes per level; ``()`` means unlabelled.
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
        missing = set(range(self.sizes[level - 1])) - set(table)
        strange = set(table) - set(range(self.sizes[level - 1]))
        if strange or missing:
            raise DataError(
                f"level {level}: parents out of range {sorted(strange)[:5]}, classes of level {level - 1}"
                f" without a child {sorted(missing)[:5]}; expected each of 0..{self.sizes[level - 1] - 1}"
            )

    @property
    def levels(self) -> int:
        """How many levels there are; 0 if unlabelled."""
        return len(self.sizes)

    @classmethod
    def none(cls) -> LabelTree:
        """The tree of an unlabelled data set."""
        return cls()

    @classmethod
    def flat(cls, names: Sequence[str]) -> LabelTree:
        """A tree of one level."""
        return cls(sizes=(len(names),), names=(tuple(names),))

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[str]], *, first_seen: bool = False) -> LabelTree:
        """The tree that named label paths spell, coarse to fine.

        A class is its whole path, so that one name may stand below two parents: ``fruit/orange`` and
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
        known = [{path: number for number, path in enumerate(level)} for level in self.named()]
        rows: dict[tuple[str, ...], list[int]] = {}
        listed = [tuple(path) for path in paths]
        for path in dict.fromkeys(listed):
            named = path[: path.index("")] if "" in path else path
            numbers = [known[end].get(named[: end + 1], -1) for end in range(min(len(named), len(known)))]
            if len(path) == len(known) and -1 not in numbers:
                rows[path] = numbers + [-1] * (len(known) - len(numbers))
        strange = sorted({"/".join(path) for path in listed if path not in rows})
        if strange:
            raise DataError(
                f"{len(strange)} classes are not in the label tree: {', '.join(strange[:5])}"
                + (", ..." if len(strange) > 5 else "")
            )
        return torch.tensor([rows[path] for path in listed], dtype=torch.int64).view(len(listed), self.levels)

    def paths(self) -> Tensor:
        """The label path of each finest class: int64 (C, L), coarse to fine; (0, 0) if unlabelled.

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
        at = torch.full_like(paths[:, 0], -1) if self.levels else paths.sum(1)
        for level in reversed(range(self.levels)):
            given, size = paths[:, level], self.sizes[level]
            fits &= (given >= -1) & (given < size) & ((given == -1) | (at == -1) | (given == at))
            at = torch.where(at == -1, given, at)
            if level:
                above = torch.tensor(self.parents[level - 1]).to(paths.device, non_blocking=True)
                at = torch.where(at == -1, at, above[at.clamp(0, size - 1)])
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
        found = list(dict.fromkeys(path[: level + 1] for path in paths if all(path[: level + 1])))
        childless = sorted(set(levels[-1]) - {prefix[:-1] for prefix in found}) if level else []
        if childless:
            raise DataError(
                f"{len(childless)} classes of level {level - 1} have no class below them, as"
                f" {'/'.join(childless[0])!r}; name the finer class of one image of each at least"
            )
        levels.append(found)
    return levels
