"""The images of a data set as counts and hashes, to compare two data sets without reading their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from castssl.datasets.images import Images
from castssl.datasets.stream import Stream

Inventory = Mapping[str, Any]
"""Plain values that a checkpoint can hold.

images: their number.  order: a hash of all names in order.  classes: for each label path its number of images
and a hash of their names.  texts: only of images with texts, a hash of these.  source: only of a stream,
whose images have no names, its spec.
"""
SHOWN = 5
"""The number of classes that a message lists."""


def inventory(images: Images | Stream) -> Inventory:
    """The inventory of a data set; names are relative to its root, so that a moved one has the same."""
    if not isinstance(images, Images):
        return {"images": len(images), "source": images.name}
    tree, (paths, rows) = images.tree, images.label_paths()
    names = [
        "/".join(tree.names[level][n] if tree.names else str(n) for level, n in enumerate(path) if n >= 0)
        for path in paths.tolist()
    ]
    labels = [names[row] for row in rows.tolist()]
    order = hashlib.sha256()
    classes: dict[str, list[Any]] = {label: [0, hashlib.sha256()] for label in sorted(set(labels))}
    for index, label in enumerate(labels):
        name = images.name(index).encode("utf-8", "surrogateescape") + b"\0"
        order.update(name)
        classes[label][0] += 1
        classes[label][1].update(name)
    hashed = {label: [count, names.hexdigest()[:16]] for label, (count, names) in classes.items()}
    texts = {"texts": images.texts.digest} if images.texts else {}
    return {"images": len(images), "order": order.hexdigest()[:16], "classes": hashed, **texts}


def differences(old: Inventory, new: Inventory) -> list[str]:
    """The differences between the data sets of two inventories, as sentences; empty if there are none."""
    # A run with texts that older code began has an inventory without them.
    texts = ["other texts of the images"] if "texts" in old and old["texts"] != new.get("texts") else []
    if {**old, "texts": None} == {**new, "texts": None}:
        return texts
    sentences = list[str]()
    if old["images"] != new["images"]:
        sentences.append(f"{old['images']} images then, {new['images']} now")
    if old.get("source") != new.get("source"):
        then, now = (one.get("source", "files with names") for one in (old, new))
        sentences.append(f"{then} then, {now} now")
    elif "classes" in old and "classes" in new:
        sentences += _compare(old["classes"], new["classes"])
    return (sentences or ["the same images in another order"]) + texts


def _compare(old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> list[str]:
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    sentences = []
    for name in changed[:SHOWN]:
        then, now = old.get(name, ["no"])[0], new.get(name, ["none"])[0]
        text = (
            f"{then} images then and now, of other names" if then == now else f"{then} images then, {now} now"
        )
        sentences.append(f"class {name!r}: {text}" if name else f"images without a label: {text}")
    more = len(changed) - SHOWN
    return sentences + ([f"and {more} more classes"] if more > 0 else [])
