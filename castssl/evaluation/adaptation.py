"""Test-time adaptation: norms take a step that makes an image's class surer, and segments change with them.

:func:`adapt` does it for a batch, :class:`Adaptation` measures it on held-out images with masks.

CAST, https://arxiv.org/abs/2210.00314, appendix C and Fig. 9, after Tent, https://arxiv.org/abs/2006.10726.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import nan
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.data.rng import seeded
from castssl.datasets.images import Images
from castssl.errors import ConfigError, DataError
from castssl.evaluation.features import Features, segment_with_feature, unit
from castssl.evaluation.held_out import Evaluation, Forward, ImageBatch, Subject, indexed
from castssl.evaluation.overlap import MEASURES, Overlap
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
    return unit(members.T @ unit(features[known]))


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


COLUMNS = ("before", "adapted", "random step")
"""What is measured of each image."""


class PerImage(NamedTuple):
    """Results of n images."""

    positions: Tensor
    """int64 (n,), places in the images of :attr:`Adaptation.source`."""
    predicted: dict[str, Tensor]
    """The class of each image, int64 (n,), by :data:`COLUMNS`."""
    confidence: dict[str, Tensor]
    """Its probability, float32 (n,), by :data:`COLUMNS`."""
    region_iou: dict[str, Tensor]
    """Of object and background in the coarsest segments, float32 (n,), by :data:`COLUMNS`."""


@dataclass(eq=False)
class Adaptation(Overlap):
    """Overlap, accuracy and confidence before and after adaptation, and after a random step of its size.

    Class vectors are those of the training images, by the encoder as it is.  The results are those after
    adaptation; :meth:`baselines` has the others.

    Args:
        settings: how an image adapts the encoder.
        positive: a class of the finest level that is told from all others, as the paper's dogs; only images
            of it are measured, and predictions are 1 (this class) or 0.  None: all classes.
    """

    title: ClassVar[str] = "adaptation"
    settings: Settings = PAPER
    positive: int | None = None
    per_image: PerImage = field(init=False, repr=False)
    _vectors: Tensor = field(init=False, repr=False)
    _columns: dict[str, dict[str, float]] = field(init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Read the masks.

        Raises:
            ConfigError: if the data has a single class.
            DataError: if masks cannot be read, or belong to no image.
        """
        if not data.tree.levels or data.tree.sizes[-1] < 2:
            raise ConfigError(
                "adaptation needs images of two classes or more; give labeled data, such as demo"
            )
        super().prepare(data)

    @property
    def source(self) -> Images:
        """The images that are measured."""
        return self._source

    def begin(self, subject: Subject) -> None:
        """Compute the class vectors."""
        bank = Features(self._data.device)
        train = indexed(self._data.train)
        for batch in self._data.batches(train, [self._data.view], "class vectors, training images"):
            bank.add(Forward(subject).feature(batch.views[0]), batch.target, batch.positions)
        features, labels = bank.gather()
        classes = self._data.tree.sizes[-1] if self.positive is None else 2
        self._vectors = class_vectors(features, self._classes(labels), classes).to(self._data.device)
        super().begin(subject)

    def result(self, subject: Subject) -> dict[str, float]:
        """The results after adaptation; nothing without masks."""
        values, labels = self._rows.gather()
        if not len(values):
            self._columns = {name: {} for name in COLUMNS}
            return {}
        parts = dict(zip(COLUMNS, values.chunk(len(COLUMNS), 1), strict=True))
        stages = (values.shape[1] // len(COLUMNS) - 2) // len(MEASURES)
        coarsest = (MEASURES.index("region_iou") + 1) * stages - 1
        predicted = {name: part[:, -2].long() for name, part in parts.items()}
        confidence = {name: part[:, -1] for name, part in parts.items()}
        iou = {name: part[:, coarsest] for name, part in parts.items()}
        self.per_image = PerImage(labels[:, 0], predicted, confidence, iou)
        known = labels[:, 1] >= 0
        self._columns = {
            name: self._means(part[:, :-2])
            | {"confidence": float(part[:, -1].mean())}
            | (
                {"top1": float((predicted[name] == labels[:, 1])[known].float().mean())}
                if known.any()
                else {}
            )
            for name, part in parts.items()
        }
        return self._columns["adapted"]

    def baselines(self) -> dict[str, dict[str, float]]:
        """The results of the encoder as it is, and after the random step."""
        return {name: self._columns[name] for name in COLUMNS if name != "adapted"}

    def _eligible(self, chosen: Sequence[int]) -> Sequence[int]:
        if self.positive is None:
            return chosen
        return [place for place in chosen if int(self._source.targets[place, -1]) == self.positive]

    def _classes(self, labels: Tensor) -> Tensor:
        """The class of each label path int64 (n, L): int64 (n,); -1 if it is unknown."""
        finest = labels[:, -1]
        if self.positive is None:
            return finest
        return torch.where(finest < 0, finest, (finest == self.positive).long())

    def _score(self, batch: ImageBatch, forward: Forward) -> None:
        if not (rows := batch.readable(self._source, self._masks)):
            return
        encoder, index = forward.subject.encoder, batch.positions[rows]
        view = View(batch.views[0].image[rows], batch.views[0].segments[rows])
        seeds = [self._data.seed * 1_000_003 + image for image in index.tolist()]
        seen = (
            adapt(encoder, view, self._vectors, replace(self.settings, steps=0, statistics="running")),
            adapt(encoder, view, self._vectors, self.settings),
            adapt(encoder, view, self._vectors, self.settings, random=seeds),
        )
        values = torch.cat([self._values(one, index) for one in seen], 1)
        labels = torch.stack((index, self._classes(batch.target.cpu()[rows])), 1)
        self._rows.add(values, labels, index)

    def _values(self, found: Adapted, index: Tensor) -> Tensor:
        """The overlaps, the predicted class and its probability: float32 (B, M + 2)."""
        stages = [found.hierarchy.labels(stage).cpu() for stage in range(len(found.hierarchy.stages))]
        confidence, predicted = found.last.softmax(-1).max(-1)
        classes = torch.stack((predicted.float(), confidence.float()), 1).cpu()
        return torch.cat((self._overlaps(stages, index), classes), 1)


class Gain(NamedTuple):
    """The mean of differences between images."""

    images: int
    mean: float
    """Not a number without images."""
    error: float
    """Standard error of the mean; not a number for fewer than two images."""


def gain(before: Tensor, after: Tensor) -> Gain:
    """The mean of ``after - before``, float (n,)."""
    found = (after - before).double()
    return Gain(
        len(found), float(found.mean()), float(found.std() / len(found) ** 0.5) if len(found) > 1 else nan
    )
