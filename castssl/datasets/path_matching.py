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
        for file in files:
            if path := parts(file):
                self._by_last.setdefault(path[-1], []).append((path, file))

    def find(self, name: str) -> tuple[str, int] | None:
        """The path in the annotations that an image's path means, and how sure it is; None if none is surest.

        It does not know the other images: see :meth:`among`.
        """
        path = parts(name)
        candidates = self._by_last.get(path[-1], []) if path else []
        scores = [_score(path, other, alone=len(candidates) == 1) for other, _ in candidates]
        most = max(scores, default=0)
        if not most or scores.count(most) > 1:
            return None
        return candidates[scores.index(most)][1], most

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


def _score(one: Sequence[str], other: Sequence[str], *, alone: bool) -> int:
    """How surely two paths with equal last parts mean one file; 0 if they may mean two."""
    if one == other:
        return EXACT
    short = min(len(one), len(other))
    if short > 1 and one[-short:] == other[-short:]:
        return short
    return int(alone)
