"""Published label trees, out of packaged tables that each name their source; all coarse to fine.

BREEDS and CUB come whole from their tables.  FGVC-Aircraft's own lists hold its tree, and the table only the
order in which the checkpoints published with H-CAST number the classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.registry import did_you_mean

BREEDS = ("living17", "nonliving26", "entity13", "entity30")
"""The BREEDS data sets; each has a source and a target split."""
CUB_SPECIES = 200


class Breeds(NamedTuple):
    """A BREEDS data set: two levels, and the ImageNet folder of each fine class."""

    tree: LabelTree
    wnids: tuple[str, ...]
    """By fine class, such as ("n01631663", ...)."""


def breeds(name: str) -> Breeds:
    """A BREEDS data set, such as ``living17`` or, with the held-out sub-populations, ``living17-target``.

    Both have the same coarse classes and as many fine ones, but other fine ones, each with its own name.

    Raises:
        DataError: if there is no such data set.
    """
    base, _, end = name.partition("-")
    if base not in BREEDS or end not in ("", "source", "target"):
        names = [*BREEDS, *(f"{base}-target" for base in BREEDS)]
        raise DataError(f"BREEDS has no {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}")
    table = _table(base)
    first = 3 if end == "target" else 1
    fine = table["fine"]
    tree = LabelTree(
        sizes=(len(table["coarse"]), len(fine)),
        parents=(tuple(row[0] for row in fine),),
        names=(tuple(table["coarse"]), tuple(row[first + 1] for row in fine)),
    )
    return Breeds(tree, tuple(row[first] for row in fine))


def cub(species: Sequence[str]) -> LabelTree:
    """Order, family and species of CUB-200-2011: 13, 38 and 200 classes.

    Args:
        species: what to call the species, in the order of the data set's ``classes.txt``.

    Raises:
        DataError: if there are not 200.
    """
    if len(species) != CUB_SPECIES:
        raise DataError(f"CUB-200-2011 has {CUB_SPECIES} species, got {len(species)}; check classes.txt")
    table = _table("cub")
    return LabelTree(
        sizes=(len(table["orders"]), len(table["families"]), CUB_SPECIES),
        parents=(
            tuple(order - 1 for order in table["order_of_family"]),
            tuple(family - 1 for family in table["family_of_species"]),
        ),
        names=(tuple(table["orders"]), tuple(table["families"]), tuple(species)),
    )


def aircraft(paths: Sequence[tuple[str, str, str]]) -> LabelTree:
    """The tree of (manufacturer, family, variant) names, numbered as in the published checkpoints.

    With other variants than the 100 of FGVC-Aircraft the classes are numbered by alphabet.

    Raises:
        DataError: if a variant has two families, or a family two manufacturers.
    """
    check_parents(paths)
    tree = LabelTree.from_paths(paths)
    published = {
        row[0]: (row[2], row[1], number) for number, row in enumerate(_table("aircraft")["variants"])
    }
    if not tree.levels or set(tree.names[-1]) != set(published):
        return tree
    first: list[dict[int, int]] = [{}, {}, {}]
    for path in tree.paths().tolist():
        for level, number in enumerate(published[tree.names[-1][path[-1]]]):
            first[level][path[level]] = min(number, first[level].get(path[level], number))
    return pick(tree, [sorted(numbers, key=numbers.__getitem__) for numbers in first])


def check_parents(paths: Sequence[Sequence[str]]) -> None:
    """Refuse a class with two parents, in data sets whose published lists give each name one parent.

    Raises:
        DataError: with the first such class.
    """
    above: dict[tuple[int, str], str] = {}
    for path in paths:
        for level, (parent, name) in enumerate(pairwise(path), start=1):
            if above.setdefault((level, name), parent) != parent:
                raise DataError(
                    f"class {name!r} of level {level} lies below {above[level, name]!r} and below {parent!r},"
                    " but the data set gives each class one parent; copy its lists anew"
                )


def pick(tree: LabelTree, classes: Sequence[Sequence[int]]) -> LabelTree:
    """The tree of some classes in a new order: class i of level l is the old class ``classes[l][i]``.

    Raises:
        DataError: if a chosen class loses its parent or all its children.
    """
    place = [{old: new for new, old in enumerate(chosen)} for chosen in classes]
    parents = []
    for level, table in enumerate(tree.parents):
        orphans = [old for old in classes[level + 1] if table[old] not in place[level]]
        if orphans:
            raise DataError(f"classes {orphans[:5]} of level {level + 1} would lose their parents")
        parents.append(tuple(place[level][table[old]] for old in classes[level + 1]))
    names = tuple(
        tuple(level[old] for old in chosen)
        for level, chosen in zip(tree.names, classes, strict=bool(tree.names))
    )
    return LabelTree(tuple(map(len, classes)), tuple(parents), names)


def _table(name: str) -> dict[str, Any]:
    path = Path(__file__).with_name("taxonomies") / f"{name}.json"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table
