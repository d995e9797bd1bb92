"""Test-time adaptation: norms take a step that makes an image's class surer, and segments change with them.

CAST, https://arxiv.org/abs/2210.00314, appendix C and Fig. 9, after Tent, https://arxiv.org/abs/2006.10726.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.data.rng import seeded
from castssl.errors import DataError
from castssl.evaluation.features import segment_with_feature, unit
from castssl.models.per_image_norms import Statistics, per_image_norms
from castssl.modes import evaluating
from castssl.types import Hierarchy, View


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an image adapts the encoder; the defaults are the paper's."""

    steps: int = 1
    """Of SGD without momentum."""
    rate: float = 1.0
    """Learning rate; a negative one raises the entropy."""
    temperature: float = 0.07
    """What cosines are divided by, to be logits."""
    statistics: Statistics = "running"
    """Of the stem's batch norms, as in :func:`castssl.models.per_image_norms.per_image_norms`."""


PAPER = Settings()


class Adapted(NamedTuple):
    """A batch of images, each seen by the encoder that it adapted."""

    hierarchy: Hierarchy
    """Of all stages."""
    feature: Tensor
    """float (B, D), the class token of the last stage that has one."""
    first: Tensor
    """float (B, C), the logits before the first step; with the image's statistics if these are chosen."""
    last: Tensor
    """float (B, C), the logits after the last step."""


def class_vectors(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The direction of the mean of each class's unit features: float32 (C, D) of length 1.

    Args:
        features: float (n, D).
        labels: int64 (n,) in [0, C); a row with another label does not count.
        classes: how many, C.

    Raises:
        DataError: if a class has no row.
    """
    known = (labels >= 0) & (labels < classes)
    members = F.one_hot(labels[known], classes).float()
    if missing := int((members.sum(0) == 0).sum()):
        raise DataError(
            f"{missing} of {classes} classes have no training image, so no class vector; leave these classes"
            " out with --subset"
        )
    return unit(members.T @ unit(features[known], None), None)


def entropy(logits: Tensor) -> Tensor:
    """Of the softmax of each row, in nats: float (B, C) -> (B,)."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def adapt(
    encoder: Encoder,
    view: View,
    vectors: Tensor,
    settings: Settings = PAPER,
    *,
    random: Sequence[int] | None = None,
) -> Adapted:
    """Each image's segments and feature after it adapted a copy of the norms' affine parameters.

    The loss is the entropy of the softmax over cosines of the feature and the class vectors.  An image's
    result does not depend on the others of the batch, and nothing of the encoder changes::

        vectors = class_vectors(features, labels, classes=2)
        labels = adapt(encoder, view, vectors).hierarchy.labels(-1)

    Args:
        encoder: on the device of the view; modes and gradients are as before afterwards.
        view: a batch of B images.
        vectors: float (C, D), the class vectors.
        settings: see :class:`Settings`.
        random: to compare with, a seed for each image of a step in a random direction, in which each
            parameter moves as far as its gradient would move it.

    Raises:
        ConfigError: if the encoder has no norms that can be adapted.
    """
    count, vectors = len(view.image), vectors.to(view.image.device)
    logits: list[Tensor] = []

    def scored(feature: Tensor) -> Tensor:
        cosines = F.normalize(feature, dim=-1) @ vectors.to(feature.dtype).T
        logits.append(cosines / settings.temperature)
        return logits[-1]

    with evaluating(encoder), per_image_norms(encoder, count, statistics=settings.statistics) as norms:
        for step in range(settings.steps):
            with torch.enable_grad():
                loss = entropy(scored(encoder(view).stages[-1].cls[:, 0])).sum()
                found = torch.autograd.grad(loss, list(norms.values()), allow_unused=True)
            gradients = {name: g for name, g in zip(norms, found, strict=True) if g is not None}
            if random is not None:
                gradients = _random_directions(gradients, random, step)
            for name, gradient in gradients.items():
                norms[name] = (norms[name].detach() - settings.rate * gradient).requires_grad_()
        with torch.no_grad():
            hierarchy, feature = segment_with_feature(encoder, view)
            scored(feature)
    return Adapted(hierarchy, feature, logits[0].detach(), logits[-1])


def _random_directions(gradients: dict[str, Tensor], seeds: Sequence[int], step: int) -> dict[str, Tensor]:
    """Rows of the same lengths as the gradients' (B, C) in random directions, drawn by each image's seed."""
    widths = [gradient.shape[1] for gradient in gradients.values()]
    drawn = []
    for seed in seeds:
        with seeded(seed, step):
            drawn.append(torch.randn(sum(widths)))
    parts = zip(gradients.items(), torch.stack(drawn).split(widths, 1), strict=True)
    return {
        name: F.normalize(part.to(gradient), dim=1) * gradient.norm(dim=1, keepdim=True)
        for (name, gradient), part in parts
    }
