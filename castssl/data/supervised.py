"""What supervised training looks at: DeiT's one view, by timm's own transforms."""

from __future__ import annotations

from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from castssl.data.augment import OneView, Placed, Views, to_uint8
from castssl.data.finish import MEAN, STD
from castssl.datasets.images import Plan
from castssl.errors import ConfigError

Policy = Literal["randaugment", "three", "none"]
_POLICIES: dict[str, str | None] = {"randaugment": "rand-m9-mstd0.5-inc1", "three": "3a", "none": None}


class SupervisedView:
    """A random bicubic crop, flipped half of the time, with RandAugment and random erasing, as in DeiT.

    Touvron et al. 2021 (https://arxiv.org/abs/2012.12877), table 9; CAST, Table 12.

    Attributes:
        bends: True if the policy shears, turns or shifts what the crop shows.

    Args:
        size: side of the view in pixels.
        policy: ``"randaugment"`` (two of fifteen operations, https://arxiv.org/abs/1909.13719, at magnitude 9
            with a deviation of 0.5); ``"three"``, the 3-Augment of DeiT III (grey, solarize or blur, then
            colour jitter of 0.3, https://arxiv.org/abs/2204.07118), which erases nothing; or ``"none"``.
        erase: probability that a rectangle of 2 to 33 % of the view becomes noise
            (https://arxiv.org/abs/1708.04896): normally distributed in normalised colours, as published, but
            clipped to what 8 bits hold.
        crop_min: the smallest share of the picture's area that a crop covers (the largest is 1).

    Raises:
        ConfigError: if the policy is unknown or a number is out of range.
    """

    views = 1

    def __init__(
        self, size: int, *, policy: Policy = "randaugment", erase: float = 0.25, crop_min: float = 0.08
    ) -> None:
        # Imported late: timm takes seconds.
        from timm.data.random_erasing import RandomErasing
        from timm.data.transforms_factory import create_transform

        if policy not in _POLICIES:
            raise ConfigError(f"policy: got {policy!r}, expected one of {', '.join(_POLICIES)}")
        if not 0 <= erase <= 1:
            raise ConfigError(f"erase is a probability: expected 0 to 1, got {erase}")
        self.size = size
        self.bends = policy == "randaugment"
        self._crop = OneView(size, crop_min)
        jitter = 0.3 if policy == "three" else None
        options: dict[str, Any] = {"auto_augment": _POLICIES[policy], "color_jitter": jitter}
        # The second of three parts: what comes between crop and tensor.
        _, self._look, _ = create_transform(
            size, is_training=True, interpolation="bicubic", mean=MEAN, std=STD, separate=True, **options
        )
        erase = 0.0 if policy == "three" else erase
        self._erase = RandomErasing(erase, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]

    def plan(self, width: int, height: int) -> Plan:
        """The crop of a picture of this size."""
        return self._crop.plan(width, height)

    def place(self, image: Image.Image, plan: Plan | None = None) -> list[Placed]:
        """One view, and where it was cut from; if it ``bends``, not all of it lies there still."""
        (box,) = (plan or self.plan(*image.size)).boxes
        left, top, right, bottom = (
            round(share * side) for share, side in zip(box, image.size * 2, strict=True)
        )
        left, top = min(left, image.width - 1), min(top, image.height - 1)
        pixels = (left, top, max(right, left + 1), max(bottom, top + 1))
        view = image.crop(pixels).resize((self.size, self.size), Image.Resampling.BICUBIC)
        if flipped := bool(torch.rand(1) < 0.5):
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return [Placed(self._erased(to_uint8(self._look(view))), box, flipped)]

    def __call__(self, image: Image.Image) -> Views:
        """One uint8 (3, size, size) tensor."""
        return [placed.image for placed in self.place(image)]

    def _erased(self, view: Tensor) -> Tensor:
        # timm erases normalised floats: let it write into nothing, and take over what it wrote.
        noise = self._erase(torch.full(view.shape, torch.nan))
        colours = (noise * _column(STD) + _column(MEAN)).clamp(0, 1) * 255
        return torch.where(noise.isnan(), view, colours.nan_to_num().round().to(torch.uint8))


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]
