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
from castssl.metrics.iou import MeanIoU
from castssl.objectives.segmentation import Segmentation


@dataclass(eq=False)
class ClassMaps(Evaluator):
    """``miou``, ``pixel_accuracy`` and ``class_accuracy`` (mmsegmentation's mIoU, aAcc and mAcc), in [0, 1].

    Logits are resized to the size of the label map, and the class with the largest one counts there.  Without
    label maps nothing is measured.

    Args:
        windows: None to show the model whole images.
    """

    by_index: ClassVar[bool] = True
    title: ClassVar[str] = "mIoU"
    windows: Windows | None = None
    _metric: MeanIoU | None = field(default=None, init=False, repr=False)
    _subject: Subject | None = field(default=None, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Keep the data."""
        super().prepare(data)
        tree = data.held_out.pixel_tree if isinstance(data.held_out, Images) else LabelTree.none()
        self._metric = MeanIoU(tree.sizes[0]) if tree.levels else None

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
        if metric is not None:
            metric.reset()
            metric.to(self._data.device)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Count a batch."""
        if self._metric is None:
            return
        assert self._subject is not None
        assert isinstance(self._subject.module, Segmentation)
        logits = class_logits(
            self._subject.module.model, batch.views[0], self._data.superpixels, self.windows
        )
        size = batch.target.shape[-2:]
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        self._metric.update(logits.argmax(1), batch.target)

    def result(self, subject: Subject) -> dict[str, float]:
        """The scores over all processes."""
        if self._metric is None:
            return {}
        found = self._metric.compute()
        scores = {
            "miou": found.mean_iou,
            "pixel_accuracy": found.pixel_accuracy,
            "class_accuracy": found.class_accuracy,
        }
        return {name: float(score) for name, score in scores.items() if not score.isnan()}
