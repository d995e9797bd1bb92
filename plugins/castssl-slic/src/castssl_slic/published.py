"""SLIC by scikit-image, as the published CAST code calls it (its scripts use SEEDS).

Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, TPAMI 2012
(https://doi.org/10.1109/TPAMI.2012.120); Ke, Mo and Yu, CAST, ICLR 2024.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.errors import ConfigError, PluginError
from castssl.installer import install
from castssl.superpixels.per_image import per_image
from castssl_slic.fewer import at_most

TRIES = 10
"""How often the compactness is raised at most: 3 ** 10 times it leaves color without a say."""


class SkimageSlic(Superpixels):
    """SLIC by scikit-image: at most ``count`` superpixels, no randomness; the slowest, and the published one.

    Where fewer than half of ``count`` come out, it is repeated with three times the compactness, as in the
    published code.  scikit-image may also make more than asked for; unlike there, the smallest of those join
    the neighbor with which they share most border, since a model has tokens for ``count``.

    Args:
        count: superpixels asked for, at least 1.
        compactness: weight of the distance in the image against that in color; more makes squares.
        rescale: stretch each image to the full range of values first, as scikit-image does today.  False
            undoes it, as the 0.18 with which CAST was developed is believed to do without.

    Raises:
        ConfigError: if an option is out of range.
        PluginError: if scikit-image is not installed.
    """

    count: int

    def __init__(self, count: int = 196, *, compactness: float = 10.0, rescale: bool = True) -> None:
        if count < 1 or compactness <= 0:
            raise ConfigError(
                f"skimage-slic takes count >= 1 and compactness > 0, got count={count},"
                f" compactness={compactness}"
            )
        _slic()
        self.count = count
        self.compactness = compactness
        self.rescale = rescale

    def capacity(self, height: int, width: int) -> int:
        """``count``, or the number of pixels if there are fewer."""
        return min(self.count, height * width)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) RGB -> int32 (B, H, W), on the same device; computed on the CPU.

        Raises:
            ValueError: if the images are not uint8 (B, 3, H, W).
        """
        return per_image(self._partition)(images)

    def _partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        most = self.capacity(*image.shape[:2])
        colors, unit = image.astype(np.float32) / np.float32(255), 1.0
        if not self.rescale:
            colors, unit = _unstretched(colors)
        compactness = self.compactness
        for _ in range(TRIES):
            labels: NDArray[Any] = _slic()(
                colors,
                n_segments=self.count,
                compactness=compactness / unit,
                convert2lab=self.rescale,
                start_label=0,
            )
            if len(np.unique(labels)) >= most // 2:
                break
            compactness *= 3
        return at_most(labels, most)

    def __repr__(self) -> str:
        return f"SkimageSlic(count={self.count}, compactness={self.compactness}, rescale={self.rescale})"


def _unstretched(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Lab, and what scikit-image will divide it by: to divide the compactness too leaves all as it was."""
    from skimage.color import rgb2lab

    lab = np.asarray(rgb2lab(image), np.float32)
    return lab, float(np.ptp(lab)) or 1.0


def _slic() -> Any:
    try:
        from skimage.segmentation import slic
    except ImportError as cause:
        raise PluginError(
            f"superpixels skimage-slic need scikit-image ({cause}); install it: `{install('scikit-image')}`"
        ) from cause
    return slic
