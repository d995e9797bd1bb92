"""CLIP, by open_clip, as an encoder of one stage that can also read the names of classes.

Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020.
Superpixels do not enter it: its tokens are the cells of its last feature map.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.encoder_config import BY_HAND, EncoderConfig, plugin_config
from castssl.errors import ConfigError, DataError, PluginError
from castssl.installer import install
from castssl.models.constants import conversion
from castssl.models.timm_encoder import grid_tokens
from castssl.modes import evaluating
from castssl.tensor_files import not_safetensors
from castssl.tokens.inputs import check_image
from castssl.types import Hierarchy, Tokens, View

QUICK = "-quickgelu"
"""What open_clip appends to an architecture whose weights were trained with the quick GELU."""


class Named(NamedTuple):
    """The parts of ``ARCHITECTURE/WEIGHTS``."""

    architecture: str
    """open_clip's name, with the ending that the weights ask for."""
    weights: str
    """A tag, a path, or nothing."""


class ClipEncoder(Encoder):
    """CLIP's image tower; the image's vector in the space that it shares with texts is the class token.

    Views are normalized with ImageNet's mean and standard deviation; here that is undone and the model's own
    are applied.  The text tower and the temperature are part of the weights, but are never trained.

    Attributes:
        uses_superpixels: False; its cells are its own, and no superpixel has to fit.
        dim: width of the space that images and texts share.
        width: of the tokens.
        scale: what cosine similarities are multiplied with to become logits: float32 scalar.

    Args:
        network: a model of open_clip, such as ``open_clip.create_model("ViT-B-32")``.
        tokenize: texts to int64 (T, context), such as ``open_clip.get_tokenizer("ViT-B-32")``; called when a
            text is read, and not before.
    """

    uses_superpixels = False
    factor: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, tokenize: Callable[[Sequence[str]], Tensor]) -> None:
        super().__init__()
        self.network, self.tokenize = network, tokenize
        network.requires_grad_(False)
        tower: Any = network.visual
        tower.requires_grad_(True)
        statistics = _open_clip().get_model_preprocess_cfg(network)
        mean, std = statistics.get("mean") or OPENAI_CLIP_MEAN, statistics.get("std") or OPENAI_CLIP_STD
        # The device of the weights, which may not be torch's default.
        device = next(tower.parameters()).device
        with device:
            factor, shift = conversion(mean, std)
        self.register_buffer("factor", factor[None])
        self.register_buffer("shift", shift[None])
        side = tower.image_size
        height, width = (side, side) if isinstance(side, int) else side
        with torch.no_grad(), evaluating(self):
            features, feature = self._run(torch.zeros(1, 3, height, width, device=device))
        self.dim, self.width = feature.shape[1], features.shape[1]
        self.sizes: tuple[int, ...] = (features.shape[2] * features.shape[3],)
        shape: dict[str, Any] = {"sizes": self.sizes, "dim": self.dim, "pooling": BY_HAND}
        self.config = plugin_config(f"clip:{type(network).__name__}", image_size=height, **shape)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """The width of the one stage's tokens."""
        return (self.width,)

    @property
    def scale(self) -> Tensor:
        """The learned inverse temperature: a float32 scalar without gradient."""
        logarithm: Any = self.network.logit_scale
        scale: Tensor = logarithm.detach().float().exp().reshape(())
        return scale

    def forward(self, view: View) -> Hierarchy:
        """One stage; its segments are the cells of the last feature map, not the view's superpixels."""
        check_image(view)
        features, feature = self._run(view.image)
        tokens = grid_tokens(features.permute(0, 2, 3, 1), view.image.shape[-2:])
        return Hierarchy(tokens.labels, (Tokens(tokens.x, feature[:, None], tokens.mass),), ())

    def zero_shot(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """A unit vector for each class: the mean over the templates of its texts' unit vectors, normalized.

        Args:
            names: of the classes, as they stand in a sentence.
            templates: sentences with ``{}`` where the name belongs.

        Returns:
            float32 (C, D), without gradient, on the weights' device.
        """
        reads = _open_clip().build_zero_shot_classifier
        with evaluating(self):
            columns: Tensor = reads(
                self.network, self.tokenize, list(names), list(templates), device=self.shift.device
            )
        return columns.T.float().contiguous()

    def _run(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature map (B, D', h, w) and the image's vector (B, D), which is not normalized."""
        tower: Any = self.network.visual
        outputs = tower.forward_intermediates(
            image * self.factor + self.shift, indices=1, normalize_intermediates=True
        )
        return outputs["image_intermediates"][-1], outputs["image_features"]


def from_config(config: EncoderConfig) -> ClipEncoder:
    """CLIP's image tower by open_clip, ``clip:ARCHITECTURE/WEIGHTS``, which can also read class names.

    Raises:
        ConfigError: if stochastic depth is asked for (``drop_path`` above 0).
        ConfigError, DataError, PluginError: as :func:`load_clip` does.
    """
    # The config of a built encoder is accepted: earlier files have a rate that never had an effect.
    if config.drop_path and config.pooling != BY_HAND:
        raise ConfigError(
            f"{config.name} has no stochastic depth: got drop_path={config.drop_path}, expected 0; leave"
            " drop_path out, or give --drop-path 0 to a recipe"
        )
    name = config.name.removeprefix("clip:")
    encoder = load_clip(name, image_size=config.image_size)
    # Without the weights' name: a file of this encoder has its own, and nothing is downloaded to read it.
    architecture = f"clip:{named(name).architecture}"
    shape: dict[str, Any] = {"sizes": encoder.sizes, "dim": encoder.dim, "pooling": BY_HAND}
    encoder.config = replace(config, name=architecture, drop_path=0.0, **shape)
    return encoder


def load_clip(name: str, *, image_size: int = 224) -> ClipEncoder:
    """A CLIP by name; without weights it begins at random, and nothing is downloaded.

    Args:
        name: ``ARCHITECTURE`` or ``ARCHITECTURE/WEIGHTS``, such as ``ViT-B-32/openai``; in place of a tag the
            path of a checkpoint, such as ``ViT-B-32//path/to/model.safetensors``.  Weights that OpenAI
            trained need ``-quickgelu`` after the architecture where they are given by path.
        image_size: side in pixels; positions are resized.

    Raises:
        ConfigError: if open_clip knows no such architecture, or no such weights of it.
        DataError: if the weights cannot be downloaded or read.
        PluginError: if open_clip is missing.
    """
    open_clip = _open_clip()
    architecture, weights = named(name)
    normalized: Mapping[str, Any] = {}
    path = weights
    if weights and not Path(weights).is_file():
        path, normalized = _fetch(architecture, weights)
    statistics = {key: normalized[key] for key in ("mean", "std") if key in normalized}
    try:
        network = open_clip.create_model(
            architecture,
            path or None,
            # Moving from torch's default device fails where that is the one without memory.
            device=torch.empty(0).device,
            force_image_size=image_size,
            force_preprocess_cfg=statistics,
        )
    except Exception as error:
        if not path:
            raise ConfigError(
                f"open_clip cannot build {architecture} at {image_size} pixels: {error}"
            ) from error
        raise DataError(
            f"{path} does not hold the weights of {architecture} as a state dict (.safetensors, .bin or .pt;"
            f" TorchScript archives are not read): {not_safetensors(path, error)}"
        ) from error
    return ClipEncoder(network, _Tokenizer(architecture))


def named(name: str) -> Named:
    """Take ``ARCHITECTURE/WEIGHTS`` apart; the architecture gets the activation that its weights need.

    Raises:
        ConfigError: if open_clip knows no such architecture.
        PluginError: if open_clip is missing.
    """
    open_clip = _open_clip()
    architecture, _, weights = name.partition("/")
    architectures = open_clip.list_models()
    if architecture not in architectures:
        near = ", ".join(get_close_matches(architecture, architectures, 5)) or ", ".join(architectures[:8])
        raise ConfigError(
            f"open_clip knows no architecture {architecture!r}; names that look alike: {near}.  Write"
            " clip:ARCHITECTURE/WEIGHTS, such as clip:ViT-B-32/openai"
        )
    quick = (open_clip.get_pretrained_cfg(architecture, weights) or {}).get("quick_gelu", False)
    if quick and architecture + QUICK in architectures:
        architecture += QUICK
    return Named(architecture, weights)


class _Tokenizer:
    """open_clip's tokenizer of an architecture, made when it is first called."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens: Tensor = _open_clip().get_tokenizer(self.architecture)(list(texts))
        return tokens


def _fetch(architecture: str, tag: str) -> tuple[str, Mapping[str, Any]]:
    """Where the weights of a tag are, once they are downloaded, and what open_clip knows of them."""
    open_clip = _open_clip()
    about: Mapping[str, Any] = open_clip.get_pretrained_cfg(architecture, tag) or {}
    if not about:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise ConfigError(f"{architecture}: {tag!r} is neither a file nor one of open_clip's weights: {tags}")
    try:
        return open_clip.download_pretrained(about), about
    except Exception as error:
        source = str(about.get("hf_hub") or about.get("url")).rstrip("/")
        raise DataError(
            f"the weights {tag!r} of {architecture} are not here and cannot be downloaded from {source}"
            f" ({type(error).__name__}: {error}).  Where there is a network, run"
            f" open_clip.create_model({architecture!r}, {tag!r}) once and copy the cache, or download the"
            f" checkpoint and give its path: clip:{architecture}//path/to/model.safetensors"
        ) from error


def _open_clip() -> Any:
    """The library, which is optional.

    Raises:
        PluginError: if it is missing.
    """
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise PluginError(f"CLIP needs open_clip: {install('open_clip_torch')}") from error
