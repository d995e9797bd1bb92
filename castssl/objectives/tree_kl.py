"""H-CAST: a classifier of each label level on the stage that fits it, tied by a tree-path KL divergence.

Visually Consistent Hierarchical Image Classification (ICLR 2025): the coarsest label is read from the
coarsest segments, and each finer one from the stage before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import ClassifierModel, linear
from castssl.objectives.level_means import LevelMean, check_level_mean, level_means, soft_cross_entropies
from castssl.objectives.text_attributes import ReadsTexts, TextFeature, TextHead, text_losses, text_pairs
from castssl.types import Batch, Hierarchy, View

Order = Literal["coarse-last", "fine-last", "all-last"]
Norm = Literal["last", "each", "shared"]


class LevelHeads(ClassifierModel):
    """An encoder with a classifier of each level, on the class token of a stage.

    Args:
        encoder: what is trained.
        stages: the stage that each level reads, coarse to fine, counted from the last, which is -1.
        level_heads: classifiers, coarse to fine.
        norms: what each level's class token passes first.
        shared: read the stages before the last through the encoder's last norm, in place of ``norms``.
        text_head: what maps to the space of text embeddings, in training alone.
    """

    level_heads: nn.ModuleList
    norms: nn.ModuleList
    text_head: TextHead

    def __init__(
        self,
        encoder: Encoder,
        stages: Sequence[int],
        level_heads: nn.ModuleList,
        norms: nn.ModuleList,
        *,
        shared: bool,
        text_head: TextHead | None = None,
    ) -> None:
        heads: dict[str, nn.Module] = {} if text_head is None else {"text_head": text_head}
        super().__init__(encoder, level_heads=level_heads, norms=norms, **heads)
        self.stages, self.shared = tuple(stages), shared

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) of each level: ``level0``, the coarsest, ``level1``, ..."""
        return self.classify(self.encoder(view))

    def classify(self, hierarchy: Hierarchy) -> dict[str, Tensor]:
        """The same, of a hierarchy of the encoder."""
        last, logits = self.encoder.last_norm, {}
        for level, (stage, head) in enumerate(zip(self.stages, self.level_heads, strict=True)):
            shared = last if self.shared and stage != -1 else None
            token = (shared or self.norms[level])(hierarchy.stages[stage].cls[:, 0])
            logits[f"level{level}"] = head(token)
        if -1 not in self.stages and torch.is_grad_enabled():
            # DDP waits for a gradient of all that is trained, also behind the stages that are read.
            scores = logits["level0"]
            logits["level0"] = scores + 0 * hierarchy.stages[-1].cls[:, 0, :1].to(scores.dtype)
        return logits


class TreeKL(ReadsTexts):
    """An encoder with one linear head for each label level, each on the class token of a stage of its own.

    The loss is the sum of the levels' cross entropies and ``weight`` times :func:`tree_kl`.  In training mode
    images are mixed, by one draw for all levels; in evaluation mode they are not.  Images whose label is
    missing at a level have no part in that level's cross entropy, nor in the divergence.  In a mixture with
    such an image the labeled share takes part in the cross entropy, and nothing in the divergence.

    No term of this contains the parents of classes (see :func:`tree_kl`), except ``tie``.

    With text embeddings in its batches, the text of an image is a second target in training mode, see
    :mod:`castssl.objectives.text_attributes`.  The feature is of the stage that the finest level reads, as in
    the released code.  Predictions need no text and no text head, and saved classifiers have none.

    Attributes:
        stages: the stage that each level reads, coarse to fine, counted from the last, which is -1.

    Args:
        encoder: what is trained; it needs as many stages with a class token as there are levels to part.
        labels: the data set's label tree.
        weight: of the divergence; H-CAST 0.5, and 0 leaves it out.
        tie: weight of :func:`tree_tie`, the divergence of each level from the sums over its children; 0, as
            in H-CAST, leaves it out.
        order: ``"coarse-last"``: the coarsest level reads the last stage, the next the one before, ...
            (H-CAST); ``"fine-last"``: the finest does; ``"all-last"``: all levels do.
        stages: the stages to read, coarse to fine, -1 the last, in place of ``order``.
        norm: class tokens before the last stage are read as they are (``"last"``, H-CAST), after a layer norm
            of their own (``"each"``), or after the encoder's own last norm (``"shared"``, Hier-ViT).
        text_dim: width of the text embeddings of the batches; 0 reads none.  A recipe sets it.
        text_weight: of the loss between images and texts; 1 as in the released code, 0 reads no text.
        text_feature: all tokens of the stage (``"flattened"``, the released code), their ``"mean"``, or its
            ``"class"`` token.
        text_temperature: what cosines are divided by; 1 as in the released code, which has none.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise.
        ema: as :class:`castssl.objectives.deit.DeiT` has it.

    Raises:
        ConfigError: if the data set has no label levels, or more than the encoder has stages for, or if an
            option is out of range.
    """

    model: LevelHeads

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        weight: float = 0.5,
        tie: float = 0.0,
        level_mean: LevelMean = "batch",
        order: Order = "coarse-last",
        stages: Sequence[int] | None = None,
        norm: Norm = "last",
        text_dim: int = 0,
        text_weight: float = 1.0,
        text_feature: TextFeature = "flattened",
        text_temperature: float = 1.0,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
        ema: float = 0.0,
    ) -> None:
        super().__init__(labels, mixup=mixup, cutmix=cutmix, smoothing=smoothing)
        if min(weight, tie) < 0:
            raise ConfigError(f"weight and tie of the tree are 0 or above, got {weight} and {tie}")
        check_level_mean(level_mean)
        self.weight, self.tie, self.norm, self.level_mean = weight, tie, norm, level_mean
        for level, table in enumerate(labels.parents, start=1):
            self.register_buffer(f"parents{level}", torch.tensor(table), persistent=False)
        self.stages = read_stages(encoder, len(self.classes), order, stages)
        widths = [read_width(encoder, stage) for stage in self.stages]
        level_heads = nn.ModuleList(starmap(linear, zip(widths, self.classes, strict=True)))
        norms = _norms(encoder, self.stages, norm)
        self.read_texts(text_dim, text_weight, text_temperature)
        head = TextHead(encoder, self.stages[-1], text_feature, text_dim) if self.text_dim else None
        shared = norm == "shared"
        self.model = LevelHeads(encoder, self.stages, level_heads, norms, shared=shared, text_head=head)
        self.keep_average(ema)

    def answers(self, view: View) -> Mapping[str, Tensor]:
        """The predictions, and in training mode the embeddings of the images as ``text``, (B, E)."""
        if not (self.training and self.text_dim):
            return super().answers(view)
        hierarchy = self.model.encoder(view)
        return {**self.model.classify(hierarchy), "text": self.model.text_head(hierarchy)}

    def further_targets(self, batch: Batch, share: float) -> Sequence[Tensor]:
        """In training mode the text embeddings, and the share of each text in each image."""
        text = self.text_of(batch)
        return () if text is None else (text, text_pairs(text, share))

    def criterion(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The sum of the levels' cross entropies, and the rest, logged as ``kl``, ``text`` and ``tie``."""
        count = len(self.classes)
        (logits, image), (targets, text) = (
            (both[:count], both[count:]) for both in (list(logits), list(targets))
        )
        losses = [soft_cross_entropies(*pair) for pair in zip(logits, targets, strict=True)]
        known = [target.sum(1) for target in targets]
        if self.weight:
            divergences, complete = path_divergences(logits, targets)
            losses, known = [*losses, divergences], [*known, complete]
        if text:
            both, shares = text_losses(image[0], text[0], text[1], self.text_temperature)
            losses, known = [*losses, *both], [*known, *shares]
        means = level_means(losses, known, self.level_mean)
        loss, logs = means[:count].sum(), {}
        if self.weight:
            loss, logs["kl"] = loss + self.weight * means[count], means[count].detach()
        if text:
            compared = means[-2:].mean()
            loss, logs["text"] = loss + self.text_weight * compared, compared.detach()
        if self.tie:
            parents = [self.get_buffer(f"parents{level}") for level in range(1, len(self.classes))]
            apart = tree_tie(logits, parents)
            loss, logs["tie"] = loss + self.tie * apart, apart.detach()
        return loss, logs


def _norms(encoder: Encoder, stages: Sequence[int], norm: Norm) -> nn.ModuleList:
    """What the class token of each of ``stages`` passes before its classifier.

    Raises:
        ConfigError: if there is no such norm, or the encoder's own is none or fits not all of the tokens.
    """
    widths = [read_width(encoder, stage) for stage in stages]
    if norm not in ("last", "each", "shared"):
        raise ConfigError(f"norm: got {norm!r}, expected last, each or shared")
    if norm == "shared" and encoder.last_norm is None:
        raise ConfigError("norm=shared needs an encoder with a last norm of its own; take each or last")
    if norm == "shared" and set(widths) != {encoder.dim}:
        raise ConfigError(
            f"norm=shared needs class tokens as wide as the last, {encoder.dim}, but those of the stages"
            f" {tuple(stages)} have the widths {tuple(widths)}; take each or last"
        )
    return nn.ModuleList(
        nn.LayerNorm(width) if stage != -1 and norm == "each" else nn.Identity()
        for stage, width in zip(stages, widths, strict=True)
    )


def tree_kl(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """How far the logits are from a path's classes, as one distribution over the classes of all levels.

    The levels' logits side by side pass one softmax, so the levels compete for probability; the target
    gives each level's class (or mixture) the same share, 1 / L.  The mean over the batch is returned; images
    whose path is not wholly known add nothing to it.

    It equals the mean of the levels' cross entropies, plus the bracket log sum_l Z_l - (1/L) sum_l log Z_l
    for the sums Z_l of the levels' exponentials, plus a constant; it does not depend on the tree.  The first
    part multiplies the cross entropies in the loss by 1 + weight / L, to which AdamW is nearly blind.  The
    bracket is a gauge: a constant added to a level's logits changes Z_l and no prediction, and such constants
    bring it to its minimum log L, where all Z_l are equal.

    Args:
        logits: float (B, C) of each of the L levels.
        targets: soft targets (B, C) of each level.

    Returns:
        A float32 scalar, 0 or above.
    """
    return path_divergences(logits, targets)[0].mean()


def path_divergences(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The terms of :func:`tree_kl`, and which of them count: both float32 (B,).

    The second is 1 for an image whose path is known at all levels, in a mixture that of both images, and 0
    for the others, whose divergence is 0.

    Args:
        logits: as for :func:`tree_kl`.
        targets: likewise.
    """
    predicted = torch.cat(list(logits), 1).log_softmax(1)
    wanted = torch.cat(list(targets), 1)
    mass = wanted.sum(1, keepdim=True)
    # Half a label is missing if an image without one was mixed with an image that has one.
    complete = (mass[:, 0] > len(targets) - 1e-3).float()
    wanted = wanted / mass.clamp(min=1e-6)
    return F.kl_div(predicted, wanted, reduction="none").sum(1) * complete, complete


def tree_tie(logits: Sequence[Tensor], parents: Sequence[Tensor]) -> Tensor:
    """How far each level is from the sums over its children: the symmetric KL divergence, summed over levels.

    Not in H-CAST.  It needs no labels.

    Args:
        logits: float (B, C) of each level, coarse to fine.
        parents: for each level but the coarsest, the parent of each class: int64 (C,).

    Returns:
        A float32 scalar, the mean over the batch, 0 or above.
    """
    levels = [scores.log_softmax(1) for scores in logits]
    apart = []
    for above, below, parent in zip(levels, levels[1:], parents, strict=False):
        summed = over_children(below, parent, above.shape[1])
        apart.append(((above.exp() - summed.exp()) * (above - summed)).sum(1).mean() / 2)
    return torch.stack(apart).sum() if apart else levels[0].sum() * 0


def read_stages(
    encoder: Encoder, levels: int, order: Order = "coarse-last", stages: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The stage that each level reads, coarse to fine, from -1, the last stage with a class token, down.

    Raises:
        ConfigError: if there are not as many stages, the order is unknown, or a level has no stage.
    """
    served = encoder.stages_with_cls
    orders = {
        "coarse-last": tuple(range(-1, -1 - levels, -1)),
        "fine-last": tuple(range(-levels, 0)),
        "all-last": (-1,) * levels,
    }
    if order not in orders:
        raise ConfigError(f"order: got {order!r}, expected one of {', '.join(orders)}")
    chosen = orders[order] if stages is None else tuple(stages)
    if len(chosen) != levels:
        raise ConfigError(f"stages: got {len(chosen)} for {levels} label levels; give one per level")
    if any(not -served <= stage < 0 for stage in chosen):
        raise ConfigError(
            f"{levels} label levels would read the stages {chosen}, but the encoder has {served} with a class"
            " token; take a model of more stages, fewer levels, or order=all-last"
        )
    return chosen


def read_width(encoder: Encoder, stage: int) -> int:
    """The width of a stage's class token; stages count from -1, the last with a class token, down."""
    served = encoder.stage_dims[: encoder.stages_with_cls]
    return encoder.dim if stage == -1 else served[stage]


def over_children(values: Tensor, parent: Tensor, count: int) -> Tensor:
    """The logsumexp over the children of each class of the level above; every class has one.

    Args:
        values: float (B, C), logarithms, of a level.
        parent: int64 (C,), the class of the level above.
        count: how many classes that level has.

    Returns:
        Float (B, count).
    """
    index = parent.expand_as(values)
    top = values.new_full((len(values), count), -torch.inf)
    top = top.scatter_reduce(1, index, values.detach(), "amax")
    shares = (values - top[:, parent]).exp()
    return torch.zeros_like(top).index_add(1, parent, shares).log() + top
