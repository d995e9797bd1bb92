"""Data sets by name: :func:`open_images`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from castssl.contracts import Listing
from castssl.datasets.depth import split_range
from castssl.datasets.images import Images
from castssl.datasets.multichannel import RGB
from castssl.datasets.split_folders import split_name
from castssl.datasets.stream import Stream
from castssl.datasets.subset import narrow, read_subset
from castssl.errors import DataError, NoSplit, UnknownPlugin
from castssl.labels import LabelTree
from castssl.registry import build, did_you_mean, names

SLASHED = ("wds", "hfds", "hfids", "tfds")
"""Data sets that may also have a slash behind their name, as in timm: ``hfds/NAME``."""


def open_images(
    spec: str, *, split: str = "train", subset: str | None = None, commands: bool = False, channels: int = 3
) -> Images | Stream:
    """The data set that ``spec`` names.

    Args:
        spec: ``NAME:LOCATION``, where NAME is a registered data set (``castssl list datasets``), such as
            ``folder:/path``, ``tar:/path.tar``, ``breeds:living17:/imagenet``, ``tree:/path/labels.csv`` or
            ``hfds/cifar100?input_key=img&target_key=fine_label``.  Behind any of them ``?range=LOW:HIGH`` or
            ``?bits=N`` declares the values of black and white in images of more than 8 bits, as in
            ``folder:/path?bits=12``; it takes precedence over the files.
        split: "train", "val" or "test".
        subset: "imagenet100", or a text file with one class name per line ("#" begins a comment): only
            these classes are kept and numbered.
        commands: run commands in ``spec`` itself, such as ``wds/NAME:pipe:cat a.tar``, and read their output;
            only ever from the user, as by ``--allow-commands``.
        channels: that the images have; 1 and 3 read RGB.

    Raises:
        DataError: if the spec is unknown, the path or split is missing, there are no images, a class of the
            subset is missing, the classes do not form a tree, or an optional package is not installed.
        PluginError: if the data set's plugin cannot be imported, or two have its name.
    """
    spec, declared = split_range(spec)
    kind, location = parse(spec)
    try:
        data = build("datasets", kind or "?")
    except UnknownPlugin:
        raise _unknown(spec, kind) from None
    data.commands = commands
    if data.location and not location:
        raise DataError(f"{kind} has no location: expected {kind}:{data.location}")
    only = None if subset is None else read_subset(subset)
    if only is not None and not data.indexed:
        raise DataError(
            f"{spec} is a stream: no subset {subset} can be picked from it; use folder: or hfds/ data"
        )
    if (split_name(split) or split) not in data.splits:
        raise NoSplit(f"{spec} has no {split} split with labels, expected {' or '.join(data.splits)}")
    opened = data.open(location, split)
    if not isinstance(opened, Listing):
        if channels not in RGB:
            raise DataError(
                f"{spec} is a stream, whose images are RGB: got {channels} channels, give folder:"
            )
        return Stream(opened, f"{kind}/{location.partition('?')[0]}", declared)
    source, targets, tree, masks, left_out, maps = opened
    rows = np.arange(len(targets), dtype=np.int64)
    if only is not None and (maps is not None or not tree.exclusive):
        raise DataError(
            f"{spec} has many classes per image: no subset {subset} of its images can be picked by class"
        )
    pixel_tree, tree = (tree, LabelTree.none()) if maps else (LabelTree.none(), tree)
    if only is not None:
        rows, targets, tree = narrow(targets, tree, only)
    images = Images(source, rows, targets, tree, masks=masks, declared=declared, left_out=left_out)
    return replace(images, maps=maps, pixel_tree=pixel_tree, channels=channels)


def parse(spec: str) -> tuple[str, str]:
    """The name that a data spec begins with, and the location behind it; "" if it names none."""
    kind, _, location = spec.partition(":")
    if "/" in kind and kind.partition("/")[0] in SLASHED:
        kind, _, location = spec.partition("/")
    return kind, location


def _unknown(spec: str, kind: str) -> DataError:
    registered = sorted({entry.name for entry in names("datasets")})
    hint = did_you_mean(kind, registered)
    if Path(spec).expanduser().exists():
        hint = f"; did you mean folder:{spec} ?"
    return DataError(
        f"unknown data {spec!r}{hint or ':'} expected NAME:LOCATION with one of these names:"
        f" {', '.join(registered)}; `castssl list datasets` describes them"
    )
