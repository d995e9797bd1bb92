"""The view of supervised training: one crop with RandAugment and random erasing, as in DeiT."""

from __future__ import annotations

from typing import Any, Literal

import torch
from PIL import Image

from castssl.data.normalize import denormalize
from castssl.data.rng import seeded
from castssl.data.views import CroppedView, OneView, to_uint8, to_window
from castssl.datasets.images import Plan
from castssl.datasets.multichannel import MultiChannel
from castssl.errors import ConfigError

Policy = Literal["randaugment", "three", "none"]
_POLICIES: dict[str, str | None] = {"randaugment": "rand-m9-mstd0.5-inc1", "three": "3a", "none": None}


class SupervisedView(OneView):
    """A random bicubic crop, flipped half of the time, with RandAugment and random erasing, as in DeiT.

    Touvron et al. 2021 (https://arxiv.org/abs/2012.12877), table 9; CAST, Table 12.  By timm.

    Args:
        size: side of the view in pixels.
        policy: ``"randaugment"`` (two of fifteen operations, https://arxiv.org/abs/1909.13719, at magnitude 9
            with a deviation of 0.5); ``"three"``, the 3-Augment of DeiT III (grayscale, solarize or blur,
            then color jitter of 0.3, https://arxiv.org/abs/2204.07118), which erases nothing; or ``"none"``.
        erase: probability that a rectangle of 2 to 33 % of the view becomes noise
            (https://arxiv.org/abs/1708.04896): normally distributed in normalized colors, as published, but
            clipped to the range of 8 bits.
        crop_min: the smallest share of the image's area that a crop covers (the largest is 1).

    Raises:
        ConfigError: if the policy is unknown or a number is out of range.
    """

    def __init__(
        self, size: int, *, policy: Policy = "randaugment", erase: float = 0.25, crop_min: float = 0.08
    ) -> None:
        # Imported late: timm takes seconds.
        from timm.data.random_erasing import RandomErasing
        from timm.data.transforms_factory import create_transform

        super().__init__(size, crop_min)
        if policy not in _POLICIES:
            raise ConfigError(f"policy: got {policy!r}, expected one of {', '.join(_POLICIES)}")
        if not 0 <= erase <= 1:
            raise ConfigError(f"erase is a probability: expected 0 to 1, got {erase}")
        self.bends = policy == "randaugment"
        jitter = 0.3 if policy == "three" else None
        options: dict[str, Any] = {"auto_augment": _POLICIES[policy], "color_jitter": jitter}
        # The second of three parts: the transforms between crop and tensor.
        _, self._augment, _ = create_transform(
            size, is_training=True, interpolation="bicubic", separate=True, **options
        )
        erase = 0.0 if policy == "three" else erase
        self._erase = RandomErasing(erase, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """One view, and its place."""
        (box,) = (plan or self.plan(*image.size)).boxes
        window = to_window(box, *image.size)
        view = image.crop(window).resize((self.size, self.size), Image.Resampling.BICUBIC)
        if flipped := bool(torch.rand(1) < 0.5):
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        augmented = to_uint8(self._augmented(view))
        # timm erases normalized floats: its noise is drawn into NaN, and copied.
        noise = self._erase(torch.full(augmented.shape, torch.nan))
        colors = torch.where(noise.isnan(), augmented, denormalize(noise.nan_to_num()))
        return [CroppedView(colors, box, flipped)]

    def _augmented(self, view: Image.Image) -> Image.Image:
        """The view after the policy, which is the same for each channel of a view of other than RGB."""
        if not isinstance(view, MultiChannel):
            augmented: Image.Image = self._augment(view)
            return augmented
        key = int(torch.randint(2**62, (1,)))

        def change(band: Image.Image) -> Image.Image:
            with seeded(key):
                return self._augment(band)  # type: ignore[no-any-return]

        return view.map_gray(change)
