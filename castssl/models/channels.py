"""What a stem reads: gray or RGB, with another mean and standard deviation than ImageNet's.

Views hold RGB normalized with ImageNet's constants for every encoder; the stem converts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from castssl.encoder_config import MEAN, STD, EncoderConfig
from castssl.errors import ConfigError
from castssl.tokens.stem import ConvStem

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a gray value, ITU-R BT.601; PIL's mode "L" has them, too."""


class Channels(nn.Module):
    """Views become gray or RGB with other constants.

    Args:
        mean: of each channel, of values 0 to 1; one for gray, three for RGB.
        std: the standard deviation, likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.gray = len(mean) == 1
        shares = torch.tensor(LUMA if self.gray else (1.0, 1.0, 1.0), dtype=torch.float64)
        before, spread, m, s = (
            torch.tensor(values, dtype=torch.float64) for values in (MEAN, STD, mean, std)
        )
        for name, values in (("scale", shares * spread / s), ("shift", shares * (before - m) / s)):
            self.register_buffer(name, values.float()[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """float (B, 3, H, W), normalized with ImageNet's constants -> float (B, 1 or 3, H, W)."""
        image = image * self.scale + self.shift
        return image.sum(1, keepdim=True) if self.gray else image


def channel_faults(channels: int, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """What is wrong with the settings, in words; empty if nothing is."""
    faults = [] if channels in (1, 3) else [f"channels: got {channels}, expected 1 (gray) or 3 (RGB)"]
    for name, values in (("mean", mean), ("std", std)):
        if values and len(values) != channels:
            faults.append(f"{name}: got {len(values)} values, expected {channels}, one for each channel")
    if not all(0 < value <= 1 for value in std) or not all(0 <= value <= 1 for value in mean):
        given = f"got mean {tuple(mean)} and std {tuple(std)}"
        faults.append(f"mean, std: {given}, expected shares of the largest value, such as 0.45")
    return faults


def set_channels(stem: ConvStem, config: EncoderConfig) -> None:
    """Let a new stem read what the config has; nothing changes for RGB with ImageNet's constants.

    Without a mean or standard deviation, they are ImageNet's; for gray the average over RGB.

    Raises:
        ConfigError: if the config's channels, mean and std do not fit together.
    """
    if is_rgb(config):
        return
    if faults := channel_faults(config.channels, config.mean, config.std):
        raise ConfigError(f"{config.name}: {'; '.join(faults)}")
    mean, std = (
        values or ((fmean(default),) if config.channels == 1 else default)
        for values, default in ((config.mean, MEAN), (config.std, STD))
    )
    stem.inputs = Channels(mean, std)
    if config.channels == 1:
        dim = stem.layers[0].out_channels
        assert isinstance(dim, int)
        stem.layers[0] = nn.Conv2d(1, dim, 3, 2, 1, bias=False)


def is_rgb(config: EncoderConfig) -> bool:
    """True for RGB with ImageNet's constants."""
    return (config.channels, config.mean, config.std) == (3, (), ())


def only_rgb(config: EncoderConfig) -> EncoderConfig:
    """The config of an encoder whose plugin reads RGB with ImageNet's constants alone.

    Raises:
        ConfigError: if it asks for anything else.
    """
    if not is_rgb(config):
        raise ConfigError(f"{config.name} reads RGB: --channels, --mean, --std are for castssl's own models")
    return config
