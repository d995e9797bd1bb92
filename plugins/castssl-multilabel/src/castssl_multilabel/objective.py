"""Many labels per image: a logit of each label, and a binary loss over the labels that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from castssl.contracts import Encoder
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.objectives.averaged import Averaged, Branch
from castssl.text import LabelEmbeddings, embeddings
from castssl.types import Batch, LabelAttention, Outcome, View
from castssl_multilabel.aggregation import Rows
from castssl_multilabel.interaction import Kind, Norm
from castssl_multilabel.losses import Reduction, asymmetric, binary_cross_entropy, reduce
from castssl_multilabel.model import HSVLT, Aggregate, Init, Interact, Kernel, LabelModel, PlainHead, Visual

Loss = Literal["bce", "asl"]
Head = Literal["hsvlt", "plain"]


class MultiLabel(Averaged[LabelModel]):
    """Learn which labels an image has, each by itself.

    An entry of the target that is unknown (-1) adds nothing to the loss.

    Args:
        encoder: what is trained.
        labels: a label tree of labels that do not exclude each other; the levels stand side by side.
        head: ``"hsvlt"``: label embeddings attend to the stages, see
            :class:`castssl_multilabel.model.HSVLT`; ``"plain"``: a linear classifier on the last class token,
            for which no option up to ``init`` counts.
        text: where the embeddings of the label names come from, see :mod:`castssl.text`; those of
            ``learned:DIM`` are trained.
        prompt: a text with ``{}`` where the name belongs; "" is the source's own.
        store: a file that keeps the embeddings, see :func:`castssl.text.embeddings`; "" for none.
        stored: the width of embeddings that a saved state will fill in, so that none is computed; 0 for none.
        interact: labels attend to tokens after each ``"block"``, as released, or after each ``"stage"``.
            :class:`castssl_multilabel.model.HSVLT` tells more of this and the next nine.
        blocks: interactions of each stage; 0: as many as blocks, or one after the stage.
        attention: ``"interactive"``, that of HSVLT, or ``"standard"``, cross-attention and an MLP.
        norm: ``"none"``, as released, or ``"pre"``: labels and tokens are normalized before each use.
        heads: of the attention; the released code has one.
        visual: ``"none"``, as released, or ``"gated"``: labels update the tokens, too.
        aggregation: over the stages: ``"concat"``, as released, ``"hamburger"``, or ``"none"``, the last one.
        kernel: of the convolutions over labels in ``"hamburger"``; 3 depends on the order of labels.
        head_weights: ``"own"``, as released: a label's score has weights of its own; ``"shared"``: all have
            the same, so other names can be scored, too.
        init: of linear layers: ``"released"``, a deviation of 0.02, or ``"scaled"``, for a trunk that has not
            been trained.
        loss: ``"bce"``, binary cross entropy, or ``"asl"``, the asymmetric loss, see
            :mod:`castssl_multilabel.losses`.
        reduction: ``"mean"`` over the known entries, as in the released code of HSVLT, or ``"sum"`` over the
            labels and mean over the images, as in timm.
        gamma_pos: of the asymmetric loss; timm has 1, the configuration released with HSVLT 0.
        gamma_neg: likewise; timm has 4, that configuration 1.
        clip: likewise; both have 0.05.
        ema: keep an average of encoder and head that moves by 1 - ``ema`` a step, for ``branch("ema")``; 0
            keeps none.

    Raises:
        ConfigError: if the labels exclude each other or there are none, they have no names for a text encoder
            to read, or an option is out of range.
        DataError, PluginError: as :func:`castssl.text.embeddings`.
    """

    target = "multihot"

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        head: Head = "hsvlt",
        text: str = "learned:256",
        prompt: str = "",
        store: str = "",
        stored: int = 0,
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
        loss: Loss = "bce",
        reduction: Reduction = "mean",
        gamma_pos: float = 1.0,
        gamma_neg: float = 4.0,
        clip: float = 0.05,
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        _check(labels, head, loss, reduction)
        reading: dict[str, Any] = {"interact": interact, "blocks": blocks, "attention": attention}
        combining: dict[str, Any] = {"visual": visual, "aggregation": aggregation, "kernel": kernel}
        combining |= {"norm": norm, "heads": heads, "head_weights": head_weights, "init": init}
        self.sizes, self.reduction = labels.sizes, reduction
        self.criterion = _criterion(loss, gamma_pos, gamma_neg, clip)
        self.text, self.prompt = text, prompt
        self.names = [name for level in labels.names for name in level]
        if head == "plain":
            self.model = PlainHead(encoder, sum(labels.sizes))
        else:
            vectors, self.prompt = self._embed(store, stored)
            learned = text.startswith("learned:")
            self.model = HSVLT(encoder, vectors, learn_vectors=learned, **reading, **combining)
        self.keep_average(ema)

    def forward(self, batch: Batch) -> Outcome:
        """The loss, and the share of known labels that are on the right side of a probability of 0.5.

        The share is not a number where no label is known.

        Raises:
            ValueError: unless the batch has one view and a target float32 (B, C).
        """
        target = self._check(batch)
        logits = self.model.logits(batch.views[0]).float()
        loss = reduce(self.criterion(logits, target), target, self.reduction)
        right = (((logits.detach() > 0) == (target > 0)) & (target >= 0)).sum() / (target >= 0).sum()
        return Outcome(loss, {"loss": loss.detach(), "accuracy": right})

    def predict(self, view: View, branch: Branch = "base") -> Mapping[str, Tensor]:
        """Logits float32 (B, C) of each level: ``class``, or ``level0``, the coarsest, ``level1``, ..."""
        logits = self._model(branch).logits(view).split(self.sizes, dim=1)
        names = ["class"] if len(logits) == 1 else [f"level{level}" for level in range(len(logits))]
        return dict(zip(names, logits, strict=True))

    def label_attention(self, view: View, branch: Branch = "base") -> LabelAttention | None:
        """What each label attends to at each stage; None with a plain head."""
        model = self._model(branch)
        return model.attention(view) if isinstance(model, HSVLT) else None

    @property
    def to_load(self) -> Mapping[str, str | int]:
        """Options in place of its own, with which it is built again where its weights will be filled in."""
        if not isinstance(self.model, HSVLT):
            return {}
        return {"stored": self.model.vectors.shape[1], "store": "", "prompt": self.prompt}

    @classmethod
    def to_rebuild(cls, options: Mapping[str, Any], heads: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """The same, with the width of the embeddings in the file, so that ``text`` is not read.

        Raises:
            DataError: if the file holds no embeddings.
        """
        if options.get("head") == "plain" or options.get("stored"):
            return options
        vectors = heads.get("vectors")
        if vectors is None or vectors.ndim != 2 or not vectors.shape[1]:
            shape = None if vectors is None else tuple(vectors.shape)
            raise DataError(
                f"the weights hold no label embeddings: got vectors of shape {shape}, expected (labels, D);"
                f" text={str(options.get('text'))[:60]}, which their settings name, is not read; copy the"
                " weights again, or train again"
            )
        return {**options, "stored": vectors.shape[1]}

    def scorer(self, names: Sequence[str]) -> Callable[[View], Tensor]:
        """A function of a view that returns the logits of other labels: float32 (B, C).

        Args:
            names: which may be among those that were learned, too.

        Raises:
            ConfigError: if the head is plain or has weights for each label, or the embeddings are learned or
                from a file without these names.
            DataError, PluginError: as :func:`castssl.text.embeddings`.
        """
        model = self.model
        if not isinstance(model, HSVLT) or model.head.rows == "own":
            raise ConfigError(
                "this head has weights of its own for each label that it learned, and cannot score others;"
                " train with --objective multilabel:head_weights=shared"
            )
        known = LabelEmbeddings(tuple(self.names), model.vectors, self.text, self.prompt)
        vectors = known.of(names).vectors.to(model.vectors)
        return lambda view: model.logits(view, vectors)

    def _embed(self, store: str, stored: int) -> tuple[Tensor, str]:
        """The embeddings of all levels' names and their prompt; with ``stored`` zeros of that width."""
        count = sum(self.sizes)
        if not self.names:
            if not self.text.startswith("learned:"):
                raise ConfigError(
                    f"{self.text} reads label names, but these {count} labels have none; take"
                    " text=learned:256"
                )
            self.names = [str(number) for number in range(count)]
        if stored:
            return torch.zeros(count, stored), self.prompt
        found = embeddings(self.names, self.text, prompt=self.prompt or None, store=store or None)
        return found.vectors, found.prompt

    def _check(self, batch: Batch) -> Tensor:
        """The target of a batch with one view and multi-hot labels."""
        if len(batch.views) != 1:
            raise ValueError(f"multilabel takes 1 view of each image, got {len(batch.views)}")
        target, width = batch.target, sum(self.sizes)
        if not target.is_floating_point() or target.shape[1:] != (width,):
            raise ValueError(
                f"multilabel takes targets float32 (B, {width}), got {target.dtype} of shape"
                f" {tuple(target.shape)}; take data of many labels per image"
            )
        return target


def _criterion(
    loss: Loss, gamma_pos: float, gamma_neg: float, clip: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The sum of a loss over the known entries; refuses options of it that are out of range."""
    if any(gamma < 0 or 0 < gamma < 1 for gamma in (gamma_pos, gamma_neg)) or not 0 <= clip < 1:
        raise ConfigError(
            "gamma_pos and gamma_neg are 0, or 1 or more (between, timm's loss has gradients that are not"
            f" finite), and clip is 0 to below 1; got {gamma_pos}, {gamma_neg} and {clip}"
        )
    if loss == "bce":
        return binary_cross_entropy
    return partial(asymmetric, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)


def _check(labels: LabelTree, head: str, loss: str, reduction: str) -> None:
    """Refuse labels that exclude each other, and names that there are not."""
    if labels.exclusive or not labels.levels:
        raise ConfigError(
            f"multilabel learns labels of which an image has any number; got {labels.levels} levels of"
            f" {labels.sizes} classes that exclude each other; take data such as voc07:, coco14:,"
            " nus-wide:, csv:FILE.csv?labels=COLUMN or demo-many"
        )
    if head not in ("hsvlt", "plain"):
        raise ConfigError(f"head: got {head}, expected hsvlt or plain")
    if loss not in ("bce", "asl") or reduction not in ("mean", "sum"):
        raise ConfigError(
            f"expected a loss bce or asl and a reduction mean or sum, got {loss} and {reduction}"
        )
