"""What batch norm asks of a batch."""

from __future__ import annotations

from torch import nn

from castssl import distributed
from castssl.contracts import Encoder, Objective
from castssl.errors import ConfigError


def check_batch(objective: Objective, images: int) -> None:
    """Refuse a single image for each process where batch norm needs two.

    Batch norms within the encoder are left alone: they see many positions of one image.

    Args:
        objective: what is trained, in training mode where it will be.
        images: of each forward pass, over all processes: the batch over the accumulated batches.

    Raises:
        ConfigError: with the flags that give a process more images.
    """
    world = distributed.world()
    synchronized = world > 1 and all(parameter.is_cuda for parameter in objective.parameters())
    if images // world != 1 or synchronized:
        return
    encoders = [module for module in objective.modules() if isinstance(module, Encoder)]
    inner = {id(part) for encoder in encoders for part in encoder.modules()}
    norms = [
        name
        for name, part in objective.named_modules()
        if isinstance(part, nn.BatchNorm1d) and part.training and id(part) not in inner
    ]
    if norms:
        raise ConfigError(
            f"a forward pass has 1 image in each process ({images} over {world}), but batch norm in training"
            f" needs 2 or more, and {type(objective).__name__} has {len(norms)}, such as {norms[0]}; raise"
            " --batch-size, lower --accumulate, or start fewer processes"
        )


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a module normalizes by the statistics of the batches that it is trained on."""
    return any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training for part in module.modules()
    )
