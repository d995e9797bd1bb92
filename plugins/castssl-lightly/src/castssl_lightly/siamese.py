"""What all objectives here share: two views of each image, one encoder, a loss in float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Objective
from castssl.objectives.moco import Projected
from castssl.types import Batch, Outcome, View


class Siamese(Objective):
    """A model that sees two views of each image.

    Args:
        model: an encoder and a projector.
    """

    views = 2
    model: Projected
    least = 1
    """Images that each process needs, below which the loss is undefined."""

    def __init__(self, model: Projected) -> None:
        super().__init__()
        self.model = model

    def pair(self, batch: Batch) -> tuple[View, View]:
        """The two views.

        Raises:
            ValueError: unless there are two, of floating-point images, and enough of them.
        """
        name = type(self).__name__
        if len(batch.views) != self.views:
            raise ValueError(f"{name} needs {self.views} views of each image, got {len(batch.views)}")
        for image, _ in batch.views:
            if not image.is_floating_point():
                raise ValueError(f"{name} expects float images, got {image.dtype}; call to_views first")
            if len(image) < self.least:
                raise ValueError(f"{name} needs {self.least} images in each process, got {len(image)}")
        first, second = batch.views
        return first, second


class Joint(Siamese):
    """Both views go through encoder and projector; the criterion compares the two embeddings.

    Args:
        encoder: what is pretrained.
        projector: float (B, D) -> (B, E).
        criterion: two times float32 (B, E) -> scalar.
    """

    def __init__(self, encoder: Encoder, projector: nn.Module, criterion: nn.Module) -> None:
        super().__init__(Projected(encoder, projector=projector))
        self.criterion = criterion

    def forward(self, batch: Batch) -> Outcome:
        """The loss, and how far the embeddings are spread (see :func:`spread`).

        Raises:
            ValueError: unless the batch has two views of enough floating-point images.
        """
        first, second = (self.model.project(view) for view in self.pair(batch))
        loss = in_float32(self.criterion, first, second)
        return Outcome(loss, {"loss": loss.detach(), "spread": spread(first)})


def in_float32(criterion: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """A criterion of these rows, outside autocast and in float32 at least."""
    with torch.autocast(rows[0].device.type, enabled=False):
        return criterion(*(row.to(torch.promote_types(row.dtype, torch.float32)) for row in rows))


def spread(rows: Tensor) -> Tensor:
    """Standard deviation of unit vectors (B, E) over the batch, mean over E, times sqrt(E), detached.

    0 where all images have become one, about 1 where they point everywhere; SimSiam,
    https://arxiv.org/abs/2011.10566, section 4.1.
    """
    unit = F.normalize(rows.detach().float(), dim=1)
    deviation: Tensor = unit.std(0, correction=0).mean()
    return deviation * math.sqrt(unit.shape[1])
