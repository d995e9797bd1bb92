"""Images become views with superpixels: a batch at once, or in the data loaders of other projects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.data.normalize import normalize
from castssl.datasets.decode import to_rgb
from castssl.datasets.depth import Range
from castssl.datasets.multichannel import RGB
from castssl.encoder_config import EncoderConfig
from castssl.errors import DataError
from castssl.registry import build_superpixels
from castssl.superpixel_labels import partition
from castssl.types import View


def view_of(images: Tensor, superpixels: Superpixels, device: torch.device | str) -> View:
    """Images uint8 (B, C, H, W) on the CPU as an encoder on the device takes them, with their superpixels."""
    moved = images.to(device)
    with torch.no_grad():
        segments = partition(superpixels, images if superpixels.runs_on == "worker" else moved)
    return View(normalize(moved), segments.to(device))


class ToView:
    """The last transform of a data set, in place of ``ToTensor`` and ``Normalize``::

        crop = transforms.RandomResizedCrop(224)
        data = ImageFolder("photos", transforms.Compose([crop, ToView(encoder.config)]))
        for view, label in DataLoader(data, batch_size=64, num_workers=8):
            hierarchy = encoder(view)

    The default collation makes one :class:`castssl.View` of a batch: image float32 (B, C, H, W), normalized
    as castssl's encoders expect, and segments int32 (B, H, W).  A model of timm's registry takes
    ``model(*view)``.

    Args:
        encoder: an encoder's ``config``, of which the channels and the superpixels count; or the spec of a
            superpixel backend, such as ``seeds``, for RGB.  It runs on the CPU.
        value_range: the values of black and white in PIL images of more than 8 bits, such as (0, 4095); by
            default those of the mode, 0 to 65535 for ``I;16``.
    """

    def __init__(
        self, encoder: EncoderConfig | str = "seeds", *, value_range: tuple[float, float] | None = None
    ) -> None:
        config = EncoderConfig("", superpixels=encoder) if isinstance(encoder, str) else encoder
        self.spec, self.channels = config.superpixels, 3 if config.channels in RGB else config.channels
        self._declared = None if value_range is None else Range(*value_range)
        self._superpixels = build_superpixels(config)

    def __call__(self, image: Image.Image | Tensor | NDArray[Any]) -> View:
        """The view of one image: float32 (C, H, W) and int32 (H, W).

        Args:
            image: a tensor uint8 (C, H, W), an array uint8 (H, W, C), or, for RGB and gray, a PIL image of
                any mode.  Encoders of one channel take RGB, too.

        Raises:
            DataError: if it is of another dtype or shape, such as a normalized tensor, or nothing declares
                the range of an image of more than 8 bits.
        """
        if isinstance(image, Image.Image):
            image = np.array(to_rgb(image, self._declared)[0])
        pixels = image
        if not isinstance(pixels, Tensor):
            pixels = torch.from_numpy(np.ascontiguousarray(pixels))
            pixels = pixels.permute(2, 0, 1).contiguous() if pixels.ndim == 3 else pixels
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != self.channels:
            got = f"{image.dtype} of shape {tuple(image.shape)}"
            raise DataError(
                f"ToView expects a PIL image or a tensor uint8 ({self.channels}, H, W), or an array uint8 (H,"
                f" W, {self.channels}), got {got}; leave ToTensor and Normalize out, or use PILToTensor"
            )
        return View(normalize(pixels), partition(self._superpixels, pixels[None])[0])

    def __repr__(self) -> str:
        return f"ToView({self.spec!r})"
