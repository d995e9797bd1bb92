"""Images that an objective never saw, and the views of them that it is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from castssl import ranks
from castssl.contracts import Superpixels
from castssl.data.augment import CenterView
from castssl.data.finish import finish
from castssl.data.loader import load
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.evaluation.neighbours import Device
from castssl.types import Batch, LabelTree


@dataclass
class HeldOut:
    """Held-out images, each looked at once whatever the number of ranks; every rank must take part.

    Args:
        images: held-out images with labels by the classes that were trained, as
            :func:`castssl.data.splits.open_splits` gives them; None: there are no marks.
        superpixels: what the encoder builds on.
        image_size: side in pixels.
        interpolation: of :class:`castssl.data.augment.CenterView`.
        batch_size: images at a time and rank.
        workers: data-loading processes a rank.
    """

    images: Images | Stream | None
    superpixels: Superpixels
    image_size: int
    interpolation: str = "bicubic"
    batch_size: int = 64
    workers: int = 0

    @property
    def tree(self) -> LabelTree:
        """The label tree of the images; without levels if there is nothing to ask."""
        return self.images.tree if self.images else LabelTree.none()

    def labels(self) -> Tensor:
        """Label paths int64 (n, L) where they are known before the images are read; else (0, L)."""
        if isinstance(self.images, Images) and self.images.targets is not None:
            return self.images.targets
        return torch.empty(0, self.tree.levels, dtype=torch.int64)

    def batches(self, device: Device) -> Iterator[Batch]:
        """The images of this rank, in batches with one view, on the device."""
        if self.images is None:
            return
        loader = load(
            self.images,
            views=CenterView(self.image_size, interpolation=self.interpolation),
            superpixels=self.superpixels,
            batch_size=self.batch_size * ranks.world(),
            workers=self.workers,
            train=False,
        )
        for raw in loader:
            yield finish(raw, self.superpixels, device)
