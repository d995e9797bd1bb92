"""Which image a file name of annotations is of, where the folders of both differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

EXACT = 1_000_000
"""The score of equal paths; no path has as many parts."""


class FileNames:
    """Paths in annotations, to be found by the paths of images.

    Of two paths the same file is meant, the surest first, if they are equal; if one is the end of the other,
    such as ``cat/1.jpg`` of ``train/cat/1.jpg``; or if their last parts are equal and no other path, neither
    of the annotations nor of the images, has this last part.

    Args:
        files: the paths in the annotations, with / or a backslash between their parts.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._by_last: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        self._ends: dict[str, _Ends] = {}
        for file in files:
            if path := parts(file):
                self._by_last.setdefault(path[-1], []).append((path, file))

    def find(self, name: str) -> tuple[str, int] | None:
        """The path in the annotations that an image's path means, and how sure it is; None if none is surest.

        It does not know the other images: see :meth:`among`.
        """
        path = parts(name)
        candidates = self._by_last.get(path[-1], []) if path else []
        if len(candidates) < 2:
            return next(((file, _score(path, other)) for other, file in candidates), None)
        # Data sets that name images by their folders have thousands of equal last parts.
        if path[-1] not in self._ends:
            self._ends[path[-1]] = _Ends(candidates)
        return self._ends[path[-1]].find(path)

    def among(self, names: Iterable[str]) -> dict[str, str]:
        """The path in the annotations of each image that has one; none is of two images.

        Args:
            names: the paths of all images.
        """
        claims: dict[str, list[tuple[int, str]]] = {}
        for name in names:
            if found := self.find(name):
                claims.setdefault(found[0], []).append((found[1], name))
        matched = {}
        for file, claimed in claims.items():
            most, name = max(claimed)
            if sum(score == most for score, _ in claimed) == 1:
                matched[name] = file
        return matched


def parts(path: str) -> tuple[str, ...]:
    """The parts of a path, without empty ones and those that are a dot."""
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


class _Ends:
    """Several paths with equal last parts, by their ends.

    Args:
        paths: the parts of each, and its name.
    """

    def __init__(self, paths: Iterable[tuple[tuple[str, ...], str]]) -> None:
        self._whole: dict[tuple[str, ...], list[str]] = {}
        self._longer: dict[tuple[str, ...], list[str]] = {}
        for path, file in paths:
            self._whole.setdefault(path, []).append(file)
            for first in range(1, len(path) - 1):
                self._longer.setdefault(path[first:], []).append(file)

    def find(self, path: tuple[str, ...]) -> tuple[str, int] | None:
        """The name of the path that shares the longest end of at least two parts; None if two do."""
        ends = [(EXACT, self._whole.get(path)), (len(path), self._longer.get(path))]
        ends += [(len(path) - first, self._whole.get(path[first:])) for first in range(1, len(path) - 1)]
        score, files = next(((score, files) for score, files in ends if files), (0, []))
        return (files[0], score) if len(files) == 1 else None


def _score(one: Sequence[str], other: Sequence[str]) -> int:
    """How surely two paths mean one file if no third path has their last part."""
    short = min(len(one), len(other))
    return EXACT if one == other else short if one[-short:] == other[-short:] else 1
