"""Square cells as superpixels, such as the patches of a ViT."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from castssl.contracts import Superpixels
from castssl.errors import ConfigError
from castssl.superpixels.per_image import check


class Grid(Superpixels):
    """Cells of ``cell`` x ``cell`` pixels, numbered row by row; cells at the right and bottom may be cut.

    Args:
        cell: side of a cell in pixels; 16 gives the 196 patches of a ViT at 224 x 224.
        runs_on: "device" partitions the whole batch on its device, "worker" each image while loading.

    Raises:
        ConfigError: if ``cell`` is below 1 or ``runs_on`` is neither of the two.
    """

    runs_on: Literal["worker", "device"]

    def __init__(self, cell: int = 16, *, runs_on: Literal["worker", "device"] = "device") -> None:
        if cell < 1:
            raise ConfigError(f"a grid's cell must be at least 1 pixel, got {cell}; try cell=16")
        if runs_on not in ("worker", "device"):
            raise ConfigError(f"runs_on must be 'worker' or 'device', got {runs_on!r}")
        self.cell = cell
        self.runs_on = runs_on

    def capacity(self, height: int, width: int) -> int:
        """The number of cells, rows times columns: exact."""
        return -(-height // self.cell) * -(-width // self.cell)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> int32 (B, H, W).

        Raises:
            ValueError: if the images are not uint8 (B, 3, H, W).
        """
        check(images)
        batch, _, height, width = images.shape
        columns = -(-width // self.cell)
        y = torch.arange(height, device=images.device, dtype=torch.int32) // self.cell
        x = torch.arange(width, device=images.device, dtype=torch.int32) // self.cell
        return (y[:, None] * columns + x).expand(batch, -1, -1).contiguous()

    def __repr__(self) -> str:
        return f"Grid(cell={self.cell}, runs_on={self.runs_on!r})"
