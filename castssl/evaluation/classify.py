"""How often an objective names the right class of images that it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy

from castssl.contracts import Objective
from castssl.errors import ConfigError
from castssl.evaluation.held_out import HeldOut
from castssl.evaluation.neighbours import Device
from castssl.metrics.balanced import BalancedAccuracy, majority
from castssl.modes import evaluating

TOP = (1, 5)


@dataclass
class Recognition(HeldOut):
    """Accuracy among the first one and the first five classes; every rank must sit it together.

    It does not depend on the number of ranks: each image is looked at once.  Images without a label at the
    level do not count.

    Args:
        images: see :class:`castssl.evaluation.held_out.HeldOut`; so are the next five.
        superpixels: likewise.
        image_size: likewise.
        interpolation: likewise.
        batch_size: likewise.
        workers: likewise.
        level: the label level that is asked for; -1 is the finest.
    """

    level: int = -1

    @property
    def classes(self) -> int:
        """How many classes there are to choose from; 0 if nothing is asked."""
        return self.tree.sizes[self.level] if self.tree.levels else 0

    @property
    def tops(self) -> tuple[int, ...]:
        """Among how many first classes the right one may be, where that is a question at all."""
        return tuple(top for top in TOP if top < self.classes)

    def sit(self, objective: Objective, device: Device, **options: Any) -> dict[str, float]:
        """``top1``, ``top5`` where there are more than five classes, and ``top1_balanced``, in [0, 1].

        Neither where no image has a label.

        Args:
            objective: its ``predict`` must give the logits of the level, alone.
            device: where it is.
            options: for ``predict``, such as ``branch="ema"``.

        Raises:
            ConfigError: if the objective was built for another number of classes than the images have.
        """
        if not self.tops:
            return {}
        meters = {
            f"top{top}": MulticlassAccuracy(
                self.classes, top_k=top, average="micro", ignore_index=-1, validate_args=False
            ).to(device)
            for top in self.tops
        }
        balanced = BalancedAccuracy(self.classes).to(device)
        labeled = SumMetric().to(device)
        with evaluating(objective), torch.no_grad():
            for batch in self.batches(device):
                (logits,) = objective.predict(batch.views[0], **options).values()
                if logits.shape[1] != self.classes:
                    raise ConfigError(
                        f"{logits.shape[1]} classes were learnt, but the held-out images have {self.classes};"
                        " train/ and val/ must have the same folders"
                    )
                target = batch.target[:, self.level]
                labeled.update((target >= 0).sum())
                balanced.update(logits.argmax(1), target)
                for meter in meters.values():
                    meter.update(logits.float(), target)
        # torchmetrics gives 0 for an accuracy over no image.
        counted = bool(labeled.compute())
        if not counted:
            return {}
        found = {name: float(meter.compute()) for name, meter in meters.items()}
        return found | {"top1_balanced": float(balanced.compute())}

    def by_chance(self) -> dict[str, float]:
        """The same marks for who guesses."""
        found = {f"top{top}": top / self.classes for top in self.tops}
        return found | ({"top1_balanced": 1 / self.classes} if found else {})

    def by_majority(self) -> dict[str, float]:
        """``top1`` of the most frequent class as a constant answer; nothing where labels are not known."""
        if not self.tops:
            return {}
        share = majority(self.labels()).get(self.level % self.tree.levels)
        return {} if share is None else {"top1": share}
