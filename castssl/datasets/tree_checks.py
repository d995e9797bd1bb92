"""What to know of a data set's label tree before training: images of each class, and what looks wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from castssl.datasets.damage import left_out
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.types import LabelTree

NAMED = 5
"""Classes that a finding names."""


class Finding(NamedTuple):
    """Something to know."""

    text: str
    breaks: bool
    """True if training on this makes no sense."""


def labels(images: Images | Stream) -> Tensor | None:
    """The label paths of all images, int64 (n, L), without reading them; None for a stream."""
    return None if isinstance(images, Stream) else images.targets


def counts(tree: LabelTree, paths: Tensor) -> list[Tensor]:
    """For each level the images of each class: int64 (C,) each; unknown labels are left out.

    Args:
        tree: of these labels.
        paths: int64 (n, L).
    """
    columns = (column[column >= 0] for column in paths.T)
    return [torch.bincount(column, minlength=size) for column, size in zip(columns, tree.sizes, strict=True)]


def findings(train: Images | Stream, val: Images | Stream | None = None) -> list[Finding]:
    """What is wrong or odd about the label tree and the labels of a data set, the worst first."""
    if not train.tree.levels:
        return [Finding("there are no labels: no folder, column or reader names a class", breaks=True)]
    found = [*_shape(train.tree), *_labels("train", train, breaks=True), *_lost("train", train)]
    if val is not None:
        found += [*_mismatch(train.tree, val.tree), *_labels("val", val, breaks=False), *_lost("val", val)]
    return sorted(found, key=lambda finding: not finding.breaks)


def losses(split: str, images: Images | Stream) -> list[Finding]:
    """What a split leaves out, by folder, by extension, and by damage among some images that are decoded."""
    return [Finding(f"{split}: {sentence}", breaks=False) for sentence in left_out(images, decoded=True)]


def _shape(tree: LabelTree) -> Iterator[Finding]:
    for level, size in enumerate(tree.sizes):
        if size == 1:
            yield Finding(f"level {level} has one class only, {called(tree, level, 0)}", breaks=False)
    for level, table in enumerate(tree.parents, start=1):
        children = Counter(table)
        single = [parent for parent, count in sorted(children.items()) if count == 1]
        if len(single) == tree.sizes[level - 1]:
            yield Finding(f"level {level} repeats level {level - 1}: each class has one child", breaks=False)
        elif single:
            names = _some([called(tree, level - 1, parent) for parent in single])
            yield Finding(
                f"{len(single)} classes of level {level - 1} have one child only: {names}", breaks=False
            )
    for level, every in enumerate(tree.names):
        twice = [name for name, count in Counter(every).items() if count > 1]
        if twice:
            text = f"{len(twice)} names of level {level} belong to several classes: {_some(twice)}"
            yield Finding(text, breaks=False)


def _labels(split: str, images: Images | Stream, *, breaks: bool) -> Iterator[Finding]:
    paths = labels(images)
    if paths is None or not images.tree.levels:
        return
    if paths.shape[1] > 1 and not bool((fits := images.tree.valid(paths)).all()):
        row = int((~fits).nonzero()[0])
        text = f"{int((~fits).sum())} images of {split} have labels that no path of the tree has"
        yield Finding(f"{text}, as image {row}: {paths[row].tolist()}", breaks=True)
    for level, own in enumerate(counts(images.tree, paths)):
        empty = (own == 0).nonzero().flatten().tolist()
        if empty:
            names = _some([called(images.tree, level, number) for number in empty])
            yield Finding(f"{len(empty)} classes of level {level} have no image in {split}: {names}", breaks)


def _lost(split: str, images: Images | Stream) -> Iterator[Finding]:
    lost = images.feed.lost if isinstance(images, Stream) else []
    if lost:
        text = f"{len(lost)} parts of the shards of {split} cannot be read, such as {lost[0].name}"
        yield Finding(f"{text} ({lost[0].reason})", breaks=False)


def _mismatch(train: LabelTree, val: LabelTree) -> Iterator[Finding]:
    if train.sizes != val.sizes:
        yield Finding(f"train has {train.sizes} classes a level, val {val.sizes}", breaks=True)
    elif train.parents != val.parents:
        yield Finding("the classes of val lie below other parents than those of train", breaks=True)
    elif train.names != val.names:
        pairs = zip(sum(train.names, ()), sum(val.names, ()), strict=False)
        ours, theirs = next(((a, b) for a, b in pairs if a != b), ("named", "not"))
        yield Finding(f"train and val name their classes differently: {ours!r} and {theirs!r}", breaks=True)


def called(tree: LabelTree, level: int, number: int) -> str:
    """A class by name, or by number if the tree has no names."""
    return tree.names[level][number] if tree.names else f"class {number}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
