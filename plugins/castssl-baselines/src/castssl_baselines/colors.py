"""The mean color of each superpixel as an encoder: what a head reaches without any learned feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from castssl.contracts import Encoder
from castssl.encoder_config import BY_HAND, EncoderConfig
from castssl.errors import ConfigError
from castssl.tokens.inputs import check_view
from castssl.tokens.segments import segment_mean
from castssl.types import DenseTokens, Hierarchy, Tokens, View


class SuperpixelColors(Encoder):
    """The mean normalized color of each superpixel; the class token is that of the whole image.

    It has no parameters.

    Args:
        config: ``colors:N`` for at most N superpixels of an image of ``image_size`` pixels.

    Raises:
        ConfigError: if N is not a number above 0.
    """

    dim = 3
    dense_dim = 3

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        _, _, count = config.name.partition(":")
        if config.sizes:
            self.sizes = config.sizes[:1]
        elif count.isdecimal() and int(count):
            self.sizes = (int(count),)
        else:
            raise ConfigError(f"{config.name}: expected a number of superpixels, such as colors:64")
        self.config = replace(config, sizes=self.sizes, dim=self.dim, pooling=BY_HAND)

    def check_sizes(self, sizes: Sequence[int] | None) -> None:
        """All numbers of superpixels are possible."""

    def forward(self, view: View) -> Hierarchy:
        """One stage; see :meth:`castssl.contracts.Encoder.forward`."""
        return self.segment(view)

    def segment(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
        """One stage of at most ``sizes[0]`` tokens."""
        means, mass, labels = self._means(view, sizes)
        cls = view.image.mean((2, 3))[:, None].to(means)
        return Hierarchy(labels, (Tokens(means, cls, mass),), ())

    def dense(self, view: View, sizes: Sequence[int] | None = None) -> DenseTokens:
        """The colors, float32 (B, N, 3)."""
        return DenseTokens(*self._means(view, sizes))

    def _means(self, view: View, sizes: Sequence[int] | None) -> tuple[Tensor, Tensor, Tensor]:
        count = (sizes or self.sizes)[0]
        check_view(view)
        means, mass = segment_mean(view.image.float(), view.segments, count)
        outside = (view.segments < 0) | (view.segments >= count)
        return means, mass, view.segments.masked_fill(outside, -1).int()
