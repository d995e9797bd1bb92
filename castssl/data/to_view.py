"""A transform for the data loaders of other projects: images become views with superpixels, in workers."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.data.normalize import normalize
from castssl.errors import DataError
from castssl.registry import build
from castssl.superpixel_labels import partition
from castssl.types import View


class ToView:
    """The last transform of a data set, in place of ``ToTensor`` and ``Normalize``::

        crop = transforms.RandomResizedCrop(224)
        data = ImageFolder("photos", transforms.Compose([crop, ToView(encoder.config.superpixels)]))
        for view, label in DataLoader(data, batch_size=64, num_workers=8):
            hierarchy = encoder(view)

    The default collation makes one :class:`castssl.View` of a batch: image float32 (B, 3, H, W), normalized
    as castssl's encoders expect, and segments int32 (B, H, W).  A model of timm's registry takes
    ``model(*view)``.

    Args:
        superpixels: the spec of a backend, such as ``seeds``; that of the encoder is
            ``encoder.config.superpixels``.  It runs on the CPU.
    """

    def __init__(self, superpixels: str = "seeds") -> None:
        self.spec = superpixels
        self._superpixels: Superpixels = build("superpixels", superpixels)

    def __call__(self, image: Image.Image | Tensor) -> View:
        """The view of one image: float32 (3, H, W) and int32 (H, W).

        Args:
            image: a PIL image, or a tensor uint8 (3, H, W).

        Raises:
            DataError: if it is a tensor of another dtype or shape, such as a normalized one.
        """
        if isinstance(image, Image.Image):
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
        else:
            pixels = image
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3:
            raise DataError(
                f"ToView expects a PIL image or a tensor uint8 (3, H, W), got {pixels.dtype} of shape"
                f" {tuple(pixels.shape)}; leave ToTensor and Normalize out, or use PILToTensor"
            )
        return View(normalize(pixels), partition(self._superpixels, pixels[None])[0])

    def __repr__(self) -> str:
        return f"ToView({self.spec!r})"
