"""``castssl tree``: a data set's label tree, how many images each class has, and what looks wrong."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from castssl.ablations.grid import add_commands

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree
    from torch import Tensor

    from castssl.datasets.images import Images
    from castssl.datasets.stream import Stream
    from castssl.types import LabelTree

NOTES = """Numbers after a class are its images in train / val.  Levels are counted from 0, the coarsest.
The exit code is 1 if something makes training pointless: no labels, a class without a training image, labels
that are no path of the tree, or a val split with other classes.
"""
WHOLE = 80
"""Classes up to which a tree is shown whole."""
SHOWN = (6, 3, 2, 1)
"""Children shown of a class of each level, the root first, in longer ones."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    purpose = "print and check the label tree of a data set"
    command = commands.add_parser(
        "tree",
        help=purpose,
        description=purpose.capitalize() + ".",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "data",
        nargs="+",
        metavar="DATA",
        help="demo, breeds:living17:/imagenet, cub:/path, aircraft:/path, inat21-mini:/path, tree:/path,"
        " tree:/path/labels.csv, folder:/path, ...",
    )
    add_commands(command)
    command.add_argument("--all", action="store_true", help="every class, however long that is")
    command.set_defaults(run=_tree)


def _tree(given: argparse.Namespace) -> int:
    return max([_one(spec, whole=given.all, commands=given.allow_commands) for spec in given.data])


def _one(spec: str, *, whole: bool, commands: bool) -> int:
    from rich.console import Console

    from castssl.datasets.open import open_images
    from castssl.datasets.tree_checks import Finding, counts, findings, labels, losses
    from castssl.errors import DataError, NoSplit
    from castssl.output import safe_markup

    splits: dict[str, Images | Stream] = {"train": open_images(spec, commands=commands)}
    found: list[Finding] = []
    try:
        splits["val"] = open_images(spec, split="val", commands=commands)
    except DataError as error:
        found.append(Finding(str(error), breaks=not isinstance(error, NoSplit)))
    tree = splits["train"].tree
    found += findings(splits["train"], splits.get("val"))
    found += [loss for split, images in splits.items() for loss in losses(split, images)]
    found = sorted(found, key=lambda one: not one.breaks)
    console = Console(emoji=False)
    per_class: dict[str, list[Tensor] | None] = {}
    for split, images in splits.items():
        paths = labels(images)
        per_class[split] = None if paths is None or images.tree.sizes != tree.sizes else counts(tree, paths)
    if tree.levels:
        known = [own for own in per_class.values() if own is not None]
        console.print(_drawn(spec, tree, known, whole=whole or sum(tree.sizes) <= WHOLE))
    console.print(_levels(tree, splits, per_class))
    for one in found:
        kind = "[red]wrong[/]  " if one.breaks else "[yellow]note[/]   "
        console.print(kind + safe_markup(one.text))
    if not found:
        console.print("[green]nothing wrong[/]")
    return int(any(one.breaks for one in found))


def _drawn(spec: str, tree: LabelTree, per_class: Sequence[Sequence[Tensor]], *, whole: bool) -> Tree:
    """The tree as rich draws it, with the images of each class and split."""
    from rich.tree import Tree

    from castssl.datasets.tree_checks import called
    from castssl.output import safe_markup

    children: list[list[list[int]]] = [[[] for _ in range(size)] for size in tree.sizes[:-1]]
    for level, table in enumerate(tree.parents):
        for number, parent in enumerate(table):
            children[level][parent].append(number)

    def grow(branch: Tree, level: int, numbers: Sequence[int]) -> None:
        shown = len(numbers) if whole else SHOWN[min(level, len(SHOWN) - 1)]
        # One line that says "1 more" is no shorter than the class itself.
        for number in numbers[: shown if shown < len(numbers) - 1 else None]:
            images = " / ".join(str(int(own[level][number])) for own in per_class)
            text = f"{safe_markup(called(tree, level, number))}  [dim]{images}[/]"
            grown = branch.add(text, highlight=False)
            if level < tree.levels - 1:
                grow(grown, level + 1, children[level][number])
        if shown < len(numbers) - 1:
            branch.add(f"[dim]... and {len(numbers) - shown} more[/]", highlight=False)

    root = Tree(safe_markup(spec), highlight=False)
    grow(root, 0, range(tree.sizes[0]))
    return root


def _levels(
    tree: LabelTree,
    splits: dict[str, Images | Stream],
    per_class: dict[str, list[Tensor] | None],
) -> Table:
    """A row for each level: classes, children of a class above, and images with a label of this level."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("level", "classes", "of each above", *(f"{split} labeled" for split in splits)):
        table.add_column(column, justify="right", no_wrap=True)
    for level, size in enumerate(tree.sizes):
        of = list(Counter(tree.parents[level - 1]).values()) if level else []
        each = "-" if not of else str(of[0]) if min(of) == max(of) else f"{min(of)} to {max(of)}"
        labeled = ["?" if own is None else f"{int(own[level].sum()):,}" for own in per_class.values()]
        table.add_row(str(level), f"{size:,}", each, *labeled)
    table.add_section()
    table.add_row("images", "", "", *(f"{len(images):,}" for images in splits.values()))
    return table
