"""A trained model of many labels per image: the encoder, its head, and the names of the labels."""

from __future__ import annotations

from typing import Any, NamedTuple

from castssl.checkpoints.checkpoint import Checkpoint
from castssl.checkpoints.classifier import rebuild
from castssl.checkpoints.load import Source, read
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.modes import kept_random_state
from castssl.objectives.averaged import Averaged

TRAINS = "recipes/multilabel.py trains one"
"""The next step where there is no such model."""


class LabelModel(NamedTuple):
    """What scores the labels of an image, and what its images look like."""

    objective: Averaged[Any]
    """In evaluation mode; ``predict`` gives the logits of the levels of ``labels``."""
    labels: LabelTree
    superpixels: str
    """Spec of the backend that it was trained with."""
    image_size: int
    """Side of its views in pixels."""


def has_many_labels(checkpoint: Checkpoint) -> bool:
    """True for what was trained on data of many labels per image."""
    return checkpoint.labels is not None and not checkpoint.labels.exclusive


@kept_random_state()
def load_many_labels(source: Source) -> LabelModel:
    """A trained model of many labels, in evaluation mode; no text encoder is read.

    Args:
        source: as :func:`castssl.checkpoints.read`, such as the folder of a run of ``recipes/multilabel.py``.

    Raises:
        DataError: if there is no such file, or it holds no model of many labels.
        UnknownPlugin: if the plugin of its objective is not installed.
    """
    checkpoint = read(source)
    if checkpoint.labels is None or not has_many_labels(checkpoint) or not checkpoint.objective:
        raise DataError(f"{checkpoint.source} holds no model of many labels per image; {TRAINS}")
    objective = rebuild(checkpoint, checkpoint.labels, checkpoint.objective, Averaged)
    config = checkpoint.config
    return LabelModel(objective, checkpoint.labels, config.superpixels, config.image_size)
