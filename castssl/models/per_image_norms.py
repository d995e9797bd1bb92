"""Norms whose affine parameters differ from image to image, so that a batch is adapted image by image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from timm.layers.norm import LayerNorm as TimmLayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.errors import ConfigError

Statistics = Literal["running", "image"]
"""Of the stem's batch norms: those of the training, or those of each image alone."""
BATCH = (nn.BatchNorm1d, nn.BatchNorm2d)
KNOWN = (nn.LayerNorm, TimmLayerNorm, *BATCH)


@contextmanager
def per_image_norms(
    module: nn.Module, count: int, *, statistics: Statistics = "running"
) -> Iterator[dict[str, Tensor]]:
    """Give each image of a batch its own copy of the affine parameters of all norms.

    Nothing of the module is changed: hooks compute the norms again, and are removed afterwards.  Batch norms
    do not mix images, which needs evaluation mode.

    Args:
        module: in evaluation mode; called inside with batches of ``count`` images.
        count: images B of a batch.
        statistics: ``"image"``: each ``BatchNorm2d`` takes mean and variance of the image's own cells.

    Yields:
        The copies by the parameters' names, float (B, C) that require a gradient.  Values of other tensors
        that are put into this dict count from the next forward pass on.

    Raises:
        ConfigError: if the module has no norm with affine parameters, or one of another kind than
            :data:`KNOWN`; in a forward pass, if the first dimension of a norm's input is not the images.
    """
    norms = dict(_affine(module))
    copies = {
        f"{name}.{kind}": value.detach().expand(count, -1).clone().requires_grad_()
        for name, norm in norms.items()
        for kind, value in norm.named_parameters(recurse=False)
    }
    with ExitStack() as hooks:
        for name, norm in norms.items():
            hooks.callback(norm.register_forward_hook(_Norm(name, copies, count, statistics)).remove)
        yield copies


class _Norm:
    """A forward hook that normalizes the input of a norm, and applies each image's own parameters."""

    def __init__(self, name: str, copies: dict[str, Tensor], count: int, statistics: Statistics) -> None:
        self.name, self.copies, self.count, self.statistics = name, copies, count, statistics

    def __call__(self, norm: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        (x,) = args
        if len(x) != self.count:
            raise ConfigError(
                f"the input of the norm {self.name} is {tuple(x.shape)}, expected one row for each of"
                f" {self.count} images; adapt an encoder whose norms have images in their first dimension"
            )
        ones = (1,) * (x.dim() - 2)
        shape = (self.count, -1, *ones) if isinstance(norm, BATCH) else (self.count, *ones, x.shape[-1])
        normed = _normalized(norm, x, self.statistics) * self.copies[f"{self.name}.weight"].view(shape)
        bias = self.copies.get(f"{self.name}.bias")
        return normed if bias is None else normed + bias.view(shape)


def _normalized(norm: nn.Module, x: Tensor, statistics: Statistics) -> Tensor:
    """The input without mean and deviation."""
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    assert isinstance(norm, BATCH)
    if statistics == "image" and isinstance(norm, nn.BatchNorm2d):
        return F.instance_norm(x, eps=norm.eps)
    return F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


def _affine(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The norms with affine parameters, by name.

    Raises:
        ConfigError: if there is none, or one of an unknown kind.
    """
    found = [
        (name, part)
        for name, part in module.named_modules()
        if "norm" in type(part).__name__.lower() and [*part.parameters(recurse=False)]
    ]
    strange = {type(part).__name__ for _, part in found if type(part) not in KNOWN}
    if strange or not found:
        kinds = ", ".join(sorted(strange)) or "none"
        raise ConfigError(
            f"test-time adaptation changes norms of the kinds LayerNorm, BatchNorm1d and BatchNorm2d, got"
            f" {kinds} in a {type(module).__name__}; take another encoder, such as CAST or a ViT"
        )
    return iter(found)
