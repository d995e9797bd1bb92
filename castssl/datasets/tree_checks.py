"""Checks of a data set's label tree before training: images of each class, and what looks wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from castssl.datasets.damage import left_out
from castssl.datasets.images import Images
from castssl.datasets.left_out import some
from castssl.datasets.many_labels import PRESENT
from castssl.datasets.stream import Stream
from castssl.labels import LabelTree


class Finding(NamedTuple):
    """Something to know.

    Attributes:
        text: a sentence.
        breaks: True if training on this makes no sense.
    """

    text: str
    breaks: bool = False


def labels(images: Images | Stream) -> Tensor | None:
    """The targets of all images, as a listing has them, without reading the images; None for a stream."""
    return None if isinstance(images, Stream) else images.targets


def counts(tree: LabelTree, paths: Tensor) -> list[Tensor]:
    """For each level the images of each class: int64 (C,) each; unknown labels are left out.

    Args:
        tree: of these labels.
        paths: int64 (n, L), or multi-hot float32 (n, C) if the tree is not exclusive.
    """
    if not tree.exclusive:
        return [(level == PRESENT).sum(0) for level in paths.split(tree.sizes, 1)]
    columns = (column[column >= 0] for column in paths.T)
    return [torch.bincount(column, minlength=size) for column, size in zip(columns, tree.sizes, strict=True)]


def findings(train: Images | Stream, val: Images | Stream | None = None) -> list[Finding]:
    """What is wrong or odd about the label tree and the labels of a data set, the worst first."""
    if not train.tree.levels:
        return [Finding("there are no labels: no folder, column or reader names a class", breaks=True)]
    all_findings = [*_shape(train.tree), *_labels("train", train, breaks=True)]
    if val is not None:
        all_findings += [*_mismatch(train.tree, val.tree), *_labels("val", val, breaks=False)]
    return sorted(all_findings, key=lambda finding: not finding.breaks)


def losses(split: str, images: Images | Stream) -> list[Finding]:
    """What a split leaves out, by folder, by extension, and by damage among some images that are decoded."""
    return [Finding(f"{split}: {sentence}") for sentence in left_out(images, decoded=True)]


def _shape(tree: LabelTree) -> Iterator[Finding]:
    for level, size in enumerate(tree.sizes):
        if size == 1:
            yield Finding(f"level {level} has one class only, {class_name(tree, level, 0)}")
    for level, table in enumerate(tree.parents, start=1):
        single = [parent for parent, count in sorted(Counter(table).items()) if count == 1]
        if len(single) == tree.sizes[level - 1]:
            yield Finding(f"level {level} repeats level {level - 1}: each class has one child")
        elif single:
            names = some([class_name(tree, level - 1, parent) for parent in single])
            yield Finding(f"classes of level {level - 1} with one child only: {names}")
    yield from map(Finding, shared_names(tree))


def shared_names(tree: LabelTree) -> Iterator[str]:
    """A sentence for each level in which several classes, below different parents, have the same name."""
    for level, names in enumerate(tree.names):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            yield f"names of level {level} with several classes: {some(twice)}"


def _labels(split: str, images: Images | Stream, *, breaks: bool) -> Iterator[Finding]:
    """Labels that do not fit, classes without images, and parts of shards that cannot be read."""
    tree, paths = images.tree, labels(images)
    if isinstance(images, Stream) and (lost := images.feed.lost):
        text = f"{len(lost)} parts of the shards of {split} cannot be read, such as {lost[0].name}"
        yield Finding(f"{text} ({lost[0].reason})")
    if paths is None or not tree.levels:
        return
    if tree.exclusive and paths.shape[1] > 1 and not bool((fits := tree.valid(paths)).all()):
        row = int((~fits).nonzero()[0])
        text = f"{int((~fits).sum())} images of {split} have labels that no path of the tree has"
        yield Finding(f"{text}, as image {row}: {paths[row].tolist()}", breaks=True)
    for level, images_of_class in enumerate(counts(tree, paths)):
        empty = (images_of_class == 0).nonzero().flatten().tolist()
        if empty:
            names = some([class_name(tree, level, number) for number in empty])
            yield Finding(f"{len(empty)} classes of level {level} have no image in {split}: {names}", breaks)


def _mismatch(train: LabelTree, val: LabelTree) -> Iterator[Finding]:
    if train.sizes != val.sizes:
        yield Finding(f"train has {train.sizes} classes per level, val {val.sizes}", breaks=True)
    elif train.parents != val.parents:
        yield Finding("the classes of val lie below other parents than those of train", breaks=True)
    elif train.names != val.names:
        pairs = zip(sum(train.names, ()), sum(val.names, ()), strict=False)
        one, other = next(((a, b) for a, b in pairs if a != b), ("named", "not"))
        yield Finding(f"train and val name their classes differently: {one!r} and {other!r}", breaks=True)


def class_name(tree: LabelTree, level: int, number: int) -> str:
    """A class by name, or by number if the tree has no names."""
    return tree.names[level][number] if tree.names else f"class {number}"
