"""The two splits of a run: images to train on, and held-out images for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from castssl import distributed
from castssl.data.hash_index import hash_index
from castssl.datasets.damage import left_out
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.datasets.stream import Stream
from castssl.errors import DataError, NoSplit
from castssl.labels import LabelTree

NONE = "none"
"""The name of held-out data that stands for no evaluation."""
SHOWN = 5
"""The number of unknown classes that a message lists."""


class Splits(NamedTuple):
    """The result of :func:`open_splits`.

    Attributes:
        train: images to train on.
        held_out: numbered by the classes of ``train``; None if there is no evaluation.
        remarks: sentences for the user: what is held out, and what is left out of both.
    """

    train: Images | Stream
    held_out: Images | Stream | None
    remarks: tuple[str, ...]


def open_splits(
    data: str,
    *,
    val: str | None = None,
    share: float = 0.0,
    seed: int = 0,
    subset: str | None = None,
    measured: bool = True,
    streams: bool = True,
    commands: bool = False,
    channels: int = 3,
) -> Splits:
    """Training images and held-out images.

    Args:
        data: a name of data, see :func:`castssl.datasets.open.open_images`.
        val: the name of the held-out data, of which the val split is used if it has one, else all images;
            "none": no evaluation; by default the val split of ``data``.
        share: hold out this share of the training images of each class instead, drawn by ``seed``.
        seed: non-negative.
        subset: only these classes, of both.
        measured: False opens no held-out images, but removes the share from the training images.
        streams: False if the evaluation needs images by index, so a stream has no held-out images.
        commands: see :func:`castssl.datasets.open.open_images`.
        channels: likewise.

    Raises:
        DataError: if there are no held-out images, they have classes that the training images lack, or the
            data cannot be opened.
    """
    options: dict[str, Any] = {"subset": subset, "commands": commands, "channels": channels}
    train = open_images(data, **options)
    remarks = _remarks("train", train)
    held_out: Images | Stream | None = None
    if share:
        if not isinstance(train, Images):
            raise DataError(f"{data} is a stream: no share can be held out; give held-out images with --val")
        total = len(train)
        train, held_out = hold_out(train, share, seed=seed)
        remarks.append(
            f"held out {len(held_out):,} of {total:,} training images: {share:g} of each class, seed {seed}"
        )
    if not measured or val == NONE:
        return Splits(train, None, tuple(remarks))
    if isinstance(train, Stream) and not streams:
        remarks.append(f"{data} is a stream, whose images have no index: kNN, matching and IoU are n/a")
        return Splits(train, None, tuple(remarks))
    if held_out is None:
        held_out = _open_val(data, val, options)
        held_out = renumber(held_out, train.tree, val or f"the val split of {data}")
        _check_pixels(train, held_out, val or f"the val split of {data}")
        remarks += _remarks("val", held_out)
    held_out.bad = train.bad  # One list of all unreadable images, which the run checks.
    return Splits(train, held_out, tuple(remarks))


def _check_pixels(train: Images | Stream, held_out: Images | Stream, title: str) -> None:
    """Refuse held-out label maps in which a class has another number: its pixels would count as another's.

    Raises:
        DataError: naming such classes.
    """
    if not (isinstance(train, Images) and isinstance(held_out, Images)):
        return
    trees = train.pixel_tree, held_out.pixel_tree
    if not all(tree.levels and tree.names for tree in trees):
        return
    numbers, own = (
        {name: number for number, name in enumerate(tree.names[0]) if not name.isdecimal()} for tree in trees
    )
    if moved := [name for name in numbers if own.get(name, numbers[name]) != numbers[name]]:
        raise DataError(
            f"{title}: {_classes(moved)} of pixels have other numbers than in the training images:"
            f" {_some(moved)}; list the classes in the same order for both"
        )


def _open_val(data: str, val: str | None, options: dict[str, Any]) -> Images | Stream:
    try:
        return open_images(val or data, split="val", **options)
    except NoSplit as error:
        if val is None or val == data:
            raise NoSplit(
                f"{error}; results are measured on held-out images: give them with --val DATA, hold out a"
                " share of the training images with --val-share 0.1, or measure nothing with --val none"
            ) from None
    return open_images(val, **options)


def _remarks(split: str, images: Images | Stream) -> list[str]:
    """Sentences about what is left out, for the process that prints; the others skip the check."""
    return [f"{split}: {sentence}" for sentence in left_out(images)] if distributed.is_main() else []


def hold_out(images: Images, share: float, *, seed: int = 0) -> tuple[Images, Images]:
    """Two parts of a data set: the rest, and a share of the images of each class.

    Images of one label path are a class; so are those without labels, and all with many labels.  The draw
    depends on the seed and the rows in the source alone.

    Args:
        images: of any label tree.
        share: in (0, 1), of each class to the nearest image, and of a class of two images or more at least
            one and never all.
        seed: non-negative.

    Raises:
        DataError: if the share or the seed is out of range, or either part would have no image.
    """
    if not 0 < share < 1 or seed < 0:
        raise DataError(f"share {share} and seed {seed}: expected a share between 0 and 1 and a seed from 0")
    word = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    order = np.argsort(hash_index(images.rows, word), kind="stable")
    groups = images.label_paths()[1].numpy()[order]
    drawn = np.zeros(len(images), dtype=bool)
    for group in np.unique(groups):
        members = order[groups == group]
        drawn[members[: min(max(round(share * len(members)), 1), len(members) - 1)]] = True
    if not drawn.any():
        raise DataError(f"a share of {share:g} of {len(images)} images holds out none: no class has two")
    return images.take(np.flatnonzero(~drawn).tolist()), images.take(np.flatnonzero(drawn).tolist())


def renumber(held_out: Images | Stream, tree: LabelTree, title: str) -> Images | Stream:
    """Held-out images with labels by the classes of the training images.

    Of many labels per image, a class that the held-out images do not know is unknown in all of them, which
    becomes one of their remarks.

    Args:
        held_out: with a tree that may differ.
        tree: of the training images.
        title: the held-out images, for messages.

    Raises:
        DataError: if they have classes or levels that the training images lack, or the classes have no names
            to compare.
    """
    old = held_out.tree
    if old == tree or not old.levels or not tree.levels:
        return held_out
    named = old.levels == tree.levels and bool(old.names and tree.names)
    if not named or old.exclusive != tree.exclusive or isinstance(held_out, Stream):
        raise DataError(
            f"{title}: {old.sizes} classes per level, but the training images have {tree.sizes}, or classes"
            " of other names; both need the same classes"
        )
    if not tree.exclusive:
        return _renumber_many(held_out, tree, title)
    missing, columns = list[str](), []
    for labels, old_paths, paths in zip(held_out.targets.T, old.named(), tree.named(), strict=True):
        numbers = {path: number for number, path in enumerate(paths)}
        used = {old_paths[label] for label in labels.tolist() if label >= 0}
        missing += ["/".join(path) for path in sorted(used - numbers.keys())]
        table = torch.tensor([*(numbers.get(path, -1) for path in old_paths), -1])
        columns.append(table[labels])  # A label of -1 is the last entry.
    if missing:
        raise DataError(f"{title}: {_classes(missing)} that the training images lack: {_some(missing)}")
    renumbered = held_out.take(range(len(held_out)))
    renumbered.targets, renumbered.tree = torch.stack(columns, dim=1), tree
    return renumbered


def _renumber_many(held_out: Images, tree: LabelTree, title: str) -> Images:
    """The same for images with many labels: each level's columns by the names of ``tree``."""
    columns, strange, unknown, begin = list[int](), list[str](), list[str](), 0
    for names, own in zip(tree.names, held_out.tree.names, strict=True):
        place = {name: column for column, name in enumerate(own, begin)}
        others = [name for name in own if name not in set(names)]
        strange += [name for name in others if bool((held_out.targets[:, place[name]] == 1).any())]
        unknown += [name for name in names if name not in place]
        columns += [place.get(name, -1) for name in names]
        begin += len(own)
    if strange:
        raise DataError(f"{title}: {_classes(strange)} that the training images lack: {_some(strange)}")
    renumbered = held_out.take(range(len(held_out)))
    # The last column, -1, is that of the unknown classes.
    wide = torch.cat([held_out.targets, held_out.targets.new_full((len(held_out), 1), -1)], dim=1)
    renumbered.targets, renumbered.tree = wide[:, columns], tree
    if unknown:
        remark = f"left out {_classes(unknown)} that these images do not know: {_some(unknown)}"
        renumbered.left_out = (*held_out.left_out, remark)
    return renumbered


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} classes"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
