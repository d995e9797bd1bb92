"""A trained segmentation model: the encoder, its head, and the names and colors of the classes."""

from __future__ import annotations

from typing import NamedTuple

import torch

from castssl.checkpoints.checkpoint import Checkpoint, described, difference
from castssl.checkpoints.load import Source, read
from castssl.checkpoints.native import Weights
from castssl.datasets.pixel_classes import Color
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.modes import kept_random_state
from castssl.objectives.segmentation import Segmentation, SegmentationModel

NAME = "segmentation"
"""Of the objective, in files."""
HEAD = "head."


class Segmenter(NamedTuple):
    """What segments images into classes, and what its images and its answers look like."""

    model: SegmentationModel
    """In evaluation mode."""
    labels: LabelTree
    """One level: the classes of pixels."""
    palette: tuple[Color, ...]
    """The RGB color of each class, 0 to 255; () if the data had none."""
    shorter: int
    """Pixels of an image's shorter side at evaluation; 0 for images at their own size."""
    longer: int = 0
    """Pixels of the longer side to which an image is resized with its superpixels; 0 leaves it."""


def segmenter_weights(
    objective: Segmentation,
    *,
    head: str,
    labels: LabelTree,
    palette: tuple[Color, ...] = (),
    shorter: int,
    longer: int = 0,
) -> Weights:
    """What :func:`load_segmenter` builds a trained objective from.

    Args:
        objective: with the weights.
        head: the name of its head.
        labels: the label tree that it was built with.
        palette: the RGB color of each class.
        shorter: as for :class:`Segmenter`.
        longer: likewise.
    """
    encoder, options = objective.encoder, {"head": head, "shorter": shorter, "longer": longer}

    def now() -> Checkpoint:
        heads = {HEAD + name: value for name, value in objective.model.head.state_dict().items()}
        state = dict(encoder.state_dict())
        return Checkpoint(encoder.config, state, heads, {}, NAME, options, labels, palette=palette)

    return Weights(now)


@kept_random_state()
def load_segmenter(source: Source) -> Segmenter:
    """A trained segmentation model, in evaluation mode.

    Args:
        source: as :func:`castssl.checkpoints.read`, such as the folder of a run of ``recipes/segment.py``.

    Raises:
        DataError: if there is no such file, it holds no head for segmentation, or its settings describe
            another one than its tensors.
    """
    checkpoint = read(source)
    labels, options = checkpoint.labels, checkpoint.options
    if checkpoint.objective != NAME or labels is None:
        what = f"the classifiers of {checkpoint.objective}" if checkpoint.objective else "an encoder"
        raise DataError(
            f"{checkpoint.source} holds {what} without a head for segmentation; recipes/segment.py --weights"
            f" {checkpoint.source} --data voc:/path trains one"
        )
    encoder = checkpoint.build()
    with described("segmentation model", checkpoint.source):
        head, shorter, classes = str(options["head"]), int(options["shorter"]), labels.sizes[0]
        longer = int(options.get("longer", 0))
        if labels.levels != 1 or (shorter < 1 and longer < 1) or len(checkpoint.palette) not in (0, classes):
            raise ValueError(f"{labels.levels} levels, {len(checkpoint.palette)} colors, {shorter} pixels")
        with torch.device("meta"):  # A stranger's numbers of classes could ask for any amount of memory.
            draft = SegmentationModel(create(checkpoint.config), head, classes).head.state_dict()
        if differ := difference({HEAD + name: value for name, value in draft.items()}, checkpoint.heads):
            raise ValueError(differ)
    model = SegmentationModel(encoder, head, classes)
    model.head.load_state_dict({n.removeprefix(HEAD): v for n, v in checkpoint.heads.items()})
    model.to(next(encoder.parameters()).dtype).eval()
    return Segmenter(model, labels, checkpoint.palette, shorter, longer)
