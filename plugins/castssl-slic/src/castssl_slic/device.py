"""SLIC on the device, a batch at a time: no CPU stands between a GPU and its data.

Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, TPAMI 2012
(https://doi.org/10.1109/TPAMI.2012.120).  As in Ren, Prisacariu and Reid, gSLICr: SLIC superpixels at over
250Hz (https://arxiv.org/abs/1509.04232), each pixel chooses among the clusters of its own cell of the grid
and of the eight around it: there is no search, all shapes are static, and nothing waits for the host.
"""

from __future__ import annotations

from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Superpixels
from castssl.errors import ConfigError
from castssl.superpixels.per_image import check
from castssl_slic.lab import UNIT, lab
from castssl_slic.repair import repair

FAR = 1e9
"""Where clusters outside the image lie; its square is still a float32."""
AROUND = sorted(product((-1, 0, 1), repeat=2), key=lambda step: step != (0, 0))
"""Rows down and columns to the right; a pixel's own cell first, which is kept when others are as near."""


class Cells(NamedTuple):
    """A grid over an image; the cells of the last row and column may be cut."""

    rows: int
    columns: int
    height: int
    """Pixels of one cell."""
    width: int


def fit(height: int, width: int, count: int) -> Cells:
    """About square cells, at most ``count`` of them, for an image of this size."""
    rows = min(height, count, max(1, round((count * height / width) ** 0.5)))
    tall = -(-height // rows)
    rows = -(-height // tall)
    wide = -(-width // min(width, count // rows))
    return Cells(rows, -(-width // wide), tall, wide)


class DeviceSlic(Superpixels):
    """SLIC in batches, on a GPU or a CPU: at most ``count`` superpixels, each of them connected.

    Clusters start as the means of the cells of a grid.  The original's start at the lowest gradient nearby is
    left out, and so is its stop when clusters rest.

    Args:
        count: superpixels asked for, at least 1; a grid of as many or somewhat fewer is laid over the image.
        compactness: weight of the distance in the image against that in color; more makes squares.
        iterations: rounds of assignment.
        smallest: what has less than this share of a cell after the repair joins its neighbors.
        sweeps: how often the repair goes along rows and columns; more follows more winding shapes.

    Raises:
        ConfigError: if an option is out of range.
    """

    runs_on: Literal["worker", "device"] = "device"
    count: int

    def __init__(
        self,
        count: int = 196,
        *,
        compactness: float = 20.0,
        iterations: int = 10,
        smallest: float = 0.1,
        sweeps: int = 4,
    ) -> None:
        if not (count >= 1 and compactness > 0 and iterations >= 1 and 0 <= smallest <= 1 and sweeps >= 0):
            raise ConfigError(
                "device-slic takes count, iterations >= 1, compactness > 0, smallest 0 to 1, sweeps >= 0;"
                f" got count={count}, compactness={compactness}, iterations={iterations},"
                f" smallest={smallest}, sweeps={sweeps}"
            )
        self.count = count
        self.compactness = compactness
        self.iterations = iterations
        self.smallest = smallest
        self.sweeps = sweeps

    def capacity(self, height: int, width: int) -> int:
        """The number of cells, rows times columns: never above ``count``."""
        cells = fit(height, width, self.count)
        return cells.rows * cells.columns

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) RGB -> int32 (B, H, W), on the same device; nothing waits for it.

        Raises:
            ValueError: if the images are not uint8 (B, 3, H, W).
        """
        check(images)
        colors = lab(images)
        height, width = images.shape[-2:]
        cells = fit(height, width, self.count)
        labels = assign(colors, cells, compactness=self.compactness, iterations=self.iterations)
        smallest = self.smallest * cells.height * cells.width
        count = cells.rows * cells.columns
        return repair(labels, colors, count=count, smallest=smallest, sweeps=self.sweeps).int()

    def __repr__(self) -> str:
        return (
            f"DeviceSlic(count={self.count}, compactness={self.compactness}, iterations={self.iterations},"
            f" smallest={self.smallest}, sweeps={self.sweeps})"
        )


def assign(colors: Tensor, cells: Cells, *, compactness: float, iterations: int) -> Tensor:
    """Each pixel's nearest cluster, after ``iterations`` rounds of k-means (TPAMI 2012, algorithm 1).

    Args:
        colors: float32 (B, 3, H, W), whole sixteenths of Lab.
        cells: the grid whose cells the clusters start from.
        compactness: m in the distance D^2 = color^2 + (m / S)^2 position^2, with S^2 the pixels of a cell.
        iterations: rounds of assignment, at least 1.

    Returns:
        int64 (B, H, W), the cell from which the nearest cluster started.  Parts of a cluster may lie apart.
    """
    batch, _, height, width = colors.shape
    rows, columns, tall, wide = cells
    # Cut cells are filled up, so that cells are axes of the shape; what is filled in has no mass.
    pixels = F.pad(colors, (0, columns * wide - width, 0, rows * tall - height))
    y, x, home = _grid_positions(cells, colors.device)
    inside = (y < height) & (x < width)
    labels = home.expand(batch, -1, -1)
    centers = colors.new_zeros(batch, 5, rows * columns)
    weight = UNIT * compactness / (tall * wide) ** 0.5
    for _ in range(iterations):
        centers = means(pixels, labels, inside, centers)
        labels = nearest(pixels, centers, cells, weight)
    return labels[:, :height, :width]


def means(pixels: Tensor, labels: Tensor, inside: Tensor, before: Tensor) -> Tensor:
    """Mean color and place of each cluster, float32 (B, 5, K); that of ``before`` if it has no pixel.

    Args:
        pixels: float32 (B, 3, H, W), whole numbers, so that sums are exact in any order.
        labels: int64 (B, H, W), below K.
        inside: bool (H, W); pixels elsewhere are left out.
        before: float32 (B, 5, K).
    """
    batch, _, height, width = pixels.shape
    slots = labels.flatten(1)
    counted = inside.long()
    y = torch.arange(height, device=pixels.device)[:, None] * counted
    x = torch.arange(width, device=pixels.device) * counted
    mass, *sums = (
        torch.zeros(batch, before.shape[2], dtype=torch.int64, device=pixels.device).scatter_add_(
            1, slots, values.flatten(-2).expand(batch, -1)
        )
        for values in (counted, *pixels.long().unbind(1), y, x)
    )
    means = torch.stack(sums, 1).float() / mass.clamp(min=1)[:, None]
    return torch.where(mass[:, None] > 0, means, before)


def nearest(pixels: Tensor, centers: Tensor, cells: Cells, weight: float) -> Tensor:
    """Of the clusters of the nine cells around each pixel, the nearest: int64 (B, H, W).

    Args:
        pixels: float32 (B, 3, H, W), H and W whole cells.
        centers: float32 (B, 5, K), color and place of each cell's cluster.
        cells: the grid.
        weight: factor on distances in pixels.
    """
    batch, rows, columns = len(pixels), cells.rows, cells.columns
    split = (rows, cells.height, columns, cells.width)
    y, x, home = _grid_positions(cells, pixels.device)
    y, x = y.view(rows, cells.height, 1, 1).float(), x.view(1, 1, columns, cells.width).float()
    channels = pixels.view(batch, 3, *split).unbind(1)
    framed = F.pad(centers.view(batch, 5, rows, columns), (1, 1, 1, 1), value=FAR)
    least = pixels.new_full((batch, *split), torch.inf)
    labels = home.view(split).expand(batch, -1, -1, -1, -1)
    for down, right in AROUND:
        rivals = framed[:, :, 1 + down : 1 + down + rows, 1 + right : 1 + right + columns]
        *color, at_y, at_x = rivals[:, :, :, None, :, None].unbind(1)
        distance = ((y - at_y).square() + (x - at_x).square()) * weight**2
        for channel, mean in zip(channels, color, strict=True):
            distance = distance + (channel - mean).square()
        labels = torch.where(distance < least, home.view(split) + (down * columns + right), labels)
        least = torch.minimum(distance, least)
    return labels.reshape(batch, rows * cells.height, columns * cells.width)


def _grid_positions(cells: Cells, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Row (H, 1), column (W,) and cell (H, W) of each pixel of a grid, int64."""
    y = torch.arange(cells.rows * cells.height, device=device)[:, None]
    x = torch.arange(cells.columns * cells.width, device=device)
    return y, x, y // cells.height * cells.columns + x // cells.width
