"""What each row's encoder costs: multiply-adds, and milliseconds measured side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from castssl.ablations.grid import WEIGHTS, Cell, Study

if TYPE_CHECKING:
    import torch

ROUNDS, BATCH = 5, 16


def costs(study: Study, out: Path) -> dict[tuple[str, ...], dict[str, float]]:
    """GFLOPs (multiply-adds of one image) and ms an image by row, of rows with a finished run.

    The forward passes of all rows take turns, so that a busy machine slows them alike; compare them with
    each other only.
    """
    cells: dict[tuple[str, ...], Cell] = {}
    for cell in study.cells():
        if (cell.steps[0].folder(out) / WEIGHTS).is_file():
            cells.setdefault(cell.row, cell)
    if not cells:
        return {}
    import torch

    from castssl.models.accounting import account
    from castssl.models.resized import resized
    from castssl.transfer.source import Trained, open_trained
    from castssl.types import View

    def opened(cell: Cell) -> Trained:
        trained = open_trained(cell.steps[0].folder(out))
        sizes = _sizes(cell)
        return trained._replace(encoder=resized(trained.encoder, sizes)) if sizes else trained

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = {row: opened(cell) for row, cell in cells.items()}
    found = {}
    views = {}
    for row, (encoder, _, side) in rows.items():
        counted = account(encoder, image_size=side, classes=())
        found[row] = {"GFLOPs": (counted.macs + counted.sampling) / 1e9}
        encoder.eval()
        encoder.to(device)  # type: ignore[attr-defined]
        views[row] = View(
            torch.randn(BATCH, 3, side, side, device=device), _regular(side, encoder.sizes[0]).to(device)
        )
    taken: dict[tuple[str, ...], list[float]] = {row: [] for row in rows}
    with torch.no_grad():
        for _ in range(ROUNDS + 1):
            for row, trained in rows.items():
                began = time.perf_counter()
                trained.encoder(views[row])
                if device.type == "cuda":
                    torch.cuda.synchronize()
                taken[row].append(time.perf_counter() - began)
    for row, seconds in taken.items():
        found[row]["ms"] = 1000 * median(seconds[1:]) / BATCH
    return found


def _sizes(cell: Cell) -> Sequence[int] | None:
    """Sizes that only the second recipe is given: those of the test."""
    given = [value for key, value in cell.values.items() if key.endswith(".sizes")]
    return [int(size) for size in given[0].partition("--")[0].split()] if given else None


def _regular(side: int, count: int) -> torch.Tensor:
    """A grid of at most ``count`` cells as segments: int32 (BATCH, side, side)."""
    import torch

    rows = int(count**0.5)
    at = torch.arange(side) * rows // side
    return (at[:, None] * rows + at).int().expand(BATCH, -1, -1)
