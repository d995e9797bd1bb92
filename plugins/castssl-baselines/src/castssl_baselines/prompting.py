"""Prompt tokens that take part in the attention of one block of a CAST, by hooks on the block.

TransHP: Image Classification with Hierarchical Prompting (NeurIPS 2023), https://arxiv.org/abs/2304.06385.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.models.blocks import Stage
from castssl.models.initialization import trunc_normal


class Prompting(nn.Module):
    """The prompt tokens and the prototypes of the classes of one coarse level.

    Attributes:
        after: what became of the prompts in the pass that is going on: float (B, C, D).

    Args:
        dim: token width D.
        classes: C of the level.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(classes, dim))
        self.prototypes = nn.Parameter(torch.empty(classes, dim))
        trunc_normal(self.tokens, dim)
        trunc_normal(self.prototypes, dim)
        self.joining = False
        self.after: Tensor | None = None

    def hook(self, block: nn.Module) -> None:
        """Let the tokens take part in ``block`` within :func:`prompted`; the block is as before outside.

        A deep copy of this module and the block together is hooked to the copied tokens.
        """
        block.register_forward_pre_hook(self._join, with_kwargs=True)
        block.register_forward_hook(self._part)

    def logits(self) -> Tensor:
        """Logits float32 (B, C): of each prompt's output with the prototype of its class.

        Raises:
            RuntimeError: outside :func:`prompted`.
        """
        if self.after is None:
            raise RuntimeError("the prompts took part in no pass; call this within prompted()")
        return (self.after.float() * self.prototypes.float()).sum(-1)

    def _join(
        self, block: nn.Module, args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Put the prompts behind the tokens float (B, 1 + N, D), where padding is hidden from them, too."""
        if not self.joining:
            return None
        x, mask = args[0], options["attn_mask"]
        prompts = self.tokens.to(x.dtype).expand(len(x), -1, -1)
        if mask is not None:
            # A mask of numbers is added to the logits of the attention.
            mask = F.pad(mask, (0, prompts.shape[1]), value=mask.dtype == torch.bool)
        return (torch.cat([x, prompts], 1),), {**options, "attn_mask": mask}

    def _part(self, block: nn.Module, args: tuple[Any, ...], together: Tensor) -> Tensor | None:
        """Take the prompts out again."""
        if not self.joining:
            return None
        count = together.shape[1] - len(self.tokens)
        self.after = together[:, count:]
        return together[:, :count]


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    """The attention blocks that prompts can join, in the order of the pass; none if this is not a CAST."""
    return [block for stage in _stages(encoder) for block in stage.blocks]


@contextmanager
def prompted(encoder: nn.Module, promptings: Iterable[Prompting]) -> Iterator[None]:
    """Prompts take part in the passes of ``encoder`` within this; ``after`` of each is to be read inside.

    Activations are kept meanwhile where blocks would be computed anew for the backward pass: that comes when
    the prompts have left.
    """
    joined, stages = list(promptings), _stages(encoder)
    kept = [stage.checkpointing for stage in stages]
    for stage in stages:
        stage.checkpointing = False
    for prompting in joined:
        prompting.joining = True
    try:
        yield
    finally:
        for prompting in joined:
            prompting.joining, prompting.after = False, None
        for stage, checkpointing in zip(stages, kept, strict=True):
            stage.checkpointing = checkpointing


def _stages(encoder: nn.Module) -> list[Stage]:
    return [module for module in encoder.modules() if isinstance(module, Stage)]
