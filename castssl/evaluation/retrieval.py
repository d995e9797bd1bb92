"""Segment retrieval: a held-out segment takes the class that most of the nearest training segments have.

Hwang et al. 2019, SegSort (https://arxiv.org/abs/1910.06962); CAST, https://arxiv.org/abs/2210.00314, Table
3a and appendix F.5.  Nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Model
from castssl.errors import ConfigError, DataError
from castssl.evaluation.class_maps import ClassMaps, at_size
from castssl.evaluation.features import Features, blocks, largest
from castssl.evaluation.held_out import Evaluation, ImageBatch, Subject, indexed
from castssl.evaluation.windows import with_longer_side
from castssl.models.cast import CAST
from castssl.models.fuse import FusedCAST
from castssl.models.segmentation_heads import areas, paint
from castssl.models.sizes import sizes_for
from castssl.pooling.spherical_kmeans import spherical_kmeans
from castssl.tokens.segments import segment_mean
from castssl.types import DenseTokens, Hierarchy, View


class Segments(NamedTuple):
    """The segments of a batch of images."""

    features: Tensor
    """float32 (B, K, D), of length 1; 0 for a segment without tokens."""
    labels: Tensor
    """int64 (B, H, W), the segment of each pixel; -1 where it has none."""


class SegmentModel(Model):
    """An encoder whose tokens become segments with features.

    The segments are those of the encoder's last pooling; or, for an encoder without pooling, groups of tokens
    by spherical K-means.  A feature is the direction of the sum of the unit vectors of a segment's pixels.

    Args:
        encoder: one with dense tokens.
        projector: float (n, D) -> (n, E), such as MoCo's, for each token.  It reads the token at the width of
            the class token: the fused token, or that of the last stage.
        groups: K of K-means.
        seed: of K-means.

    Raises:
        ConfigError: if the encoder has no dense tokens.
    """

    projector: nn.Module

    def __init__(self, encoder: Encoder, projector: nn.Module, *, groups: int = 40, seed: int = 0) -> None:
        if encoder.dense_dim is None:
            raise ConfigError(f"a {type(encoder).__name__} has no dense tokens; take another encoder")
        super().__init__(encoder, projector=projector)
        self.groups, self.seed = groups, seed
        self.pools = encoder.sizes[-1] < encoder.sizes[0]

    def forward(self, view: View, sizes: tuple[int, ...] | None = None) -> Segments:
        """The segments of normalized images.

        Args:
            view: as for the encoder.
            sizes: other token budgets than the encoder's own.
        """
        encoder = self.encoder
        hierarchy: Hierarchy | None = None
        if self.pools and isinstance(encoder, FusedCAST):
            hierarchy, fused = encoder.fuse(view, sizes)
            tokens = encoder.densely(view, hierarchy, fused[:, 1:])
        elif self.pools and isinstance(encoder, CAST):
            hierarchy = encoder.segment(view, sizes)
            tokens = encoder.stacked(view, hierarchy)
        else:
            tokens = encoder.dense(view, sizes)
            hierarchy = encoder.segment(view, sizes) if self.pools else None
        x = tokens.x[..., -encoder.dim :]
        x = self.projector(x.flatten(0, 1)).unflatten(0, x.shape[:2]).float()
        if hierarchy is None:
            return group_tokens(x, tokens, self.groups, self.seed)
        return _segments(x, tokens, hierarchy.parents(-1), hierarchy.stages[-1].x.shape[1])


class ColorModel(Model):
    """The mean color of each superpixel in place of a token, grouped by K-means: what needs no encoder.

    A 1 beside the three normalized channels keeps brightness in the direction.

    Args:
        encoder: only its device is read.
        groups: K of K-means.
        seed: of K-means.
    """

    def __init__(self, encoder: Encoder, *, groups: int = 40, seed: int = 0) -> None:
        super().__init__(encoder)
        self.groups, self.seed = groups, seed

    def forward(self, view: View, sizes: tuple[int, ...]) -> Segments:
        """The segments of normalized images with at most ``sizes[0]`` superpixels."""
        means, mass = segment_mean(view.image.float(), view.segments, sizes[0])
        x = torch.cat([means, torch.ones_like(means[..., :1])], -1)
        return group_tokens(x, DenseTokens(x, mass, view.segments), self.groups, self.seed)


def group_tokens(
    x: Tensor, tokens: DenseTokens, groups: int, seed: int, size: tuple[int, int] | None = None
) -> Segments:
    """Segments by spherical K-means of features.

    For tokens on a grid a pixel joins the group that is nearest to its bilinear interpolation of features: a
    cosine is linear in these, up to their length, so scores are interpolated in their place.

    Args:
        x: float (B, N, E), a feature for each token.
        tokens: where they lie.
        groups: K.
        seed: of K-means.
        size: height and width of the labels of tokens on a grid; None for those of the tokens' label map.
    """
    clusters = spherical_kmeans(x, tokens.mass > 0, groups, weight=areas(tokens), seed=seed)
    if tokens.grid is None:
        return _segments(x, tokens, clusters.group, groups)
    scores = x @ clusters.centers.to(x.dtype).transpose(1, 2)
    least = scores.amin((1, 2), keepdim=True) - 1
    scores = torch.where(clusters.mass[:, None] > 0, scores, least)
    size = size or (tokens.labels.shape[1], tokens.labels.shape[2])
    return Segments(clusters.centers.float(), paint(scores, tokens, size).argmax(1))


def _segments(x: Tensor, tokens: DenseTokens, index: Tensor, count: int) -> Segments:
    """Tokens grouped by an index int64 (B, N) below ``count``; a token of mass 0 joins no group."""
    index = index.masked_fill(tokens.mass <= 0, -1)
    weight = (areas(tokens) * (index >= 0))[..., None] * F.normalize(x, dim=-1)
    sums = x.new_zeros(len(x), count, x.shape[-1])
    sums = sums.scatter_add(1, index.clamp(min=0)[..., None].expand_as(weight), weight)
    flat = tokens.labels.flatten(1).long()
    labels = index.gather(1, flat.clamp(min=0)).masked_fill(flat < 0, -1).view(tokens.labels.shape)
    return Segments(F.normalize(sums, dim=-1), labels)


def segment_classes_of(labels: Tensor, truth: Tensor, count: int, classes: int) -> Tensor:
    """The most frequent class of each segment: int64 (B, K); -1 where unknown pixels are the most frequent.

    Of equally frequent classes the smallest counts, and an unknown pixel comes last.  A segment without a
    pixel has -1.

    Args:
        labels: int64 (B, H, W), segments below ``count``; -1 for pixels without one.
        truth: int64 (B, H, W), classes; -1 is unknown.
        count: K.
        classes: C.
    """
    bins = classes + 1
    known = torch.where(truth < 0, classes, truth)
    slot = torch.where(labels < 0, count * bins, labels * bins + known).flatten(1)
    shares = torch.zeros(len(labels), count * bins + 1, dtype=torch.int64, device=labels.device)
    shares = shares.scatter_add(1, slot, torch.ones_like(slot))[:, :-1].unflatten(1, (count, bins))
    best = shares.argmax(2)
    found: Tensor = best.masked_fill((best == classes) | (shares.sum(2) == 0), -1)
    return found


def vote(queries: Tensor, memory: Tensor, labels: Tensor, classes: int, k: int) -> Tensor:
    """The class that most of the k rows of memory with the largest cosines have: int64 (Q,).

    Each neighbor has one vote; of equal numbers the smallest class counts, and of equal cosines the first
    rows.  Only some rows are compared at once.

    Args:
        queries: float32 (Q, D), of length 1.
        memory: float32 (M, D), likewise.
        labels: int64 (M,), classes of the memory.
        classes: C.
        k: neighbors; all if there are fewer.
    """
    winners = [torch.empty(0, dtype=torch.int64, device=queries.device)]
    for rows in blocks(len(queries), len(memory)):
        nearest = largest(queries[rows] @ memory.T, min(k, len(memory)))[1]
        votes = torch.zeros(len(nearest), classes, dtype=torch.int64, device=queries.device)
        winners.append(votes.scatter_add_(1, labels[nearest], torch.ones_like(nearest)).argmax(1))
    return torch.cat(winners)


@dataclass(eq=False)
class Retrieval(ClassMaps):
    """The scores of :class:`castssl.evaluation.class_maps.ClassMaps` of maps that training segments vote for.

    The bound gives each segment its most frequent true class.

    Args:
        neighbors: training segments that vote.
        longer: see :func:`castssl.evaluation.windows.with_longer_side`; None leaves the views.
    """

    title: ClassVar[str] = "segment retrieval"
    neighbors: int = field(default=20, kw_only=True)
    _memory: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    @property
    def classes(self) -> int:
        """How many there are; 0 without label maps."""
        return 0 if self._scored is None else self._scored.classes

    def prepare(self, data: Evaluation) -> None:
        """Keep the data.

        Raises:
            ConfigError: if training and held-out images have other numbers of classes.
        """
        super().prepare(data)
        train, own = (indexed(images).pixel_tree.sizes for images in (data.train, data.held_out))
        if train != own:
            raise ConfigError(f"training images have {train} classes of pixels, held-out images {own}")

    def begin(self, subject: Subject) -> None:
        """Collect the segments of the training images.

        Raises:
            ConfigError: if the subject has no segments.
            DataError: if no training segment has a class.
        """
        if not isinstance(subject.module, SegmentModel | ColorModel):
            raise ConfigError(f"retrieval needs a SegmentModel, got a {type(subject.module).__name__}")
        self.restart(bounded=True)
        if not self.classes:
            return
        rows = Features(self._data.device)
        images, views = indexed(self._data.train), [self.views or self._data.view]
        for batch in self._data.batches(images, views, "retrieval, training images"):
            segments = self._segments(subject, batch.views[0])
            truth = at_size(batch.target, segments.labels)
            count = segments.features.shape[1]
            labels = segment_classes_of(segments.labels, truth, count, self.classes)
            read = batch.readable(images, range(len(images)))
            rows.add(segments.features.flatten(1)[read], labels[read], batch.positions[read])
        features, labels = rows.gather()
        kept = labels.flatten() >= 0
        if not bool(kept.any()):
            raise DataError("no segment of the training images has a class: check the label maps")
        features = features.unflatten(1, (labels.shape[1], -1)).flatten(0, 1)[kept]
        self._memory = features.to(self._data.device), labels.flatten()[kept].to(self._data.device)

    def predict(self, batch: ImageBatch, subject: Subject) -> tuple[Tensor, Tensor]:
        """The classes int64 (B, H, W) that each segment's neighbors vote for, and the segments."""
        assert self._memory is not None
        segments = self._segments(subject, batch.views[0])
        classes = vote(segments.features.flatten(0, 1), *self._memory, self.classes, self.neighbors)
        classes = classes.view(segments.features.shape[:2])
        labels = at_size(segments.labels, batch.target)
        predicted = classes.gather(1, labels.flatten(1).clamp(min=0)).view(labels.shape)
        # As for a head, a pixel without a segment has the first class.
        return predicted.masked_fill(labels < 0, 0), segments.labels

    def result(self, subject: Subject) -> dict[str, float]:
        """The scores over all processes; the memory is freed."""
        self._memory = None
        return super().result(subject)

    def _segments(self, subject: Subject, view: View) -> Segments:
        superpixels = self._data.superpixels
        count = superpixels.capacity(*view.image.shape[-2:])
        if self.longer is not None:
            view, count = with_longer_side(view, superpixels, self.longer)
        assert isinstance(subject.module, SegmentModel | ColorModel)
        encoder = subject.encoder
        sizes = sizes_for(encoder, count) if encoder.uses_superpixels else None
        if isinstance(subject.module, ColorModel):
            sizes = (count,)
        segments: Segments = subject.module(view, sizes)
        return segments
