"""SEEDS superpixels in Lab, by OpenCV: what CAST and H-CAST are trained with.

Van den Bergh et al., SEEDS: Superpixels Extracted via Energy-Driven Sampling, ECCV 2012
(https://arxiv.org/abs/1309.3848); Ke, Mo and Yu, CAST, ICLR 2024, appendix "implementation".
OpenCV's ``num_levels=1`` (raised to 2 inside) and ``double_step=False`` are fixed, as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.errors import ConfigError, PluginError
from castssl.installer import OPENCV, restore_ximgproc
from castssl.superpixels.per_image import per_image
from castssl.superpixels.seeds_cells import FEWEST, cells_of, enlarge, plain_grid
from castssl.superpixels.seeds_values import Mode, table_of

_KEPT = 8  # image sizes whose objects of OpenCV stay: each has histograms of 13 to 53 MiB


class _Engines(dict[tuple[int, int], Any]):
    """OpenCV's objects by height and width.  They do not pickle: a copy of this table is empty."""

    def __reduce__(self) -> tuple[type[_Engines], tuple[()]]:
        return _Engines, ()


class Seeds(Superpixels):
    """SEEDS: at most ``count`` superpixels per image, started from a regular grid, no randomness.

    The pre-training of the paper is the default; ``bins=5, iterations=15`` is its supervised setting and
    three times as fast; ``bins=5, iterations=5`` suits demonstrations.  An image too small for SEEDS (cells
    below 2 pixels, or strips) gets fewer cells, and at the extreme a plain grid: see :meth:`capacity`.

    Args:
        count: superpixels requested, at least 10.  OpenCV rounds to a grid, so it may give fewer.
        bins: histogram bins per Lab channel.
        iterations: refinement sweeps over the pixels.
        scale: the image is resized by this before SEEDS, and its labels back to full size by nearest.
        mode: the input of SEEDS.  "moco": the image as it is.  "deit": the image after the
            supervised and H-CAST code's round trip through normalization, which truncates many values by
            one.  "segmenter": after mmsegmentation's round trip in single precision, which lowers 2, 1
            and 3 of the red, green and blue values by one, and the published Segmenter code's overflow, which
            inverts the image: v -> (256 - v) mod 256.  For the published weights only.
        prior: how much borders are smoothed, 0 to 5; 2 as published.

    Raises:
        ConfigError: if an option is out of range.
        PluginError: if this OpenCV has no ``cv2.ximgproc``; names the command that repairs it.
    """

    count: int

    def __init__(
        self,
        count: int = 196,
        *,
        bins: int = 15,
        iterations: int = 20,
        scale: float = 1.0,
        mode: Mode = "moco",
        prior: int = 2,
    ) -> None:
        _refuse_options(count, bins, iterations, scale, mode, prior=prior)
        if "ximgproc" not in dir(cv2) or "createSuperpixelSEEDS" not in dir(cv2.ximgproc):
            raise PluginError(
                f"SEEDS needs cv2.ximgproc, which OpenCV {cv2.__version__} here lacks: opencv-python was"
                f" installed over {OPENCV}, or instead of it. Repair it with: {restore_ximgproc()}"
            )
        self.count = count
        self.bins = bins
        self.iterations = iterations
        self.scale = scale
        self.mode = mode
        self.prior = prior
        self._table = table_of(mode)
        self._engines = _Engines()

    def capacity(self, height: int, width: int) -> int:
        """How many superpixels an image of this size has: exact, never above ``count``."""
        rows, columns, _ = cells_of(*self._scaled(height, width), self.count)
        return rows * columns

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) RGB -> int32 (B, H, W), on the same device; computed on the CPU.

        Raises:
            ValueError: if the images are not uint8 (B, 3, H, W).
        """
        with one_thread():
            return per_image(self._partition)(images)

    def _partition(self, image: NDArray[np.uint8]) -> NDArray[np.int32]:
        full = image.shape[:2]
        height, width = self._scaled(*full)
        if (height, width) != full:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        if self._table is not None:
            image = np.asarray(cv2.LUT(image, self._table), np.uint8)
        labels = self._labels(image)
        return labels if labels.shape == full else enlarge(labels, *full)

    def _labels(self, image: NDArray[np.uint8]) -> NDArray[np.int32]:
        height, width = image.shape[:2]
        rows, columns, requested = cells_of(height, width, self.count)
        if not requested:
            return plain_grid(height, width, rows, columns)
        engine = self._engines.pop((height, width), None) or cv2.ximgproc.createSuperpixelSEEDS(
            width, height, 3, requested, 1, self.prior, self.bins, double_step=False
        )
        engine.iterate(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), self.iterations)
        labels = np.asarray(engine.getLabels(), np.int32)
        self._engines[height, width] = engine  # Not before: another thread would use it, too.
        if len(self._engines) > _KEPT:
            self._engines.pop(next(iter(self._engines)), None)
        return labels

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        return max(1, int(height * self.scale)), max(1, int(width * self.scale))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(count={self.count}, bins={self.bins}, iterations={self.iterations},"
            f" scale={self.scale}, mode={self.mode!r}, prior={self.prior})"
        )


def _refuse_options(count: int, bins: int, iterations: int, scale: float, mode: str, *, prior: int) -> None:
    wrong = []
    if count < FEWEST:
        wrong.append(f"count={count}: at least {FEWEST}, OpenCV makes no fewer")
    if not 1 <= bins <= 256:
        wrong.append(f"bins={bins}: 1 to 256")
    if iterations < 0:
        wrong.append(f"iterations={iterations}: 0 or more")
    if not 0 < scale <= 8:
        wrong.append(f"scale={scale}: above 0, at most 8")
    if mode not in get_args(Mode):
        wrong.append(f"mode={mode!r}: one of {', '.join(get_args(Mode))}")
    if not 0 <= prior <= 5:
        wrong.append(f"prior={prior}: 0 to 5")
    if wrong:
        raise ConfigError("SEEDS options out of range (got: expected): " + "; ".join(wrong))


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV's resize and color conversion would start its thread pool on large images."""
    # 1 would end the pool's threads, and wait forever in a process that was forked after they had begun.
    before = cv2.getNumThreads()
    if before > 1:
        cv2.setNumThreads(0)
    try:
        yield
    finally:
        if before > 1:
            cv2.setNumThreads(before)
