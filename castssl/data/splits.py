"""The two splits that a run works with: images to train on, and held-out images to measure on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from castssl import ranks
from castssl.datasets.damage import left_out
from castssl.datasets.images import Images, hash_index
from castssl.datasets.open import open_images
from castssl.datasets.stream import Stream
from castssl.errors import DataError, NoSplit
from castssl.types import LabelTree

NONE = "none"
"""The name of held-out data that asks for none."""
SHOWN = 5
"""So many unknown classes are named."""


class Splits(NamedTuple):
    """What :func:`open_splits` opens."""

    train: Images | Stream
    held_out: Images | Stream | None
    """Its labels are numbered by the classes of ``train``; None if nothing is to be measured."""
    remarks: tuple[str, ...]
    """Sentences for the user: what is held out, and what is left out of both."""


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
) -> Splits:
    """Training images and held-out images.

    Args:
        data: a name of data as :func:`castssl.datasets.open.open_images` takes it.
        val: the name of the held-out data, whose val split is taken if it has one, else all of it;
            "none": nothing is measured; by default the val split of ``data``.
        share: hold out this share of the training images of each class instead, drawn by ``seed``.
        seed: non-negative.
        subset: only these classes, of both.
        measured: False opens no held-out images, but takes the share out of the training images.
        streams: False if what is measured needs images by index, so that a stream has no held-out images.
        commands: see :func:`castssl.datasets.open.open_images`.

    Raises:
        DataError: if there are no held-out images, they have classes that the training images lack, or the
            data cannot be opened.
    """
    train = open_images(data, subset=subset, commands=commands)
    remarks = _left_out("train", train)
    held_out: Images | Stream | None = None
    if share:
        if not isinstance(train, Images):
            raise DataError(f"{data} is a stream: no share can be held out; give held-out images with --val")
        whole = len(train)
        train, held_out = hold_out(train, share, seed=seed)
        remarks.append(
            f"held out {len(held_out):,} of {whole:,} training images: {share:g} of each class, seed {seed}"
        )
    if not measured or val == NONE:
        return Splits(train, None, tuple(remarks))
    if isinstance(train, Stream) and not streams:
        remarks.append(f"{data} is a stream, whose images have no index: kNN, matching and IoU are n/a")
        return Splits(train, None, tuple(remarks))
    if held_out is None:
        held_out = _open_val(data, val, subset, commands)
        remarks += _left_out("val", held_out)
        held_out = numbered(held_out, train.tree, val or f"the val split of {data}")
    held_out.bad = train.bad  # One list of all unreadable images, which the run looks at.
    return Splits(train, held_out, tuple(remarks))


def _open_val(data: str, val: str | None, subset: str | None, commands: bool) -> Images | Stream:
    try:
        return open_images(val or data, split="val", subset=subset, commands=commands)
    except NoSplit as error:
        if val is None or val == data:
            raise NoSplit(
                f"{error}; results are measured on held-out images: give them with --val DATA, hold out a"
                " share of the training images with --val-share 0.1, or measure nothing with --val none"
            ) from None
    return open_images(val, subset=subset, commands=commands)


def _left_out(split: str, images: Images | Stream) -> list[str]:
    """Sentences for the process that prints; the others need not look."""
    return [f"{split}: {sentence}" for sentence in left_out(images)] if ranks.is_main() else []


def hold_out(images: Images, share: float, *, seed: int = 0) -> tuple[Images, Images]:
    """Two parts of a data set: the rest, and a share of the images of each class.

    Images of one label path are a class; so are those without labels.  Which images are drawn depends on the
    seed and their rows in the source alone.

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
    groups = torch.zeros(len(images), dtype=torch.int64)
    if images.tree.levels:
        groups = torch.unique(images.targets, dim=0, return_inverse=True)[1]
    number = groups.numpy()[order]
    drawn = np.zeros(len(images), dtype=bool)
    for group in np.unique(number):
        members = order[number == group]
        drawn[members[: min(max(round(share * len(members)), 1), len(members) - 1)]] = True
    if not drawn.any():
        raise DataError(f"a share of {share:g} of {len(images)} images holds out none: no class has two")
    return images.take(np.flatnonzero(~drawn).tolist()), images.take(np.flatnonzero(drawn).tolist())


def numbered(held_out: Images | Stream, tree: LabelTree, called: str) -> Images | Stream:
    """Held-out images with labels by the classes of the training images.

    Args:
        held_out: with classes of their own.
        tree: of the training images.
        called: what to call the held-out images in a message.

    Raises:
        DataError: if they have classes or levels that the training images lack, or the classes have no names
            to compare.
    """
    own = held_out.tree
    if own == tree or not own.levels or not tree.levels:
        return held_out
    if own.levels != tree.levels or not own.names or not tree.names or isinstance(held_out, Stream):
        raise DataError(
            f"{called}: {own.sizes} classes a level, but the training images have {tree.sizes}, or classes of"
            " other names; both need the same classes"
        )
    missing, columns = list[str](), []
    for level, paths in enumerate(own.named()):
        known = {path: number for number, path in enumerate(tree.named()[level])}
        used = held_out.targets[:, level]
        labels = sorted(set(used.tolist()) - {-1})
        missing += ["/".join(paths[label]) for label in labels if paths[label] not in known]
        table = torch.tensor([*(known.get(path, -1) for path in paths), -1])
        columns.append(table[used])  # A label of -1 is the last entry.
    if missing:
        raise DataError(
            f"{called}: {len(missing)} classes that the training images lack: {', '.join(missing[:SHOWN])}"
            + (", ..." if len(missing) > SHOWN else "")
        )
    found = held_out.take(range(len(held_out)))
    found.targets, found.tree = torch.stack(columns, dim=1), tree
    return found
