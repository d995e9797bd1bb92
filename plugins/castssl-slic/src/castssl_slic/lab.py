"""sRGB to CIELAB, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

UNIT = 16
"""Colors are rounded to this part of a unit of Lab: sums of whole numbers do not depend on their order."""


def lab(images: Tensor) -> Tensor:
    """Lab colors in sixteenths: uint8 sRGB (B, 3, H, W) -> whole numbers as float32 (B, 3, H, W).

    sRGB as in IEC 61966-2-1, Lab as in CIE 15 with the white point D65 and the 2-degree observer.
    """
    value = torch.arange(256, device=images.device, dtype=torch.float32) / 255
    light = torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055).pow(2.4))
    red, green, blue = light[images.int()].unbind(1)
    x = _bend((0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.950456)
    y = _bend(0.212671 * red + 0.715160 * green + 0.072169 * blue)
    z = _bend((0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.088754)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1).mul_(UNIT).round_()


def _bend(share: Tensor) -> Tensor:
    return torch.where(share > 0.008856, share.clamp(min=1e-6).pow(1 / 3), 7.787 * share + 16 / 116)
