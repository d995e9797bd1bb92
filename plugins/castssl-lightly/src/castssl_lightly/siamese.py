"""What all objectives here share: two views of each image, one encoder, a loss in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Target
from castssl.types import Batch, Outcome, View


class Siamese(nn.Module):
    """An encoder that sees two views of each image.

    Args:
        encoder: what is pretrained.
    """

    views = 2
    target: Target = "none"
    least = 1
    """Images that each process needs, below which the loss is undefined."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

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

    def after_step(self, progress: float) -> None:
        """Nothing is updated between steps unless there is a momentum model."""

    def predict(self, view: View) -> Mapping[str, Tensor]:
        """Nothing: there are no classes."""
        return {}


class Joint(Siamese):
    """Both views go through encoder and projector; the criterion compares the two embeddings.

    Args:
        encoder: what is pretrained.
        projector: float (B, D) -> (B, E).
        criterion: two times float32 (B, E) -> scalar.
    """

    def __init__(self, encoder: Encoder, projector: nn.Module, criterion: nn.Module) -> None:
        super().__init__(encoder)
        self.projector = projector
        self.criterion = criterion

    def forward(self, batch: Batch) -> Outcome:
        """The loss, and how far the embeddings are spread (see :func:`spread`).

        Raises:
            ValueError: unless the batch has two views of enough floating-point images.
        """
        first, second = (self.projector(feature(self.encoder, view)) for view in self.pair(batch))
        loss = in_float32(self.criterion, first, second)
        return Outcome(loss, {"loss": loss.detach(), "spread": spread(first)})


def feature(encoder: nn.Module | Encoder, view: View) -> Tensor:
    """The class token of an encoder's last stage: float (B, D)."""
    token: Tensor = encoder(view).stages[-1].cls[:, 0]
    return token


def in_float32(criterion: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """A criterion of these rows, outside autocast and in float32 at least."""
    with torch.autocast(rows[0].device.type, enabled=False):
        return criterion(*(each.to(torch.promote_types(each.dtype, torch.float32)) for each in rows))


def spread(rows: Tensor) -> Tensor:
    """Standard deviation of unit vectors (B, E) over the batch, mean over E, times sqrt(E), detached.

    0 where all images have become one, about 1 where they point everywhere; SimSiam,
    https://arxiv.org/abs/2011.10566, section 4.1.
    """
    unit = F.normalize(rows.detach().float(), dim=1)
    deviation: Tensor = unit.std(0, correction=0).mean()
    return deviation * math.sqrt(unit.shape[1])
