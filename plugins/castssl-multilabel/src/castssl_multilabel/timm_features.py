"""Any timm model with feature maps as an encoder: each map is a stage, and its cells are the tokens.

Superpixels do not enter it.  ``timm-features:convnext_small`` is the trunk of HSVLT
(https://arxiv.org/abs/2407.16244).  Shape letters: B images, N = h w cells, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from timm.layers.format import Format
from timm.models import FeatureDictNet
from torch import Tensor, nn

from castssl.contracts import Encoder, Visit
from castssl.encoder_config import BY_HAND, MEAN, STD, EncoderConfig, plugin_config
from castssl.errors import ConfigError
from castssl.models.constants import conversion, pretrained_constants
from castssl.models.image_sizes import check_side
from castssl.models.timm_encoder import cells, create_network
from castssl.tokens.inputs import check_image
from castssl.types import Hierarchy, Tokens, View


@runtime_checkable
class Formatted(Protocol):
    """A timm model that says which axis its channels have; timm's models share names and no base class."""

    output_fmt: Format


class Step(NamedTuple):
    """A part of the network that runs as a whole."""

    module: nn.Module
    stage: int
    """Of the map that it belongs to."""
    visited: bool
    """True if its result is a map of the stage, which may be visited."""


class TimmFeatures(Encoder):
    """A timm model with ``features_only``: its feature maps, fine to coarse, are the stages.

    A stage's class token is the mean of its map.  Models whose stages timm runs one after the other, such as
    ConvNeXt, Swin and ResNet, are visited after each block, and take updates; others once per stage.

    Attributes:
        uses_superpixels: False; its cells are its own, and no superpixel has to fit.

    Args:
        name: a timm model name, such as ``convnext_small``.
        image_size: side in pixels, at most :data:`castssl.models.image_sizes.LARGEST`.
        drop_path: stochastic depth rate of the last block.
        pretrained: with timm's weights, which are downloaded once; the encoder then converts views to the
            mean and standard deviation of these weights.

    Raises:
        ValueError: if timm knows no such model (the message has the closest names), it has no feature maps,
            they do not go from fine to coarse, the model takes no stochastic depth, or ``image_size`` is out
            of range.
    """

    takes_constants = True
    uses_superpixels = False

    def __init__(
        self, name: str, *, image_size: int = 224, drop_path: float = 0.0, pretrained: bool = False
    ) -> None:
        super().__init__()
        check_side(name, image_size)
        self.network = _create(name, image_size, drop_path, pretrained)
        constants = pretrained_constants(self.network) if pretrained else {}
        self.conversion = conversion(**constants) if constants else None
        self.last_axis = _channels_last(self.network)
        self.network.eval()
        draw = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, image_size, image_size, generator=draw, device="cpu")
        image = image.to(next(self.network.parameters()).device)
        with torch.no_grad():
            try:
                maps = self._maps(image)
            except (RuntimeError, AssertionError) as error:  # timm's own, of sizes that do not fit
                raise ValueError(_unable(f"{name} at {image_size} pixels", name, error)) from error
            steps = self._steps(image)
        self.network.train()
        grids = [_grid(found) for found in maps]
        if any(a < b for fine, coarse in pairwise(grids) for a, b in zip(fine, coarse, strict=True)):
            raise ValueError(f"the feature maps of {name} do not go from fine to coarse: {grids}")
        self.dims = tuple(found.shape[-1] for found in maps)
        self.counts = tuple(sum(s.visited for s in steps if s.stage == at) or 1 for at in range(len(maps)))
        # As paths: a deep copy of the encoder must run its own modules.
        paths = {module: path for path, module in self.network.named_modules()}
        self.steps = [(paths[step.module], step.stage, step.visited) for step in steps]
        self.takes_updates = bool(steps)
        self.dim, self.sizes = self.dims[-1], tuple(rows * cols for rows, cols in grids)
        # A file of this encoder has no other place for the constants.
        shape: dict[str, Any] = {"sizes": self.sizes, "dim": self.dim, "pooling": BY_HAND, **constants}
        self.config = plugin_config(
            f"timm-features:{name}", image_size=image_size, drop_path=drop_path, **shape
        )

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each map."""
        return self.dims

    @property
    def visits(self) -> tuple[int, ...]:
        """Blocks of each stage, or 1 where the stage runs as a whole."""
        return self.counts

    def forward(self, view: View) -> Hierarchy:
        """The stages; their segments are the cells of the finest map, not the view's superpixels."""
        check_image(view)
        maps = self._maps(self._converted(view.image))
        if not self.steps and torch.is_grad_enabled():
            # DDP waits for a gradient of all that is trained; finer maps may have own layers, as HRNet's do.
            for finer in maps[:-1]:
                maps[-1] = maps[-1] + 0 * finer[:, :1, :1, :1].to(maps[-1].dtype)
        return self._hierarchy(view, maps)

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        """As :meth:`forward`, with a call of ``visit`` after each block; see :attr:`visits`."""
        if not self.steps:
            return super().visit_blocks(view, visit)
        check_image(view)
        maps: list[Tensor] = []
        masses: list[Tensor] = []
        x = self._converted(view.image)
        for path, stage, visited in self.steps:
            x = self.network.get_submodule(path)(x)
            if not visited:
                continue
            found = x if self.last_axis else x.permute(0, 2, 3, 1)
            if stage == len(maps):
                maps.append(found)
                masses.append(_mass(maps, masses))
            tokens = _tokens(found, masses[stage])
            updated = visit(stage, tokens)
            if updated is not tokens.x:
                found = updated.unflatten(1, _grid(found))
                x = found if self.last_axis else found.permute(0, 3, 1, 2)
            maps[stage] = found
        return self._hierarchy(view, maps)

    def _steps(self, image: Tensor) -> list[Step]:
        """What the network runs in order, tried on a part of the image where it takes that, for time."""
        if not isinstance(self.network, FeatureDictNet):
            return []
        try:
            return _steps(self.network, image[..., :64, :64])
        except (RuntimeError, AssertionError):  # models with windows or positions for one size
            return _steps(self.network, image)

    def _converted(self, image: Tensor) -> Tensor:
        if self.conversion is not None:
            factor, shift = (values.to(image, non_blocking=True) for values in self.conversion)
            image = image * factor + shift
        return image

    def _maps(self, image: Tensor) -> list[Tensor]:
        """All maps, float (B, h, w, D), fine to coarse."""
        return [found if self.last_axis else found.permute(0, 2, 3, 1) for found in self.network(image)]

    def _hierarchy(self, view: View, maps: Sequence[Tensor]) -> Hierarchy:
        masses: list[Tensor] = []
        batch = len(view.image)
        for count in range(1, len(maps) + 1):
            masses.append(_mass(maps[:count], masses))
        stages = tuple(_tokens(found, mass) for found, mass in zip(maps, masses, strict=True))
        assigns = tuple(
            cells(_grid(fine), _grid(coarse), fine.device).flatten().expand(batch, -1)
            for fine, coarse in pairwise(maps)
        )
        height, width = view.image.shape[-2:]
        pixels = cells((height, width), _grid(maps[0]), view.image.device).int().expand(batch, -1, -1)
        return Hierarchy(pixels, stages, assigns)


def from_config(config: EncoderConfig) -> TimmFeatures:
    """Any timm model with feature maps, ``timm-features:NAME``.

    Raises:
        ConfigError: if timm has no such model or no feature maps of it, or it cannot have these sizes or
            channels.
    """
    if config.channels != 3:
        raise ConfigError(f"{config.name} reads RGB, got {config.channels} channels; leave channels at 3")
    name = config.name.removeprefix("timm-features:")
    try:
        encoder = TimmFeatures(name, image_size=config.image_size, drop_path=config.drop_path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.sizes and config.sizes != encoder.sizes:
        raise ConfigError(
            f"{config.name} has the sizes {encoder.sizes} at {config.image_size} pixels, got {config.sizes};"
            " leave sizes out"
        )
    shape: dict[str, Any] = {"sizes": encoder.sizes, "dim": encoder.dim, "pooling": BY_HAND}
    encoder.config = replace(config, **shape)
    if config.mean or config.std:
        encoder.conversion = conversion(config.mean or MEAN, config.std or STD)
    return encoder


def _create(name: str, image_size: int, drop_path: float, pretrained: bool) -> nn.Module:
    """The network.

    Raises:
        ValueError: as :class:`TimmFeatures` does.
    """
    try:
        return create_network(name, image_size, drop_path, features_only=True, pretrained=pretrained)
    except (TypeError, RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(_unable(name, name, error)) from error


def _unable(what: str, name: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}"
    return (
        f"timm gives no feature maps of {what} ({reason}); take another model, such as convnext_tiny, or"
        f" timm:{name} for its last map"
    )


def _channels_last(network: nn.Module) -> bool:
    """True if the network's maps are (B, h, w, D), as Swin's are."""
    return isinstance(network, Formatted) and network.output_fmt == Format.NHWC


def _steps(network: Any, image: Tensor) -> list[Step]:
    """What the network runs, in order; a stage is split into its blocks where that gives its result.

    It is empty if a part returns more than a map.

    Args:
        network: in evaluation mode; runs its children one after the other, and returns the results of some.
        image: to try it with, float (1, 3, H, W).
    """
    steps, stage, x = list[Step](), 0, image
    for name, module in network.items():
        returned = name in network.return_layers
        after = module(x)
        if not isinstance(after, Tensor):
            return []
        before, blocks = _blocks(module) if returned else ([], [])
        if blocks and _same(before, blocks, x, after):
            steps += [Step(part, stage, visited=False) for part in before]
            steps += [Step(block, stage, visited=True) for block in blocks]
        else:
            steps.append(Step(module, stage, visited=returned))
        stage, x = stage + returned, after
    return steps


def _blocks(module: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """What runs before the blocks of a stage, and the blocks; none if the stage has no such form.

    ResNet's stages are blocks in a row; ConvNeXt's and Swin's are ``downsample`` and then ``blocks``.
    """
    parts = dict(module.named_children())
    before: list[nn.Module] = []
    if list(parts) == ["downsample", "blocks"]:
        before, module = [parts["downsample"]], parts["blocks"]
    if not isinstance(module, nn.Sequential) or len({type(block) for block in module}) != 1:
        return [], []
    return before, list(module)


def _same(before: Sequence[nn.Module], blocks: Sequence[nn.Module], x: Tensor, expected: Tensor) -> bool:
    """True if the parts in a row give a stage's result, and each block a map of its shape."""
    try:
        for part in before:
            x = part(x)
        for block in blocks:
            x = block(x)
            if not isinstance(x, Tensor) or x.shape != expected.shape:
                return False
    except (RuntimeError, TypeError):  # the stage does more between them, such as to move its channels
        return False
    return x.is_meta or torch.allclose(x, expected, rtol=1e-4, atol=1e-5)


def _grid(found: Tensor) -> tuple[int, int]:
    """Rows and columns of a map (B, h, w, D)."""
    return found.shape[1], found.shape[2]


def _tokens(found: Tensor, mass: Tensor) -> Tokens:
    """The cells of a map (B, h, w, D), and their mean as the class token."""
    x = found.flatten(1, 2)
    return Tokens(x, x.mean(1, keepdim=True), mass)


def _mass(maps: Sequence[Tensor], masses: Sequence[Tensor]) -> Tensor:
    """How many cells of the finest map lie in each cell of the last one: float32 (B, N)."""
    last = maps[-1]
    rows, cols = _grid(last)
    if len(maps) == 1:
        return torch.ones(len(last), rows * cols, device=last.device)
    index = cells(_grid(maps[-2]), (rows, cols), last.device).flatten().expand(len(last), -1)
    return torch.zeros(len(last), rows * cols, device=last.device).scatter_add_(1, index, masses[-1])
