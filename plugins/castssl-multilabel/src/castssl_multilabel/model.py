"""Models that score many labels: HSVLT, and the same encoder with a linear classifier.

HSVLT, https://arxiv.org/abs/2407.16244: label embeddings attend to the tokens of an encoder, stage by stage,
and each label's score is computed from the results.  Shape letters: B images, C labels, E channels of an
embedding, N tokens, D channels of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from torch import Tensor, nn

from castssl.contracts import Encoder, Model
from castssl.errors import ConfigError
from castssl.types import LabelAttention, Tokens, View
from castssl_multilabel.aggregation import Aggregation, Concatenation, Hamburger, LastStage, Rows, Scores
from castssl_multilabel.interaction import INTERACTIONS, Interaction, Kind, Norm, TokensToLabels, linear

Interact: TypeAlias = Literal["block", "stage"]
Visual: TypeAlias = Literal["none", "gated"]
Kernel: TypeAlias = Literal[1, 3]
Aggregate: TypeAlias = Literal["none", "concat", "hamburger"]
Init: TypeAlias = Literal["released", "scaled"]


class LabelModel(Model):
    """An encoder and a head that scores each label by itself."""

    def logits(self, view: View) -> Tensor:
        """The score of each label before the sigmoid: float32 (B, C), also under autocast."""
        raise NotImplementedError(f"{type(self).__name__}.logits")


class PlainHead(LabelModel):
    """A linear classifier on the last class token, to compare with.

    Args:
        encoder: any.
        classes: C.
    """

    head: nn.Linear

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__(encoder, head=linear(encoder.dim, classes))

    def logits(self, view: View) -> Tensor:
        """The score of each label before the sigmoid: float32 (B, C)."""
        scores: Tensor = self.head(self.feature(view))
        return scores.float()


class HSVLT(LabelModel):
    """Label embeddings that attend to the stages of an encoder.

    Before each stage a linear layer gives the labels the width of its tokens.  After a block they attend to
    the tokens and are updated.  The results of the last interaction of each stage are aggregated over the
    stages.  The tokens of the last stage pass :attr:`castssl.contracts.Encoder.last_norm` first, as its class
    token does.  No score depends on the gate of the very last interaction: it exists, as in the released
    code, and is frozen.

    Args:
        encoder: whose stages are read; see :meth:`castssl.contracts.Encoder.visit_blocks`.
        vectors: embeddings of the labels, float32 (C, E).
        learn_vectors: train them, too.
        interact: ``"block"``, as released: an interaction after a block; ``"stage"``: after the stage.
        blocks: interactions of each stage: with "block" after its last ``blocks`` blocks (after all, if it
            has fewer), with "stage" so many in a row.  0: after every block, or one.
        attention: ``"interactive"`` or ``"standard"``, see :mod:`castssl_multilabel.interaction`.
        norm: ``"none"``, as released, or ``"pre"``: labels and tokens are normalized before each use.
        heads: attention heads; the released code has one.
        visual: ``"none"``, as released: no label changes a token; ``"gated"``: before labels attend to the
            tokens, the tokens attend to the labels and are updated through a gate.
        aggregation: ``"concat"``, as released; ``"none"``: the last stage alone; ``"hamburger"``.
        kernel: of the convolutions over labels in ``"hamburger"``.
        head_weights: ``"own"``, as released: each label's score has weights of its own; ``"shared"``: all
            have the same, so other labels can be scored, too.
        init: ``"released"``: linear layers begin with a deviation of 0.02; ``"scaled"``: with 1 / sqrt(D) for
            inputs of D channels.  Scores are products of many layers: under "released" a new trunk of few
            channels gets less than 5 % of the gradient that it gets under "scaled" (with norm="pre").

    Raises:
        ConfigError: if ``heads`` does not divide the width of a stage, ``blocks`` is negative, or ``visual``
            is "gated" and the encoder takes no updates, or ``kernel`` does not fit the aggregation.
    """

    scaling: nn.ModuleList
    visual: nn.ModuleList
    interactions: nn.ModuleList
    aggregation: Aggregation
    head: Scores
    vectors: Tensor

    def __init__(
        self,
        encoder: Encoder,
        vectors: Tensor,
        *,
        learn_vectors: bool = False,
        interact: Interact = "block",
        blocks: int = 0,
        attention: Kind = "interactive",
        norm: Norm = "none",
        heads: int = 1,
        visual: Visual = "none",
        aggregation: Aggregate = "concat",
        kernel: Kernel = 1,
        head_weights: Rows = "own",
        init: Init = "released",
    ) -> None:
        _check(encoder, vectors, blocks, visual)
        dims = encoder.stage_dims[: encoder.stages_with_cls]
        counts = [_interactions(visits, interact, blocks) for visits in encoder.visits]
        one = INTERACTIONS[attention]
        combine = _aggregation(dims, aggregation, kernel)
        super().__init__(
            encoder,
            scaling=nn.ModuleList(linear(a, b) for a, b in pairwise((vectors.shape[1], *dims))),
            interactions=nn.ModuleList(
                nn.ModuleList(one(dim, heads, norm) for _ in range(count))
                for dim, count in zip(dims, counts, strict=True)
            ),
            visual=nn.ModuleList(
                nn.ModuleList(TokensToLabels(dim, heads, norm) for _ in range(count))
                for dim, count in zip(dims, counts if visual == "gated" else [0] * len(dims), strict=True)
            ),
            aggregation=combine,
            head=Scores(combine.dim, len(vectors), head_weights),
        )
        if init == "scaled":
            _scale([self.scaling, self.interactions, self.visual])
        self.interact = interact
        self.interaction(len(dims) - 1, -1).end()
        vectors = vectors.detach().float().clone()
        if learn_vectors:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)

    def logits(self, view: View, vectors: Tensor | None = None) -> Tensor:
        """The score of each label before the sigmoid: float32 (B, C), also under autocast.

        Args:
            view: as the encoder takes it.
            vectors: the embeddings float (C', E) of other labels, to score these; by the same text encoder.

        Raises:
            ConfigError: if other labels are given and the head's weights are ``"own"``, or the width differs.
        """
        if vectors is not None:
            self._check_others(vectors)
        reading = _Reading(self, self.vectors if vectors is None else vectors, len(view.image))
        hierarchy = self.encoder.visit_blocks(view, reading)
        scores: Tensor = self.head(self.aggregation(reading.fused))
        # Some of an encoder's parameters have a part in the class token alone, which labels do not read.  DDP
        # waits for a gradient of each: theirs is 0.  Image by image, since 0 times infinity is not a number.
        return scores + 0 * hierarchy.stages[-1].cls.mean((1, 2))[:, None]

    def attention(self, view: View) -> LabelAttention:
        """What each label attends to at the last interaction of each stage, mean over heads."""
        reading = _Reading(self, self.vectors, len(view.image), record=True)
        hierarchy = self.encoder.visit_blocks(view, reading)
        return LabelAttention(hierarchy, tuple(reading.weights))

    def interaction(self, stage: int, number: int) -> Interaction:
        """One of the interactions of a stage."""
        interactions = self.interactions[stage]
        assert isinstance(interactions, nn.ModuleList)
        interaction = interactions[number]
        assert isinstance(interaction, Interaction)
        return interaction

    def update_tokens(self, stage: int, number: int, labels: Tensor, x: Tensor) -> Tensor:
        """The tokens float (B, N, D) before an interaction: updated by the labels, or as they are."""
        updates = self.visual[stage]
        assert isinstance(updates, nn.ModuleList)
        if len(updates):
            x = updates[number](labels, x)
        return x

    def normed(self, stage: int, x: Tensor) -> Tensor:
        """The tokens as labels read them: those of the last stage pass the encoder's last norm."""
        norm = self.encoder.last_norm
        if norm is not None and stage == len(self.interactions) - 1:
            x = norm(x)
        return x

    def _check_others(self, vectors: Tensor) -> None:
        if self.head.rows == "own":
            raise ConfigError(
                "this model cannot score other labels: each of its labels has weights of its own in the head"
                " (head_weights=own); train one with head_weights=shared"
            )
        if vectors.ndim != 2 or vectors.shape[1] != self.vectors.shape[1]:
            raise ConfigError(
                f"vectors: got shape {tuple(vectors.shape)}, expected (labels, {self.vectors.shape[1]}): "
                "embed the labels as those of the training"
            )


class _Reading:
    """One forward pass: the labels on their way through the stages (a :class:`castssl.contracts.Visit`)."""

    def __init__(self, model: HSVLT, vectors: Tensor, batch: int, *, record: bool = False) -> None:
        self.model, self.record = model, record
        self.labels = vectors.expand(batch, -1, -1)
        self.seen = [0] * len(model.interactions)
        self.fused: list[Tensor] = []
        """M of each stage so far."""
        self.weights: list[Tensor] = []
        """float32 (B, C, N) of each stage so far."""

    def __call__(self, stage: int, tokens: Tokens) -> Tensor:
        """The tokens' x, after the interactions that belong to this visit."""
        model, x = self.model, tokens.x
        if not self.seen[stage]:
            # The vectors are the same for all images until the first interaction: one image is scaled.
            first = self.labels if stage else self.labels[:1]
            self.labels = model.scaling[stage](first).expand(len(x), -1, -1)
        visits, self.seen[stage] = model.encoder.visits[stage], self.seen[stage] + 1
        interactions = model.interactions[stage]
        assert isinstance(interactions, nn.ModuleList)
        count, left = len(interactions), visits - self.seen[stage]
        due: Sequence[int] = range(count) if left == 0 else ()
        if model.interact == "block":
            due = [count - 1 - left] if left < count else ()
        for number in due:
            x = self._interact(stage, number, tokens._replace(x=x), last=number == count - 1)
        return x

    def _interact(self, stage: int, number: int, tokens: Tokens, *, last: bool) -> Tensor:
        model, interaction = self.model, self.model.interaction(stage, number)
        x = model.update_tokens(stage, number, self.labels, tokens.x)
        tokens = tokens._replace(x=model.normed(stage, x))
        if last and self.record:
            self.weights.append(interaction.weights(self.labels, tokens))
        self.labels, fused = interaction(self.labels, tokens)
        if last:
            self.fused.append(fused)
        return x


def _scale(parts: Sequence[nn.Module]) -> None:
    """Draw all linear layers such that their results are about as large as what they read."""
    for layer in (module for part in parts for module in part.modules()):
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)


def _interactions(visits: int, interact: Interact, blocks: int) -> int:
    """How many interactions a stage has that is visited so often."""
    if interact == "stage":
        return blocks or 1
    return min(blocks or visits, visits)


def _aggregation(dims: Sequence[int], name: Aggregate, kernel: Kernel) -> Aggregation:
    if kernel not in (1, 3) or (kernel == 3 and name != "hamburger"):
        raise ConfigError(
            f"kernel: got {kernel} with aggregation={name}, expected 1, or 3 with aggregation=hamburger"
        )
    if name == "hamburger":
        return Hamburger(dims, kernel)
    return Concatenation(dims) if name == "concat" else LastStage(dims)


def _check(encoder: Encoder, vectors: Tensor, blocks: int, visual: Visual) -> None:
    if vectors.ndim != 2 or not vectors.is_floating_point() or 0 in vectors.shape:
        raise ConfigError(
            f"vectors: got {vectors.dtype} of shape {tuple(vectors.shape)}, expected floating-point numbers"
            " (labels, channels), such as castssl.text.embeddings(names, 'learned:256').vectors"
        )
    if blocks < 0:
        raise ConfigError(
            f"blocks: got {blocks}, expected a number of interactions a stage, or 0 for all blocks"
        )
    if visual == "gated" and not encoder.takes_updates:
        raise ConfigError(
            f"visual=gated changes tokens between blocks, which a {type(encoder).__name__} does not take; set"
            " visual=none, or take another encoder, such as timm-features:convnext_tiny"
        )
