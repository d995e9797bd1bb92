"""Which images a data set holds, as counts and hashes: enough to tell whether another one holds the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.types import LabelTree

Inventory = Mapping[str, Any]
"""Plain values that a checkpoint can hold.

images: how many there are.  order: a hash of all names in order.  classes: for each label path its number of
images and a hash of their names.  source: of a stream only, whose images have no names, its spec.
"""
SHOWN = 5
"""How many classes a message names."""


def inventory(images: Images | Stream) -> Inventory:
    """The inventory of a data set; names are relative to its root, so that a moved one has the same."""
    if not isinstance(images, Images):
        return {"images": len(images), "source": images.name}
    order = hashlib.sha256()
    counts: dict[int, int] = defaultdict(int)
    hashes: dict[int, Any] = defaultdict(hashlib.sha256)
    labels, which = _labels(images)
    for index, label in enumerate(which):
        name = images.name(index).encode("utf-8", "surrogateescape") + b"\0"
        order.update(name)
        hashes[label].update(name)
        counts[label] += 1
    classes = {labels[label]: [counts[label], hashes[label].hexdigest()[:16]] for label in sorted(counts)}
    return {"images": len(images), "order": order.hexdigest()[:16], "classes": classes}


def differences(old: Inventory, new: Inventory) -> list[str]:
    """What the data sets of two inventories differ in, in words; empty if they hold the same images."""
    if old == new:
        return []
    found = []
    if old["images"] != new["images"]:
        found.append(f"{old['images']} images then, {new['images']} now")
    if old.get("source") != new.get("source"):
        then, now = (each.get("source", "files with names") for each in (old, new))
        found.append(f"{then} then, {now} now")
    elif "classes" in old and "classes" in new:
        found += _classes(old["classes"], new["classes"])
    return found or ["the same images in another order"]


def _classes(old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> list[str]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        shown = f"class {name!r}" if name else "images without a label"
        then, now = old.get(name), new.get(name)
        if then is None or now is None:
            found.append(f"{shown}: {then[0] if then else 'no'} images then, {now[0] if now else 'none'} now")
        elif then[0] != now[0]:
            found.append(f"{shown}: {then[0]} images then, {now[0]} now")
        elif then != now:
            found.append(f"{shown}: {now[0]} images then and now, of other names")
    more = len(found) - SHOWN
    return found[:SHOWN] + ([f"and {more} more classes"] if more > 0 else [])


def _labels(images: Images) -> tuple[list[str], list[int]]:
    """The different label paths of a data set, and for each image the number of its own."""
    if images.targets is None or not images.tree.levels:
        return [""], [0] * len(images)
    paths, which = torch.unique(images.targets, dim=0, return_inverse=True)
    return [_path(images.tree, path) for path in paths.tolist()], which.tolist()


def _path(tree: LabelTree, path: list[int]) -> str:
    """The class names of a label path, coarse to fine, without its unknown end."""
    known = [(level, number) for level, number in enumerate(path) if number >= 0]
    return "/".join(tree.names[level][number] if tree.names else str(number) for level, number in known)
