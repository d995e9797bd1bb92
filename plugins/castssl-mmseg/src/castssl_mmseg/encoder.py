"""castssl's encoders as backbones of mmsegmentation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

import castssl
from castssl.checkpoints import read
from castssl.checkpoints.initialize import initialize
from castssl.encoder_config import CHANNELS
from castssl.errors import ConfigError
from castssl.evaluation.windows import renumber
from castssl.models.segmentation_heads import paint
from castssl.models.sizes import sizes_for
from castssl.superpixel_labels import partition
from castssl.types import DenseTokens, View
from castssl_mmseg.norms import keep_activations

MEAN = (123.675, 116.28, 103.53)
"""ImageNet's mean color, as configs of mmsegmentation have it."""
STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class CastEncoder(BaseModule):  # type: ignore[misc]
    """An encoder of castssl, with its weights.

    Input: float (B, 3, H, W), normalized with ``mean`` and ``std``; or (B, 4, H, W) from
    :class:`SuperpixelDataPreProcessor`, whose last channel is the label map.  Without label map, superpixels
    are computed here from the image: of each window where windows slide, as in the code released with CAST.
    An encoder reads images that are normalized with ImageNet's constants, also one whose weights have others,
    to which it converts them itself; images with other constants are converted to ImageNet's before it.

    Output: ``(tokens,)`` for :class:`CastHead`, or ``(map,)`` for any head of mmsegmentation.

    Args:
        weights: what ``castssl.checkpoints.read`` takes: the folder of a run, a file, a folder of
            ``save_pretrained``, ``hf:USER/NAME``, or a published checkpoint.  None: new weights.
        model: a name of castssl's models; None for that of the weights.  The channels, mean and
            standard deviation of the encoder are those of the weights in any case.
        superpixels: a spec of ``castssl list superpixels``; None for those of the model.
        pooling: a spec of ``castssl list pooling``; None for that of the model.
        output: ``"tokens"``, or ``"map"``: float (B, D, H / stride, W / stride).
        stride: pixels for each cell of the map.
        mean: of the ``data_preprocessor``, of values 0 to 255; ImageNet's by default.
        std: likewise.
        init_cfg: not used; weights are read when the encoder is built.
        overrides: fields of ``castssl.EncoderConfig`` in place of the model's own, such as
            ``image_size=512``, ``sizes=(1024, 320, 160, 80, 40)``, ``fused=True`` and ``dense=True``.

    Attributes:
        encoder: the encoder.
        report: what became of the weights' tensors; None without weights.
        dense_dim: width D of the tokens and of the map.

    Raises:
        castssl.CastError: if the weights cannot be read or do not fit, a name is unknown, or the constants
            are not three numbers of values 0 to 255.
    """

    def __init__(
        self,
        weights: str | None = None,
        model: str | None = None,
        superpixels: str | None = None,
        pooling: str | None = None,
        *,
        output: Literal["tokens", "map"] = "tokens",
        stride: int = 4,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
        init_cfg: Any = None,
        **overrides: Any,
    ) -> None:
        super().__init__(init_cfg)
        if weights is None and model is None:
            raise ConfigError("CastEncoder needs weights='...' or model='...'")
        if output not in ("tokens", "map"):
            raise ConfigError(f"output: got {output!r}, expected 'tokens' or 'map'")
        self.output, self.map_stride = output, stride
        for name in ("sizes", "depths"):
            if overrides.get(name) is not None:
                overrides[name] = tuple(overrides[name])
        checkpoint = read(weights) if weights is not None else None
        # A name in the weights may be of a model that was changed by options: their config describes it.
        start = model if model is not None or checkpoint is None else checkpoint.config
        assert start is not None
        if checkpoint is not None and overrides.get("channels") in (None, checkpoint.config.channels):
            overrides = {name: getattr(checkpoint.config, name) for name in CHANNELS} | overrides
        self.encoder = castssl.create(
            start, advance=True, superpixels=superpixels, pooling=pooling, **overrides
        )
        if self.encoder.dense_dim is None:
            raise ConfigError(f"a {self.encoder.config.name} has no tokens for segmentation")
        self.dense_dim = self.encoder.dense_dim
        self.superpixels = castssl.build("superpixels", self.encoder.config.superpixels)
        self.report = initialize(self.encoder, checkpoint) if checkpoint is not None else None
        if self.report is not None:
            print_log(f"castssl: {weights}\n{self.report}", logger="current")
        self._normalize_as(tuple(mean), tuple(std))

    def _normalize_as(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take images that are normalized with these constants."""
        if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std) or max(std) < 1:
            raise ConfigError(
                f"CastEncoder: got mean {mean} and std {std}, expected three numbers each, of values 0 to 255"
                f" as in data_preprocessor, such as mean={MEAN} and std={STD}"
            )
        own, other, wanted, spread = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std, MEAN, STD))
        self.converts = (mean, std) != (MEAN, STD)
        values = {"mean": own, "std": other, "factor": other / spread, "shift": (own - wanted) / spread}
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)
        config = self.encoder.config
        if config.mean or config.std:
            print_log(
                f"castssl: these weights were trained with mean {config.mean or 'of ImageNet'} and std"
                f" {config.std or 'of ImageNet'}, to which the encoder converts its images itself, from mean"
                f" {mean} and std {std} of values 0 to 255.  If data_preprocessor has other constants than"
                " these, give them to CastEncoder as mean and std, too",
                logger="current",
            )

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As torch has it; mmengine calls it after it has converted the norms of ``module``."""
        super().add_module(name, module)
        keep_activations(self)

    def init_weights(self) -> None:
        """Nothing: a new encoder has castssl's initial weights, and others have been read."""
        self._is_init = True

    def forward(self, inputs: Tensor) -> tuple[DenseTokens] | tuple[Tensor]:
        """Tokens or a map of a batch; see the class."""
        tokens = self.dense(inputs)
        if self.output == "tokens":
            return (tokens,)
        height, width = (-(-side // self.map_stride) for side in inputs.shape[-2:])
        if tokens.grid:
            return (paint(tokens.x, tokens, (height, width)),)
        # A cell has the token of its central pixel, as the released code, whose label map is half as large;
        # the center of a cell at the border may be outside of the image.
        rows, columns = (
            (torch.arange(cells, device=inputs.device) * self.map_stride + self.map_stride // 2).clamp(
                max=side - 1
            )
            for cells, side in zip((height, width), inputs.shape[-2:], strict=True)
        )
        return (paint(tokens.x, tokens._replace(labels=tokens.labels[:, rows[:, None], columns])),)

    def dense(self, inputs: Tensor) -> DenseTokens:
        """The tokens of a batch and the token of each pixel."""
        # Labels leave the input before anything could round them to half precision.
        image, channel = inputs[:, :3], inputs[:, 3:]
        shown = image * self.factor + self.shift if self.converts else image
        if not self.encoder.uses_superpixels:
            return self.encoder.dense(View(shown, image.new_zeros(len(image), 0, 0, dtype=torch.int32)))
        count = self.superpixels.capacity(*image.shape[-2:])
        if not channel.shape[1]:
            labels = self._partition(image)
        elif self.training:
            labels = channel[:, 0].int()
        else:
            # A window of a larger image has some of its labels.
            labels, count = renumber(channel[:, 0].int())
        own = self.encoder.sizes
        sizes = None if count <= own[0] else sizes_for(self.encoder, count)
        return self.encoder.dense(View(shown, labels), sizes)

    @torch.no_grad()
    def _partition(self, image: Tensor) -> Tensor:
        """Superpixels int32 (B, H, W) of normalized images; they are those of the images in 8 bits."""
        pixels = (image.float() * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)
        on_cpu = self.superpixels.runs_on == "worker"
        return partition(self.superpixels, pixels.cpu() if on_cpu else pixels).to(image.device)
