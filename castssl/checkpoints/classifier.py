"""A trained classifier of label levels: the encoder, its heads, and the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from castssl.checkpoints.checkpoint import Checkpoint, described, difference
from castssl.checkpoints.load import Source, read
from castssl.checkpoints.native import Weights
from castssl.checkpoints.official_model import adapt, classifiers
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.modes import kept_random_state
from castssl.objectives.averaged import A, Averaged, Branch
from castssl.objectives.classification import Supervised
from castssl.objectives.probe import LinearProbe
from castssl.registry import build, load, parse, values

PROBE = "probe"
"""The objective of a linear probe, whose classifier is that of ``deit``."""
SIDE = "image_size"
"""The option of a probe that is the side of its crops."""
TRAINS = "recipes/deit_in1k.py, hcast.py and probe_in1k.py train one"
"""The next step where there is no classifier."""


class Classifier(NamedTuple):
    """What classifies images, and what its images and its answers look like."""

    objective: Supervised
    """In evaluation mode; ``predict`` gives the logits of the levels ``objective.columns`` of ``labels``."""
    labels: LabelTree
    superpixels: str
    """Spec of the backend that it was trained with."""
    image_size: int
    """Side of its training crops in pixels."""
    known: bool = True
    """False if ``labels`` are mere numbers whose parents are made up: a published file holds no tree."""
    interpolation: str = "bicubic"
    """Of the center view on which its recipe evaluates it."""


def save_classifier(
    objective: Averaged[Any],
    path: str | Path,
    *,
    spec: str,
    labels: LabelTree,
    options: Mapping[str, Any] | None = None,
    branch: Branch = "base",
) -> Path:
    """Write :func:`classifier_weights` into a ``.safetensors`` file; only the main rank writes.

    Raises:
        ConfigError: if no average is kept and ``branch`` asks for it.
        CastError: if the file cannot be written.
    """
    weights = classifier_weights(objective, spec=spec, labels=labels, options=options, branch=branch)
    return weights.write(path)


def classifier_weights(
    objective: Averaged[Any],
    *,
    spec: str,
    labels: LabelTree,
    options: Mapping[str, Any] | None = None,
    branch: Branch = "base",
) -> Weights:
    """What :func:`load_classifier` builds a trained objective from.

    Args:
        objective: any that learns classes or many labels.
        spec: what the objective was built from, such as ``tree-kl`` or ``tree-kl:weight=0.5``.
        labels: the label tree it was built with.
        options: further options that it was built with; plain values, since they become JSON.
        branch: the weights themselves, or their average.

    Raises:
        ConfigError: if no average is kept and ``branch`` asks for it.
    """
    name, _ = parsed = parse(spec)
    merged = {**values(load("objectives", name), parsed), **(options or {}), **objective.to_load}
    objective.branch(branch)  # Refuses one that there is not.

    def now() -> Checkpoint:
        encoder = objective.branch(branch)
        state = dict(encoder.state_dict())
        return Checkpoint(encoder.config, state, objective.heads(branch), {}, name, merged, labels)

    return Weights(now)


def probe_weights(
    probe: LinearProbe,
    *,
    superpixels: str,
    image_size: int,
    labels: LabelTree,
    level: int = -1,
) -> Weights:
    """A linear probe and its encoder for :func:`load_classifier`.

    Args:
        probe: in training.
        superpixels: the spec of the backend that it was trained with.
        image_size: side of its crops in pixels.
        labels: the label tree it was built with.
        level: the label level it was built with.
    """
    config = replace(probe.encoder.config, superpixels=superpixels)
    options = {"level": level, SIDE: image_size}  # The encoder keeps the position table of another size.

    def now() -> Checkpoint:
        heads = {f"head.{name}": value for name, value in probe.model.head.state_dict().items()}
        return Checkpoint(config, dict(probe.encoder.state_dict()), heads, {}, PROBE, options, labels)

    return Weights(now)


@kept_random_state()
def load_classifier(
    source: Source, *, labels: LabelTree | None = None, sizes: Sequence[int] | None = None
) -> Classifier:
    """A trained classifier, in evaluation mode.

    Args:
        source: as :func:`castssl.checkpoints.read`: the folder of a run, a published DeiT or H-CAST
            checkpoint, ...
        labels: the classes' names and parents in place of those in the file; a published file has none.
        sizes: token budgets of a published model, which its file does not hold.

    Returns:
        Of a published checkpoint a :class:`castssl.objectives.tree_kl.TreeKL` (H-CAST) or a
        :class:`castssl.objectives.deit.DeiT`.  Its encoder has the published padding, where empty tokens take
        part: it predicts what the released code does where an image has as many superpixels as
        ``encoder.sizes`` says, as SEEDS on 224 pixels have.

    Raises:
        DataError: if there is no such file, it holds no classifier, or ``labels`` have other classes.
    """
    checkpoint = read(source)
    if sizes is not None:
        if not checkpoint.variant:
            stored = checkpoint.config.sizes
            raise DataError(f"{checkpoint.source} holds its sizes, {stored}; leave sizes out")
        checkpoint = adapt(checkpoint, None, None, sizes)
    linear_heads = classifiers(checkpoint)
    if checkpoint.objective == "segmentation":
        raise DataError(
            f"{checkpoint.source} holds a segmentation model, which classifies pixels, not images; castssl"
            " segment --classes uses it"
        )
    if not checkpoint.objective or not (checkpoint.labels or linear_heads):
        what = f"is a {checkpoint.variant}" if checkpoint.variant else "holds an encoder"
        raise DataError(f"{checkpoint.source} {what} without a classifier of images; {TRAINS}")
    if checkpoint.labels is not None and not checkpoint.labels.exclusive:
        raise DataError(
            f"{checkpoint.source} gives many labels per image, not one path of classes; `castssl predict`"
            " names them, and so does castssl.inference.many_labels.LabelPredictor"
        )
    saved = checkpoint.labels or _numbered([head.out_features for head in reversed(linear_heads)])
    kind = checkpoint.objective if checkpoint.objective != PROBE else "deit"
    objective = rebuild(checkpoint, saved, kind, Supervised)
    side = _side(checkpoint)
    known = checkpoint.labels is not None or labels is not None or saved.levels == 1
    view = "bilinear" if checkpoint.objective == PROBE else "bicubic"
    spec = checkpoint.config.superpixels
    return Classifier(objective, _renamed(saved, labels), spec, side, known, view)


def rebuild(checkpoint: Checkpoint, labels: LabelTree, kind: str, base: type[A]) -> A:
    """The objective that a checkpoint holds, with its weights and in evaluation mode.

    Args:
        checkpoint: of :func:`save_classifier`, or a published one.
        labels: the label tree that it was built with.
        kind: its name in the registry.
        base: what it has to be.

    Raises:
        DataError: if the settings describe no such objective, or another one than the tensors are of.
        CastError: if it cannot be built.
    """
    # The average would be a second copy that nothing needs; a store would be written where a stranger likes.
    left_out = ("ema", "store", SIDE)
    options = {key: value for key, value in checkpoint.options.items() if key not in left_out}
    encoder = checkpoint.build()
    # A stranger's numbers of classes could ask for any amount of memory.
    with described("classifier", checkpoint.source), torch.device("meta"):
        draft = build("objectives", kind, create(checkpoint.config), labels, **options)
    if not isinstance(draft, base):
        raise DataError(f"{checkpoint.source} holds {kind}, which learns no classes; {TRAINS}")
    check_heads(draft, checkpoint.heads)
    objective = build("objectives", kind, encoder, labels, **options)
    assert isinstance(objective, base)
    if any(value.dtype == torch.float64 for value in checkpoint.encoder.values()):
        objective.double()
    objective.branch("base").load_state_dict(checkpoint.encoder)
    take_heads(objective, checkpoint.heads)
    return objective.eval()


def check_heads(objective: Averaged[Any], heads: Mapping[str, Tensor]) -> None:
    """Nothing, if tensors have the names and shapes of ``objective.heads()``.

    Raises:
        DataError: if names or shapes differ; the message has the first of them.
    """
    if differ := difference(dict(sorted(objective.heads().items())), heads):
        of = f" of {objective.classes} classes" if isinstance(objective, Supervised) else ""
        raise DataError(f"these classifiers do not fit a {type(objective).__name__}{of}: {differ}")


def take_heads(objective: Averaged[Any], heads: Mapping[str, Tensor]) -> None:
    """Fill all that is trained beside the encoder, from tensors named as ``objective.heads()`` names them.

    Raises:
        DataError: as :func:`check_heads`.
    """
    check_heads(objective, heads)
    objective.model.load_state_dict(dict(heads), strict=False)


def _side(checkpoint: Checkpoint) -> int:
    """The side of the training crops in pixels."""
    with described("classifier", checkpoint.source):
        return int(checkpoint.options.get(SIDE, checkpoint.config.image_size))


def _numbered(sizes: Sequence[int]) -> LabelTree:
    """Classes named by their numbers; their parents are made up where there are several levels."""
    names = tuple(tuple(map(str, range(size))) for size in sizes)
    parents = tuple(tuple(min(i, coarse - 1) for i in range(fine)) for coarse, fine in pairwise(sizes))
    return LabelTree(tuple(sizes), parents, names)


def _renamed(saved: LabelTree, labels: LabelTree | None) -> LabelTree:
    """The caller's tree if it has the same classes, else the file's."""
    if labels is None:
        return saved
    if labels.sizes != saved.sizes:
        raise DataError(
            f"the weights classify {saved.sizes} classes, coarse to fine, but the label tree has"
            f" {labels.sizes}; give the tree of the data that they were trained on"
        )
    return labels
