"""SLIC in integers, by the library fast-slic: the fastest of the CPU backends.

Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, TPAMI 2012
(https://doi.org/10.1109/TPAMI.2012.120); https://github.com/Algy/fast-slic.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.errors import ConfigError, PluginError
from castssl.installer import install
from castssl.superpixels.per_image import per_image

MOST = 32767
"""Labels come as int16."""
_BUILDERS = ("cython", "numpy", "setuptools", "wheel")
"""What building fast-slic takes; its source distribution names none of them."""


class FastSlic(Superpixels):
    """SLIC by fast-slic: at most ``count`` connected superpixels, no randomness.

    Args:
        count: superpixels asked for, 1 to 32767; an image of fewer pixels gets one for each.
        compactness: weight of the distance in the image against that in color; more makes squares.
        iterations: rounds of assignment.
        smallest: a connected part of less than this share of the mean size joins a neighbor.

    Raises:
        ConfigError: if an option is out of range.
        PluginError: if fast-slic is not installed; says how to install it.
    """

    count: int

    def __init__(
        self,
        count: int = 196,
        *,
        compactness: float = 10.0,
        iterations: int = 10,
        smallest: float = 0.25,
    ) -> None:
        if not (1 <= count <= MOST and compactness > 0 and iterations >= 1 and 0 <= smallest <= 1):
            raise ConfigError(
                f"slic takes count 1 to {MOST}, compactness > 0, iterations >= 1 and smallest 0 to 1, got"
                f" count={count}, compactness={compactness}, iterations={iterations}, smallest={smallest}"
            )
        _engine()
        self.count = count
        self.compactness = compactness
        self.iterations = iterations
        self.smallest = smallest

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
        # A new object for each image, since a used one starts from where it ended; and never more clusters
        # than pixels, since that would divide by zero and end the process.
        engine = _engine()(
            num_components=self.capacity(*image.shape[:2]),
            compactness=self.compactness,
            min_size_factor=self.smallest,
            num_threads=1,
        )
        labels: NDArray[Any] = engine.iterate(image, self.iterations)
        return labels

    def __repr__(self) -> str:
        return (
            f"FastSlic(count={self.count}, compactness={self.compactness}, iterations={self.iterations},"
            f" smallest={self.smallest})"
        )


def _engine() -> Any:
    """fast-slic's class for this processor: its AVX2 code gives the labels of its plain code, and sooner.

    Raises:
        PluginError: if fast-slic is not installed.
    """
    try:
        plain = import_module("fast_slic").Slic
    except ImportError as cause:
        command = f"{install(*_BUILDERS)} && {install('fast-slic', options='--no-build-isolation')}"
        raise PluginError(f"superpixels slic need fast-slic ({cause}); install it: `{command}`") from cause
    try:
        return import_module("fast_slic.avx2").SlicAvx2
    except ImportError:
        return plain
