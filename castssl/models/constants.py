"""Views as images of another mean and standard deviation, such as those of weights of timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from castssl.encoder_config import MEAN, STD


def pretrained_constants(network: nn.Module) -> dict[str, tuple[float, ...]]:
    """``mean`` and ``std`` of the images that timm's weights of a model were trained with.

    Returns:
        Values for these fields of the config; {} where they are ImageNet's, as in views.
    """
    about: Any = network
    mean, std = (tuple(about.pretrained_cfg[name]) for name in ("mean", "std"))
    return {} if (mean, std) == (MEAN, STD) else {"mean": mean, "std": std}


def conversion(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Factor and shift, each (3, 1, 1), from views to images of another mean and standard deviation."""
    view_mean, view_std, own_mean, own_std = (
        torch.tensor(values)[:, None, None] for values in (MEAN, STD, mean, std)
    )
    return view_std / own_std, (view_mean - own_mean) / own_std
