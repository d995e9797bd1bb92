"""What a stem reads: gray, RGB or other channels, with another mean and standard deviation than ImageNet's.

Views hold RGB normalized with ImageNet's constants, for gray, too, or other channels normalized with the
averages of these; the stem converts them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from castssl.encoder_config import MEAN, EncoderConfig, imagenet
from castssl.errors import ConfigError
from castssl.tokens.stem import ConvStem

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a gray value, ITU-R BT.601; PIL's mode "L" has them, too."""


class Channels(nn.Module):
    """Views become gray, RGB or other channels with other constants.

    Args:
        mean: of each channel, of values 0 to 1.
        std: the standard deviation, likewise.
    """

    scale: Tensor
    shift: Tensor
    gray_scale: Tensor
    gray_shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.gray = len(mean) == 1
        self._register("", mean, std, LUMA if self.gray else (1.0,) * len(mean))
        if self.gray:
            self._register("gray_", mean, std, (1.0,))

    def _register(self, prefix: str, *constants: Sequence[float]) -> None:
        """The scale and the shift of views of as many channels as there are shares, the last constants."""
        m, s, shares, before, spread = (
            torch.tensor(values, dtype=torch.float64)
            for values in (*constants, *imagenet(len(constants[-1])))
        )
        for name, values in (("scale", shares * spread / s), ("shift", shares * (before - m) / s)):
            self.register_buffer(f"{prefix}{name}", values.float()[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, C, H, W) as views hold it -> float (B, C, H, W), of gray (B, 1, H, W).

        Gray comes from RGB, or from one channel normalized with the averages of ImageNet's constants.
        """
        if self.gray and image.shape[1] == 1:
            return image * self.gray_scale + self.gray_shift
        image = image * self.scale + self.shift
        return image.sum(1, keepdim=True) if self.gray else image


def channel_faults(
    channels: int, mean: Sequence[float], std: Sequence[float], chosen: Sequence[int] = ()
) -> list[str]:
    """What is wrong with the settings, in words; empty if nothing is.

    Args:
        channels: of the model.
        mean: of each channel, or ().
        std: likewise.
        chosen: the channels of the superpixels, or ().
    """
    expected = "expected 1 (gray), 3 (RGB) or another number from 2 on"
    faults = [] if channels >= 1 else [f"channels: got {channels}, {expected}"]
    if chosen and channels in (1, 3):
        faults.append(
            f"superpixel-channels: got {tuple(chosen)} for {channels} channels, whose superpixels are those"
            " of RGB; leave it out"
        )
    elif chosen and (len(chosen) != 3 or not all(0 <= channel < channels for channel in chosen)):
        faults.append(
            f"superpixel-channels: got {tuple(chosen)}, expected three numbers from 0 to {channels - 1}, such"
            " as 2 1 0"
        )
    for name, values in (("mean", mean), ("std", std)):
        if values and len(values) != channels:
            faults.append(f"{name}: got {len(values)} values, expected {channels}, one for each channel")
    if not all(0 < value <= 1 for value in std) or not all(0 <= value <= 1 for value in mean):
        given = f"got mean {tuple(mean)} and std {tuple(std)}"
        faults.append(f"mean, std: {given}, expected shares of the largest value, such as 0.45")
    return faults


def set_channels(stem: ConvStem, config: EncoderConfig) -> None:
    """Let a new stem read what the config has; nothing changes for RGB with ImageNet's constants.

    Without a mean or standard deviation, they are ImageNet's; for other than RGB the average over RGB.

    Raises:
        ConfigError: if the config's channels, mean and std do not fit together.
    """
    if is_rgb(config):
        return
    if faults := channel_faults(config.channels, config.mean, config.std, config.superpixel_channels):
        raise ConfigError(f"{config.name}: {'; '.join(faults)}")
    mean, std = (
        values or default
        for values, default in zip((config.mean, config.std), imagenet(config.channels), strict=True)
    )
    stem.inputs = Channels(mean, std)
    if config.channels != len(MEAN):
        dim = stem.layers[0].out_channels
        assert isinstance(dim, int)
        stem.layers[0] = nn.Conv2d(config.channels, dim, 3, 2, 1, bias=False)


def is_rgb(config: EncoderConfig) -> bool:
    """True for RGB with ImageNet's constants."""
    return (config.channels, config.mean, config.std, config.superpixel_channels) == (3, (), (), ())


def only_rgb(config: EncoderConfig) -> EncoderConfig:
    """The config of an encoder whose plugin reads RGB.

    Raises:
        ConfigError: if it asks for anything else, or for constants that are not of three channels.
    """
    if (config.channels, config.superpixel_channels) != (3, ()):
        raise ConfigError(f"{config.name} reads RGB: --channels is for castssl's own models")
    if faults := channel_faults(3, config.mean, config.std):
        raise ConfigError(f"{config.name}: {'; '.join(faults)}")
    return config
