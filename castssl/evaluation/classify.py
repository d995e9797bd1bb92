"""How often an objective names the right class of images that it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics.classification import MulticlassAccuracy

from castssl import ranks
from castssl.contracts import Objective, Superpixels
from castssl.data.augment import CenterView
from castssl.data.finish import finish
from castssl.data.images import Images, open_images
from castssl.data.loader import load
from castssl.data.readers import Stream
from castssl.errors import ConfigError, DataError
from castssl.evaluation.neighbours import Device
from castssl.modes import evaluating

TOP = (1, 5)


@dataclass
class Recognition:
    """Accuracy among the first one and the first five classes; every rank must sit it together.

    It does not depend on the number of ranks: each image is looked at once.

    Args:
        images: held-out images with labels; None: there are no marks.
        superpixels: what the encoder builds on.
        image_size: side in pixels.
        interpolation: of :class:`castssl.data.augment.CenterView`.
        level: the label level that is asked for; -1 is the finest.
        batch_size: images at a time and rank.
        workers: data-loading processes a rank.
    """

    images: Images | Stream | None
    superpixels: Superpixels
    image_size: int
    interpolation: str = "bicubic"
    level: int = -1
    batch_size: int = 64
    workers: int = 0

    @classmethod
    def on(cls, data: str, train: Images | Stream, *given: Any, **options: Any) -> Recognition:
        """One on the ``val`` split of a data set, or one without marks if it has none.

        Args:
            data: the spec that ``train`` was opened with.
            train: the training images; who has unreadable ones tells them.
            given: superpixels and image size.
            options: ``subset`` of :func:`castssl.data.images.open_images`, and fields of this class.
        """
        held_out = None
        try:
            held_out = open_images(data, split="val", subset=options.pop("subset", None))
            held_out.bad = train.bad
        except DataError:
            pass  # The exam beside it has told so.
        return cls(held_out, *given, **options)

    @property
    def classes(self) -> int:
        """How many classes there are to choose from; 0 if nothing is asked."""
        return self.images.tree.sizes[self.level] if self.images and self.images.tree.levels else 0

    @property
    def tops(self) -> tuple[int, ...]:
        """Among how many first classes the right one may be, where that is a question at all."""
        return tuple(top for top in TOP if top < self.classes)

    def sit(self, objective: Objective, device: Device, **options: Any) -> dict[str, float]:
        """``top1`` and ``top5``, each in [0, 1]; the second only where there are more than five classes.

        Args:
            objective: its ``predict`` must give the logits of the level, alone.
            device: where it is.
            options: for ``predict``, such as ``branch="ema"``.

        Raises:
            ConfigError: if the objective was built for another number of classes than the images have.
        """
        if self.images is None or not self.tops:
            return {}
        meters = {
            f"top{top}": MulticlassAccuracy(self.classes, top_k=top, average="micro").to(device)
            for top in self.tops
        }
        with evaluating(objective), torch.no_grad():
            for raw in self._loader(self.images):
                batch = finish(raw, self.superpixels, device)
                (logits,) = objective.predict(batch.views[0], **options).values()
                if logits.shape[1] != self.classes:
                    raise ConfigError(
                        f"{logits.shape[1]} classes were learnt, but the held-out images have {self.classes};"
                        " train/ and val/ must have the same folders"
                    )
                for meter in meters.values():
                    meter.update(logits.float(), batch.target[:, self.level])
        return {name: float(meter.compute()) for name, meter in meters.items()}

    def by_chance(self) -> dict[str, float]:
        """The same marks for who guesses."""
        return {f"top{top}": top / self.classes for top in self.tops}

    def _loader(self, images: Images | Stream) -> Any:
        return load(
            images,
            views=CenterView(self.image_size, interpolation=self.interpolation),
            superpixels=self.superpixels,
            batch_size=self.batch_size * ranks.world(),
            workers=self.workers,
            train=False,
        )
