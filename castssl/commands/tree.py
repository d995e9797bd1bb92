"""``castssl tree``: a data set's label tree, how many images each class has, and what looks wrong."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from castssl.ablations.grid import add_commands
from castssl.commands.arguments import Commands, subcommand, table

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree
    from torch import Tensor

    from castssl.datasets.images import Images
    from castssl.datasets.stream import Stream
    from castssl.labels import LabelTree

NOTES = """Numbers after a class are its images in train / val.  Levels are counted from 0, the coarsest.
The exit code is 1 if there are no labels, a class has no training image, labels are not a path of the tree,
or the val split has other classes.
"""
WHOLE = 80
"""Classes up to which a tree is shown whole."""
SHOWN = (6, 3, 2, 1)
"""Children shown of a class of each level, the root first, in longer ones."""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    command = subcommand(commands, "tree", "print and check the label tree of a data set", _tree, NOTES)
    data = "demo, breeds:living17:/imagenet, cub:/path, aircraft:/path, inat21-mini:/path, tree:/path,"
    data += " tree:/path/labels.csv, folder:/path, ..."
    command.add_argument("data", nargs="+", metavar="DATA", help=data)
    add_commands(command)
    command.add_argument("--all", action="store_true", help="print all classes, also of a large tree")


def _tree(args: argparse.Namespace) -> int:
    return max([_one(spec, whole=args.all, commands=args.allow_commands) for spec in args.data])


def _one(spec: str, *, whole: bool, commands: bool) -> int:
    from rich.console import Console

    from castssl.datasets.open import open_images
    from castssl.datasets.tree_checks import Finding, counts, findings, labels, losses
    from castssl.errors import DataError, NoSplit
    from castssl.terminal import safe_markup

    splits: dict[str, Images | Stream] = {"train": open_images(spec, commands=commands)}
    problems: list[Finding] = []
    try:
        splits["val"] = open_images(spec, split="val", commands=commands)
    except DataError as error:
        problems.append(Finding(str(error), breaks=not isinstance(error, NoSplit)))
    tree = splits["train"].tree
    problems += findings(splits["train"], splits.get("val"))
    problems += [loss for split, images in splits.items() for loss in losses(split, images)]
    problems.sort(key=lambda problem: not problem.breaks)
    console = Console(emoji=False)
    per_class: dict[str, list[Tensor] | None] = {}
    for split, images in splits.items():
        paths = labels(images)
        per_class[split] = None if paths is None or images.tree.sizes != tree.sizes else counts(tree, paths)
    if tree.levels:
        known_counts = [count for count in per_class.values() if count is not None]
        console.print(_drawn(spec, tree, known_counts, whole=whole or sum(tree.sizes) <= WHOLE))
    console.print(_levels(tree, splits, per_class))
    for problem in problems:
        kind = "[red]wrong[/]  " if problem.breaks else "[yellow]note[/]   "
        console.print(kind + safe_markup(problem.text))
    if not problems:
        console.print("[green]nothing wrong[/]")
    return int(any(problem.breaks for problem in problems))


def _drawn(spec: str, tree: LabelTree, per_class: Sequence[Sequence[Tensor]], *, whole: bool) -> Tree:
    """The tree as rich draws it, with the images of each class and split."""
    from rich.tree import Tree

    from castssl.datasets.tree_checks import class_name
    from castssl.terminal import safe_markup

    children: list[list[list[int]]] = [[[] for _ in range(size)] for size in tree.sizes[:-1]]
    for level, parents in enumerate(tree.parents):
        for number, parent in enumerate(parents):
            children[level][parent].append(number)

    def grow(branch: Tree, level: int, numbers: Sequence[int]) -> None:
        shown = len(numbers) if whole else SHOWN[min(level, len(SHOWN) - 1)]
        # A line "1 more" takes as much space as the class itself.
        for number in numbers[: shown if shown < len(numbers) - 1 else None]:
            images = " / ".join(str(int(count[level][number])) for count in per_class)
            text = f"{safe_markup(class_name(tree, level, number))}  [dim]{images}[/]"
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
    """A row for each level: classes, children of a class above, and labels by split."""
    splits_labeled = [f"{split} {'labeled' if tree.exclusive else 'labels'}" for split in splits]
    shown = table([], ["level", "classes", "of each above", *splits_labeled])
    for level, size in enumerate(tree.sizes):
        children = list(Counter(tree.parents[level - 1]).values()) if level and tree.parents else []
        least, most = min(children, default=0), max(children, default=0)
        above = "-" if not children else str(least) if least == most else f"{least} to {most}"
        labeled = ["?" if count is None else f"{int(count[level].sum()):,}" for count in per_class.values()]
        shown.add_row(str(level), f"{size:,}", above, *labeled)
    shown.add_section()
    shown.add_row("images", "", "", *(f"{len(images):,}" for images in splits.values()))
    return shown
