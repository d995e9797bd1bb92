"""Whether images have the labels that an objective learns: checked before a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from castssl import distributed
from castssl.contracts import Objective
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.datasets.tree_checks import shared_names
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.objectives.classification import Supervised
from castssl.objectives.probe import LinearProbe


def check_labels(
    objective: Objective, train: Images | Stream, held_out: Images | Stream | None = None
) -> None:
    """Refuse images without a single label that the objective learns, and print how many labels are missing
    and which names several classes have.

    The labels of a stream are known only once they are read; :meth:`castssl.training.run.Run.steps` refuses
    a first epoch without any.

    Args:
        objective: what is trained; nothing is checked if it learns neither label paths nor many labels.
        train: the training images.
        held_out: the held-out images.

    Raises:
        ConfigError: if the images have label paths and the objective learns many labels per image, or the
            other way round; if held-out images have other labels than the training images, of many.
        DataError: if no training image, or no held-out image, has a label at a level that is learned.
    """
    if objective.target not in ("path", "multihot"):
        return
    for name, images in (("training", train), ("held-out", held_out)):
        if images is None:
            continue
        _check_kind(objective, images.tree, name)
        if objective.target == "multihot":
            _check_many(images, train.tree, name)
        elif isinstance(images, Images):
            _check_paths(objective, images, name)


def _check_kind(objective: Objective, tree: LabelTree, name: str) -> None:
    """Refuse one label path an image where many labels are learned, and the other way round."""
    many = tree.levels > 0 and not tree.exclusive
    if many == (objective.target == "multihot"):
        return
    kind = type(objective).__name__
    if many:
        raise ConfigError(
            f"{kind} learns one class an image, but the {name} images carry many labels each, of"
            f" {sum(tree.sizes)}; take an objective of target multihot, or other data"
        )
    found = f"one class each (label levels: {tree.levels})" if tree.levels else "no labels"
    raise ConfigError(
        f"{kind} learns many labels per image, but the {name} images have {found}; take data of many labels,"
        " whose data set has the target multihot, or an objective that learns one class an image, as deit"
    )


def _check_many(images: Images | Stream, learned: LabelTree, name: str) -> None:
    """Refuse other labels than those that are learned, or none at all; print how many are never known."""
    if images.tree.sizes != learned.sizes:
        raise ConfigError(
            f"the {name} images have {sum(images.tree.sizes)} labels in levels of {images.tree.sizes}, but"
            f" the training images {sum(learned.sizes)} in levels of {learned.sizes}; take both from one data"
            " set"
        )
    if not isinstance(images, Images):
        return
    known = (images.targets >= 0).any(0)
    if not known.any():
        raise DataError(
            f"none of the {len(images):,} {name} images has a known label: all are -1, which means unknown;"
            " expected 1 or 0 for some of them at least; label them, or take other data"
        )
    if count := int((~known).sum()):
        _note(
            f"{count:,} of {len(known):,} labels are unknown in all {len(images):,} {name} images: they are"
            " left out of what is learned and measured"
        )


def _check_paths(objective: Objective, images: Images, name: str) -> None:
    """Refuse levels without any label; print how many labels are missing."""
    if name == "training":
        for sentence in shared_names(images.tree):
            _note(f"{sentence}; if these are one class, give it the same parent in all labels")
    columns: Sequence[int] = range(images.tree.levels)
    if isinstance(objective, Supervised | LinearProbe):
        columns = objective.columns
    missing = (images.targets[:, list(columns)] < 0).sum(0).tolist()
    if min(missing) == len(images):
        raise DataError(
            f"none of the {len(images):,} {name} images has a label at level"
            f" {', '.join(map(str, columns))}: all are -1, which means unknown; expected a label for some"
            " of them at least; label them, or take other data"
        )
    for column, count in zip(columns, missing, strict=True):
        if count:
            _note(
                f"{count:,} of {len(images):,} {name} images have no label at level {column}: no"
                " label of theirs is learned or measured there"
            )


def _note(sentence: str) -> None:
    if distributed.is_main():
        print(sentence, file=sys.stderr)
