"""Any timm model as an encoder of one stage, so that it can be pretrained beside CAST; a ViT also of several.

Superpixels do not enter it: its tokens are the cells of its last feature map.  A ViT in several stages is
H-CAST's baseline Hier-ViT: all stages have the same tokens, and class tokens of several depths are at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Protocol, TypeGuard, runtime_checkable

import timm
import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.encoder_config import BY_HAND, MEAN, STD, EncoderConfig, plugin_config
from castssl.errors import ConfigError
from castssl.models.constants import conversion, pretrained_constants
from castssl.models.image_sizes import check_side
from castssl.tokens.inputs import check_image
from castssl.types import DenseTokens, Hierarchy, Tokens, View


@runtime_checkable
class Prefixed(Protocol):
    """A timm model with tokens before those of the patches; timm's models share names and no base class."""

    num_prefix_tokens: int


class Parted(Protocol):
    """A timm model whose blocks all have the same tokens, as a ViT's; :func:`is_parted` tells."""

    blocks: Sequence[nn.Module]
    cls_token: nn.Parameter | None
    global_pool: str

    def forward_intermediates(self, x: Tensor) -> Any:
        """What each block returns."""
        ...


def is_parted(network: nn.Module | None) -> TypeGuard[Parted]:
    """Whether there is a model, and it has the members of :class:`Parted`.

    From Python 3.12 on, ``isinstance`` with a protocol does not see parameters and modules of a module.
    """
    return {"blocks", "cls_token", "global_pool", "forward_intermediates"} <= set(dir(network))


class TimmEncoder(Encoder):
    """A timm model without classifier; its pooled feature serves as the class token.

    Attributes:
        uses_superpixels: False; its cells are its own, and no superpixel has to fit.

    Args:
        name: a timm model name, such as ``swin_tiny_patch4_window7_224``.
        image_size: side in pixels, at most :data:`castssl.models.image_sizes.LARGEST`.
        drop_path: stochastic depth rate.
        pretrained: with timm's weights, which are downloaded once; the encoder then converts views to the
            mean and standard deviation of these weights.
        stages: into how many stages the blocks of a ViT with a class token are parted, as equally as they
            can be: 4 stages of 12 blocks end after blocks 3, 6, 9 and 12 (of 11: the last has 2).  Only the
            last one's tokens are normed.

    Raises:
        ValueError: if timm knows no such model; the message has the closest names.  If ``image_size`` is out
            of range.  If ``stages`` is more
            than 1 and the model is not a ViT that is read by its class token, or has fewer blocks.  If
            ``drop_path`` is above 0 and the model takes no stochastic depth.
    """

    takes_constants = True
    uses_superpixels = False

    def __init__(
        self,
        name: str,
        *,
        image_size: int = 224,
        drop_path: float = 0.0,
        stages: int = 1,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        check_side(name, image_size)
        self.network = create_network(name, image_size, drop_path, num_classes=0, pretrained=pretrained)
        constants = pretrained_constants(self.network) if pretrained else {}
        self.conversion = conversion(**constants) if constants else None
        self.ends = _ends(name, self.network, stages)
        self.network.eval()
        with torch.no_grad():
            features, feature, _ = self._run(torch.zeros(1, 3, image_size, image_size))
        self.network.train()
        self.dim, self.dense_dim = feature.shape[-1], features.shape[-1]
        self.sizes = (features.shape[1] * features.shape[2],) * stages
        # A file of this encoder has no other place for the constants.
        shape: dict[str, Any] = {"sizes": self.sizes, "dim": self.dim, "pooling": BY_HAND, **constants}
        self.config = plugin_config(f"timm:{name}", image_size=image_size, drop_path=drop_path, **shape)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """The width of the feature map, which the model's own pooling may change."""
        return (self.dense_dim or self.dim,) * len(self.sizes)

    @property
    def last_norm(self) -> nn.Module | None:
        """The model's own last norm, under timm's name for it."""
        return dict(self.network.named_children()).get("norm")

    def forward(self, view: View) -> Hierarchy:
        """The stages; their segments are the cells of the last feature map, not the view's superpixels."""
        check_image(view)
        features, feature, earlier = self._run(view.image)
        tokens = grid_tokens(features, view.image.shape[-2:])
        mass = tokens.mass
        stages = (*(Tokens(*both, mass) for both in earlier), Tokens(tokens.x, feature[:, None], mass))
        return Hierarchy(tokens.labels, stages, (torch.diag_embed(mass),) * len(earlier))

    def dense(self, view: View, sizes: Sequence[int] | None = None) -> DenseTokens:
        """The cells of the last feature map.

        Raises:
            ConfigError: if the model takes no images of this size.
        """
        check_image(view)
        self.check_sizes(sizes)
        try:
            features, feature, _ = self._run(view.image)
        except AssertionError as error:  # timm's own, of its patch embedding
            height, width = view.image.shape[-2:]
            raise ConfigError(
                f"{self.config.name} takes no images of {height} x {width} pixels ({error}); evaluate by"
                f" windows, such as --window {self.config.image_size}"
            ) from error
        if torch.is_grad_enabled():
            # DDP waits for a gradient of all that is trained, such as a norm after the model's own pooling.
            features = features + 0 * feature[:, :1, None, None].to(features.dtype)
        return grid_tokens(features, view.image.shape[-2:])

    def _run(self, image: Tensor) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """The last feature map (B, h, w, D') and the pooled feature (B, D).

        For each earlier stage its tokens (B, N, D) and class token (B, 1, D), not normed.
        """
        network: Any = self.network
        earlier = []
        if self.conversion is not None:
            factor, shift = (values.to(image, non_blocking=True) for values in self.conversion)
            image = image * factor + shift
        if self.ends:
            last = [end - 1 for end in self.ends]
            features, between = network.forward_intermediates(
                image, last, return_prefix_tokens=True, output_fmt="NLC"
            )
            earlier = [(x, prefix[:, :1]) for x, prefix in between]
        else:
            features = network.forward_features(image)
        feature = network.forward_head(features, pre_logits=True)
        if features.ndim == 3:  # (B, tokens, D)
            features = features[:, network.num_prefix_tokens if isinstance(network, Prefixed) else 0 :]
            count, (height, width) = features.shape[1], image.shape[-2:]
            rows = round((count * height / width) ** 0.5)
            features = features.unflatten(1, (rows, count // rows))
        elif features.shape[1] == self.network.num_features:
            features = features.permute(0, 2, 3, 1)
        return features, feature, earlier


def from_config(config: EncoderConfig) -> TimmEncoder:
    """Any timm model, ``timm:NAME``: an encoder of one stage, and a ViT also of several.

    ``sizes`` are its number of patches, once for each stage; without them it has one stage.

    Raises:
        ConfigError: if timm knows no such model, or it cannot have these stages or sizes.
    """
    try:
        encoder = TimmEncoder(
            config.name.removeprefix("timm:"),
            image_size=config.image_size,
            drop_path=config.drop_path,
            stages=len(config.sizes or (0,)),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.sizes and config.sizes != encoder.sizes:
        raise ConfigError(
            f"{config.name} has {encoder.sizes[0]} tokens at {config.image_size} pixels in every stage, got"
            f" sizes {config.sizes}: give {encoder.sizes[0]} once for each stage, or leave them out"
        )
    shape: dict[str, Any] = {"sizes": encoder.sizes, "dim": encoder.dim, "pooling": BY_HAND}
    encoder.config = replace(config, **shape)
    if config.mean or config.std:
        encoder.conversion = conversion(config.mean or MEAN, config.std or STD)
    return encoder


def create_network(name: str, image_size: int, drop_path: float, **options: Any) -> nn.Module:
    """A model of timm with these options, for images of this side if it asks for one.

    Raises:
        ValueError: if timm knows no such model; the message has names that look alike.  If ``drop_path`` is
            above 0 and the model takes no stochastic depth.
    """
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), 5, 0.5)) or "none"
        raise ValueError(f"timm knows no model {name!r}; names that look alike: {near}")
    options |= {"drop_path_rate": drop_path} if drop_path else {}
    try:
        try:
            network: nn.Module = timm.create_model(name, img_size=image_size, **options)
        except TypeError:  # convolutional networks take no img_size
            network = timm.create_model(name, **options)
    except TypeError as error:
        if not drop_path:
            raise
        raise ValueError(
            f"{name} takes no stochastic depth: got drop_path={drop_path}, expected 0 ({error}); leave"
            " drop_path out, or give --drop-path 0 to a recipe"
        ) from error
    return network


def prefix_tokens(encoder: Encoder) -> int:
    """How many tokens stand before those of the image in the encoder's blocks."""
    network = encoder.network if isinstance(encoder, TimmEncoder) else None
    return network.num_prefix_tokens if isinstance(network, Prefixed) else 1


def grid_tokens(features: Tensor, size: Sequence[int]) -> DenseTokens:
    """The cells of a feature map (B, h, w, D), and the cell of each pixel of images of this size (H, W)."""
    batch, rows, columns, _ = features.shape
    x = features.flatten(1, 2)
    mass = torch.ones(x.shape[:2], dtype=torch.float32, device=x.device)
    labels = cells(size, (rows, columns), x.device).int().expand(batch, -1, -1)
    return DenseTokens(x, mass, labels, (rows, columns))


def cells(fine: Sequence[int], coarse: Sequence[int], device: torch.device) -> Tensor:
    """The cell of a coarse grid, row by row, in which each cell of a finer grid lies: int64 (h, w)."""
    row, column = (
        torch.arange(count, device=device) * fewer // count for count, fewer in zip(fine, coarse, strict=True)
    )
    return row[:, None] * coarse[1] + column


def _ends(name: str, network: nn.Module, stages: int) -> list[int]:
    """After how many blocks each stage but the last ends.

    Raises:
        ValueError: if the model cannot be parted like that.
    """
    if stages == 1:
        return []
    if not is_parted(network) or network.cls_token is None or network.global_pool != "token":
        raise ValueError(
            f"{name} has no class token that is read after its blocks, so it has one stage, not {stages};"
            " take a ViT such as deit_small_patch16_224, or leave the sizes out"
        )
    count = len(network.blocks)
    if not 1 <= stages <= count:
        raise ValueError(f"{name} has {count} blocks, so 1 to {count} stages, got {stages}")
    return [-(-count * stage // stages) for stage in range(1, stages)]
