"""Mean intersection over union of the class maps that a model predicts for held-out images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch.nn import functional as F

from castssl.datasets.images import Images
from castssl.errors import ConfigError
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject
from castssl.evaluation.windows import Windows, class_logits
from castssl.labels import LabelTree
from castssl.metrics.iou import ClassMapScores, MeanIoU, scores
from castssl.metrics.partition import majority_labels
from castssl.objectives.segmentation import Segmentation


@dataclass(eq=False)
class ClassMaps(Evaluator):
    """``miou``, ``pixel_accuracy`` and ``class_accuracy`` (mmsegmentation's mIoU, aAcc and mAcc), in [0, 1].

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
    _metric: MeanIoU | None = field(default=None, init=False, repr=False)
    _bound: MeanIoU | None = field(default=None, init=False, repr=False)
    _bounded: bool = field(default=False, init=False, repr=False)
    _subject: Subject | None = field(default=None, init=False, repr=False)
    _baselines: dict[str, dict[str, float]] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Keep the data."""
        super().prepare(data)
        tree = data.held_out.pixel_tree if isinstance(data.held_out, Images) else LabelTree.none()
        self._metric, self._bound = (MeanIoU(tree.sizes[0]) if tree.levels else None for _ in range(2))

    def begin(self, subject: Subject) -> None:
        """Count anew.

        Raises:
            ConfigError: if the subject predicts no class maps, or those of another number of classes.
        """
        module, metric = subject.module, self._metric
        if not isinstance(module, Segmentation):
            raise ConfigError(f"mIoU needs the objective segmentation, got a {type(module).__name__}")
        if metric is not None and metric.classes != module.model.classes:
            raise ConfigError(
                f"{module.model.classes} classes were learned, but the held-out images have {metric.classes}"
            )
        self._subject = subject
        own = self.windows is not None and not self.windows.once
        self._bounded = subject.encoder.uses_superpixels and not own
        for each in (metric, self._bound):
            if each is not None:
                each.reset()
                each.to(self._data.device)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Count a batch."""
        if self._metric is None or self._bound is None:
            return
        assert self._subject is not None
        assert isinstance(self._subject.module, Segmentation)
        model, (view,) = self._subject.module.model, batch.views
        logits = class_logits(model, view, self._data.superpixels, self.windows, longer=self.longer)
        size = batch.target.shape[-2:]
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        self._metric.update(logits.argmax(1), batch.target)
        if self._bounded:
            segments = F.interpolate(view.segments[:, None].float(), size, mode="nearest-exact")[:, 0].long()
            # As for the model, a pixel without a superpixel has the first class.
            self._bound.update(majority_labels(segments, batch.target).clamp(min=0), batch.target)

    def result(self, subject: Subject) -> dict[str, float]:
        """The scores over all processes."""
        if self._metric is None or self._bound is None:
            return {}
        found = self._metric.compute()
        classes, pixels = len(found.pixels), found.pixels[:, None]
        constant = F.one_hot(pixels.argmax(), classes)
        self._baselines = {
            "bound": _by_name(self._bound.compute()) if self._bounded else {},
            "majority": _by_name(scores(pixels * constant)),
            "chance": _by_name(scores(pixels.expand(-1, classes) / classes)),
        }
        return _by_name(found)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Of the latest evaluation: ``bound``, ``majority`` (everywhere), ``chance`` (of each pixel).

        The bound has the most frequent true class of each superpixel, or patch of CAST's ViT; it is empty for
        encoders without superpixels, and for windows with superpixels of their own.
        """
        return self._baselines


def _by_name(found: ClassMapScores) -> dict[str, float]:
    """The scores by their names in results.json; those that nothing decides are left out."""
    named = {
        "miou": found.mean_iou,
        "pixel_accuracy": found.pixel_accuracy,
        "class_accuracy": found.class_accuracy,
    }
    return {name: float(score) for name, score in named.items() if not score.isnan()}
