"""TransHP: tokens that stand for coarse classes prompt a transformer on its way to the finest class.

TransHP: Image Classification with Hierarchical Prompting (NeurIPS 2023), https://arxiv.org/abs/2304.06385.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import ClassifierModel, Supervised, cross_entropy, linear
from castssl.types import View
from castssl_baselines.prompting import Prompting, blocks_of, prompted


class Prompted(ClassifierModel):
    """An encoder with prompts of the coarse levels, coarse to fine, and a classifier of the finest."""

    promptings: nn.ModuleList
    head: nn.Linear

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) of each level: ``level0``, the coarsest, ``level1``, ..."""
        promptings = [module for module in self.promptings if isinstance(module, Prompting)]
        with prompted(self.encoder, promptings):
            hierarchy = self.encoder(view)
            logits = [prompting.logits() for prompting in promptings]
        logits.append(self.head(hierarchy.stages[-1].cls[:, 0]))
        return {f"level{level}": scores for level, scores in enumerate(logits)}


class TransHP(Supervised):
    """An encoder with prompts for coarse classes in single blocks, and a linear head for the finest level.

    Each level but the finest has one prompting block.  In its attention, the tokens include a learned prompt
    for each class of the level; the prompts are removed after the block.  The product of a prompt's output
    and its class's learned prototype is the logit of that class.  The class token and the patches attend to
    the prompts, so that all later blocks are conditioned on the coarse class.  No prediction selects or
    weighs a prompt; attention alone does.

    The loss is the finest level's cross entropy and ``weight`` times each coarse one's.

    Choices, where the idea leaves room (the released code is for the twelve levels of its ImageNet tree):

    - the prompting blocks are those before the last one, coarse levels first: with three levels and twelve
      blocks the 10th and the 11th, which is where the released code has its two finest coarse levels;
    - a ``weight`` of 1 for every coarse level: the released code's for those two (0.1 and 0.15 further up);
    - logits are plain products, as released, without a norm or a temperature;
    - in an encoder that pools, a prompt is gone before the next pooling, and never a part of it;
    - there is no prompt for "none of these classes": where a label is missing, its loss is left out.

    Args:
        encoder: what is trained: a CAST, which our ViTs are, too.
        labels: the data set's label tree, of two levels or more.
        weight: of the coarse levels' cross entropies.
        blocks: the prompting blocks, coarse to fine, from 0, or from the end with -1 the last.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise.
        ema: as :class:`castssl.objectives.deit.DeiT` has it.

    Raises:
        ConfigError: if the data set has fewer than two label levels, the encoder takes no prompts or has too
            few blocks, or an option is out of range.
    """

    model: Prompted

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        weight: float = 1.0,
        blocks: Sequence[int] | None = None,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
        ema: float = 0.0,
    ) -> None:
        super().__init__(labels, mixup=mixup, cutmix=cutmix, smoothing=smoothing)
        if weight < 0:
            raise ConfigError(f"weight of the coarse levels is 0 or above, got {weight}")
        self.weight = weight
        self.blocks = prompting_blocks(encoder, len(self.classes), blocks)
        *coarse, finest = self.classes
        promptings, hooked = [Prompting(encoder.dim, count) for count in coarse], blocks_of(encoder)
        for block, prompting in zip(self.blocks, promptings, strict=True):
            prompting.hook(hooked[block])
        head = linear(encoder.dim, finest)
        self.model = Prompted(encoder, promptings=nn.ModuleList(promptings), head=head)
        self.keep_average(ema)

    def criterion(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The finest level's cross entropy and ``weight`` times the others', whose sum is logged."""
        *coarse, finest = [cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]
        prompting = torch.stack(coarse).sum()
        return finest + self.weight * prompting, {"prompting": prompting.detach()}


def prompting_blocks(encoder: Encoder, levels: int, blocks: Sequence[int] | None = None) -> tuple[int, ...]:
    """The block that each level but the finest prompts in, coarse to fine, from 0.

    Raises:
        ConfigError: if there is no such block, the order is another, or nothing to prompt or to be prompted.
    """
    count = len(blocks_of(encoder))
    if not count:
        raise ConfigError(
            f"TransHP hands prompts to its encoder's blocks, and a {type(encoder).__name__} takes none; take"
            " a CAST, or a ViT such as hier_vit_small"
        )
    if levels < 2:
        raise ConfigError(
            f"TransHP prompts with coarser classes, but the data set has {levels} label level; take deit"
        )
    requested = range(-levels, -1) if blocks is None else blocks
    indices = tuple(block + count if block < 0 else block for block in requested)
    fits = all(0 <= block < count for block in indices) and list(indices) == sorted(set(indices))
    if not fits or len(indices) != levels - 1:
        raise ConfigError(
            f"blocks: {levels} label levels need {levels - 1} prompting blocks in rising order, got"
            f" {tuple(requested)} of the encoder's {count}"
        )
    return indices
