"""What fine-tuning of a pretrained encoder adds to an optimizer: rates by depth, and clipped gradients."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from castssl.contracts import Encoder
from castssl.models.cast import CAST
from castssl.models.fuse import FusedCAST
from castssl.models.mask_queries import joinable


def decay_rates(optimizer: Optimizer, encoder: Encoder, factor: float) -> None:
    """Multiply the learning rate of each block of an encoder by ``factor`` to the number of blocks after it.

    What comes before the blocks has the rate of the first one, and a pooling that of the block before it.
    The last norm, a fusion and the heads keep theirs, as in EoMT (https://arxiv.org/abs/2503.19108).  Call
    it before the first step.

    Args:
        optimizer: from :func:`castssl.training.optim.build_optimizer`; its groups are parted.
        encoder: one without blocks that :func:`castssl.models.mask_queries.joinable` finds stays as it is.
        factor: in (0, 1].
    """
    after = _blocks_after(encoder)
    groups = []
    for group in optimizer.param_groups:
        parts: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(after.get(parameter, 0), []).append(parameter)
        for count, parameters in parts.items():
            rates = {name: group[name] * factor**count for name in ("lr", "initial_lr")}
            groups.append(group | rates | {"params": parameters})
    optimizer.param_groups[:] = groups


def _blocks_after(encoder: Encoder) -> dict[nn.Parameter, int]:
    """How many blocks come after the one that a parameter belongs to."""
    blocks = joinable(encoder)
    last = max(len(blocks) - 1, 0)
    after = dict.fromkeys(encoder.parameters(), last)
    after |= {part: last - at for at, block in enumerate(blocks) for part in block.parameters()}
    ends: list[nn.Module | None] = [encoder.last_norm]
    if isinstance(encoder, CAST):
        done = 0
        for depth, pooling in zip(encoder.depths, encoder.poolings, strict=False):
            done += depth
            after |= dict.fromkeys(pooling.parameters(), last - done + 1)
    if isinstance(encoder, FusedCAST):
        ends.append(encoder.fusion)
    return after | {part: 0 for end in ends if end is not None for part in end.parameters()}


def clip_gradients(optimizer: Optimizer, norm: float) -> None:
    """Scale the gradients to at most this norm, all together, before each step of the optimizer."""

    def clip(optimizer: Optimizer, args: object, kwargs: object) -> None:
        every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(every, norm)

    optimizer.register_step_pre_hook(clip)
