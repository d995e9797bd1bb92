"""How the weights of linear layers, tokens and classifiers begin.

DeiT (https://arxiv.org/abs/2012.12877) draws them with a standard deviation of 0.02, and MoCo v3
(https://arxiv.org/abs/2104.02057) draws linear layers by Xavier's rule.
"""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn

STD, WIDTH = 0.02, 384
"""DeiT's deviation, and the width of its small model, which CAST-S has, too."""


def std(width: int) -> float:
    """DeiT's standard deviation; below a width of 384 it grows, so that rows keep their length.

    With 0.02 at 64 channels, a linear layer would begin at 0.41 of its scale, and residual blocks would
    leave their tokens nearly as they are.
    """
    growth: float = (WIDTH / min(width, WIDTH)) ** 0.5
    return STD * growth


def trunc_normal(tensor: Tensor, width: int) -> None:
    """Draw a tensor as DeiT does, in an encoder of this width."""
    nn.init.trunc_normal_(tensor, std=std(width))


def draw_as_deit(module: nn.Module, width: int) -> None:
    """Draw the linear layers of a module as DeiT does, in an encoder of this width; their biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            trunc_normal(layer.weight, width)
            _clear_bias(layer)


def draw_as_moco(*modules: nn.Module) -> None:
    """Draw the linear layers of modules as MoCo v3 does; their biases are 0."""
    for name, layer in chain.from_iterable(module.named_modules() for module in modules):
        if not isinstance(layer, nn.Linear):
            continue
        if "qkv" in name:
            # q, k and v are three matrices in one: each gets the bound of its own shape.
            bound = (6 / (layer.out_features / 3 + layer.in_features)) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
        else:
            nn.init.xavier_uniform_(layer.weight)
        _clear_bias(layer)


def _clear_bias(layer: nn.Linear) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def linear(dim: int, classes: int, *, width: int | None = None) -> nn.Linear:
    """A linear classifier as DeiT begins with it.

    Args:
        dim: of the features.
        classes: number of classes.
        width: of the encoder, where the classifier reads a part of the features.
    """
    head = nn.Linear(dim, classes)
    draw_as_deit(head, width or dim)
    return head
