"""Scores of the class maps that a model predicts for held-out images: mIoU, boundary F-score and IoU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.datasets.images import Images
from castssl.datasets.label_maps import UNKNOWN
from castssl.errors import ConfigError
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject, indexed
from castssl.evaluation.windows import Windows, class_logits, classes_at
from castssl.labels import LabelTree
from castssl.metrics.boundary import BoundaryF, BoundaryIoU, BoundaryScores
from castssl.metrics.iou import ClassMapScores, MeanIoU, scores
from castssl.metrics.partition import majority_labels
from castssl.objectives.segmentation import Segmentation

BOUNDARY = ("boundary_f", "boundary_f_pooled", "boundary_f_any", "boundary_f_any_pooled")
"""The first scores of :class:`castssl.metrics.boundary.BoundaryScores` by their names in results.json."""


class ScoredMaps:
    """All metrics of the class maps of one predictor.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        # The label maps are read already: 255 is a class where there are more than 255, and unknown is -1.
        self.overlap = MeanIoU(classes, UNKNOWN)
        self.boundary = BoundaryF(classes, ignore_index=UNKNOWN)
        self.band = BoundaryIoU(classes, ignore_index=UNKNOWN)

    def reset(self, device: torch.device | str) -> None:
        """Count anew, on a device."""
        for metric in (self.overlap, self.boundary, self.band):
            metric.reset()
            metric.to(device)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count a batch (B, H, W); see :meth:`castssl.metrics.boundary.BoundaryF.update`."""
        for metric in (self.overlap, self.boundary, self.band):
            metric.update(predicted, truth)

    def compute(self) -> tuple[ClassMapScores, BoundaryScores, dict[str, float]]:
        """The scores over all processes, and those of results.json by name."""
        overlap: ClassMapScores = self.overlap.compute()
        boundary: BoundaryScores = self.boundary.compute()
        named = dict(zip(BOUNDARY, boundary[: len(BOUNDARY)], strict=True))
        named |= {"boundary_iou": self.band.compute().nanmean(), "boundary_tolerance_px": boundary.tolerance}
        return overlap, boundary, _by_name(overlap, named)


@dataclass(eq=False)
class ClassMaps(Evaluator):
    """mIoU and boundary scores of class maps, by the names in results.json; shares in [0, 1].

    - ``miou``, ``pixel_accuracy``, ``class_accuracy``: mmsegmentation's mIoU, aAcc and mAcc.
    - ``boundary_f``, ``boundary_f_pooled``, ``boundary_f_any``, ``boundary_f_any_pooled``: class by class and
      of any change of the label, as the mean over images and pooled; see :mod:`castssl.metrics.boundary`.
    - ``boundary_iou``: the mean over classes.
    - ``boundary_tolerance_px``: that of ``boundary_f``, the mean over images in pixels of their label maps.

    Logits are resized to the size of the label map, and the class with the largest one counts there.  Without
    label maps nothing is measured.  :meth:`bound`, :meth:`chance` and :meth:`majority` are of the images of
    the last evaluation.

    Args:
        windows: None to show the model whole images.
        longer: resize the views, whose superpixels are known, to so many pixels of their longer side.
    """

    by_index: ClassVar[bool] = True
    title: ClassVar[str] = "mIoU"
    windows: Windows | None = None
    longer: int | None = None
    _scored: ScoredMaps | None = field(default=None, init=False, repr=False)
    _bound: ScoredMaps | None = field(default=None, init=False, repr=False)
    _bounded: bool = field(default=False, init=False, repr=False)
    _baselines: dict[str, dict[str, float]] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Keep the data.

        Raises:
            ConfigError: if the pixels have one class, which is always right.
        """
        super().prepare(data)
        tree = data.held_out.pixel_tree if isinstance(data.held_out, Images) else LabelTree.none()
        if tree.levels and tree.sizes[0] < 2:
            raise ConfigError(
                "mIoU needs at least 2 classes of pixels, got 1, which is always right; make the background a"
                " class of its own"
            )
        self._scored, self._bound = (ScoredMaps(tree.sizes[0]) if tree.levels else None for _ in range(2))

    def begin(self, subject: Subject) -> None:
        """Count anew.

        Raises:
            ConfigError: if the subject predicts no class maps, or those of another number of classes.
        """
        module, scored = subject.module, self._scored
        if not isinstance(module, Segmentation):
            raise ConfigError(f"mIoU needs the objective segmentation, got a {type(module).__name__}")
        if scored is not None and scored.classes != module.model.classes:
            raise ConfigError(
                f"{module.model.classes} classes were learned, but the held-out images have {scored.classes}"
            )
        own = self.windows is not None and not self.windows.once
        self.restart(bounded=subject.encoder.uses_superpixels and not own)

    def restart(self, *, bounded: bool) -> None:
        """Count anew; ``bounded``: also the bound of segments."""
        self._bounded = bounded
        for each in (self._scored, self._bound):
            if each is not None:
                each.reset(self._data.device)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Count the images of a batch that could be read; others are in the place of those that could not."""
        images = indexed(self._data.held_out)
        rows = batch.readable(images, range(len(images)))
        if self._scored is None or self._bound is None or not rows:
            return
        predicted, segments = self.predict(batch, forward.subject)
        target = batch.target[rows]
        self._scored.update(predicted[rows], target)
        if self._bounded:
            segments = at_size(segments[rows], target)
            # As for the model, a pixel without a superpixel has the first class.
            self._bound.update(majority_labels(segments, target).clamp(min=0), target)

    def predict(self, batch: ImageBatch, subject: Subject) -> tuple[Tensor, Tensor]:
        """The classes int64 (B, H, W) at the size of the label maps, and the segments of the bound."""
        assert isinstance(subject.module, Segmentation)
        model, (view,) = subject.module.model, batch.views
        logits = class_logits(model, view, self._data.superpixels, self.windows, longer=self.longer)
        height, width = batch.target.shape[-2:]
        return classes_at(logits, (height, width)), view.segments

    def result(self, subject: Subject) -> dict[str, float]:
        """The scores over all processes."""
        if self._scored is None or self._bound is None:
            return {}
        found, boundary, named = self._scored.compute()
        classes, pixels = len(found.pixels), found.pixels[:, None]
        constant = F.one_hot(pixels.argmax(), classes)
        # A constant map has no boundary: F is 0 where the truth has one, and undefined elsewhere.
        without = dict.fromkeys(BOUNDARY, torch.tensor(0.0)) if boundary.points.any() else {}
        self._baselines = {
            "bound": self._bound.compute()[2] if self._bounded else {},
            "majority": _by_name(scores(pixels * constant), without),
            "chance": _by_name(scores(pixels.expand(-1, classes) / classes), {}),
        }
        return named

    def baselines(self) -> dict[str, dict[str, float]]:
        """Of the latest evaluation: ``bound``, ``majority`` (everywhere), ``chance`` (of each pixel).

        The majority's boundary F is 0, since a constant map has no boundary; chance has none.

        The bound has the most frequent true class of each superpixel, or patch of CAST's ViT; it is empty for
        encoders without superpixels, and for windows with superpixels of their own.
        """
        return self._baselines


def at_size(labels: Tensor, like: Tensor) -> Tensor:
    """Labels int (B, H, W) at the height and width of another map, by nearest: int64."""
    if labels.shape[1:] == like.shape[1:]:
        return labels.long()
    size = (like.shape[1], like.shape[2])
    resized: Tensor = F.interpolate(labels[:, None].double(), size, mode="nearest-exact")
    return resized[:, 0].long()


def _by_name(found: ClassMapScores, boundary: Mapping[str, Tensor]) -> dict[str, float]:
    """The scores by their names in results.json; those that nothing decides are left out."""
    named = {
        "miou": found.mean_iou,
        "pixel_accuracy": found.pixel_accuracy,
        "class_accuracy": found.class_accuracy,
        **boundary,
    }
    return {name: float(score) for name, score in named.items() if not score.isnan()}
