"""What each row's encoder costs: multiply-adds, and milliseconds that are measured once and kept."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from castssl.ablations.grid import WEIGHTS, Cell, Study
from castssl.config import save
from castssl.devices import machine

if TYPE_CHECKING:
    import torch

    from castssl.contracts import Encoder

COLUMNS = ("GFLOPs", "ms")
ROUNDS, BATCH = 9, 16
KEPT = "cost.json"
"""What was measured of a cell's encoder, with its conditions, in the folder of the cell's last run."""


def kept(study: Study, out: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """What was measured of each row so far: GFLOPs, ms, and ``conditions``."""
    costs: dict[tuple[str, ...], dict[str, Any]] = {}
    for cell in study.cells():
        path = cell.steps[-1].folder(out) / KEPT
        try:
            costs.setdefault(cell.row, dict(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # Not measured yet, or cut off by a power failure: it is measured again.
    return costs


def numbers(costs: Mapping[tuple[str, ...], Mapping[str, Any]]) -> dict[tuple[str, ...], dict[str, float]]:
    """The columns of the table, without the conditions."""
    return {
        row: {name: float(value) for name, value in values.items() if name != "conditions"}
        for row, values in costs.items()
    }


def conditions(costs: Mapping[tuple[str, ...], Mapping[str, Any]]) -> list[str]:
    """A sentence for each set of rows that were measured together."""
    together: dict[str, list[str]] = {}
    for row, values in costs.items():
        together.setdefault(str(values.get("conditions", "unknown")), []).append(", ".join(row) or "all")
    if len(together) < 2:
        return [f"ms per image: {text}." for text in together]
    return [
        f"ms per image of {'; '.join(rows)}: {text}. Do not compare it with rows that were measured apart."
        for text, rows in together.items()
    ]


def measure(study: Study, out: Path) -> None:
    """Measure each row that has a finished run and no measurement, and keep the result with its cell.

    GFLOPs are multiply-adds of one image, ms are an image's.  The forward passes of all rows take turns, so
    that a busy machine slows them alike.  A row is measured once: delete ``cost.json`` in its folders to
    measure it again.
    """
    measured = kept(study, out)
    cells: dict[tuple[str, ...], Cell] = {}
    for cell in study.cells():
        if cell.row not in measured and (cell.steps[0].folder(out) / WEIGHTS).is_file():
            cells.setdefault(cell.row, cell)
    if not cells:
        return
    import torch

    from castssl.checkpoints import load_encoder
    from castssl.models.flops import account
    from castssl.models.sizes import with_sizes
    from castssl.types import View

    def opened(cell: Cell) -> Encoder:
        encoder = load_encoder(cell.steps[0].folder(out))
        sizes = _sizes(cell)
        return with_sizes(encoder, sizes) if sizes else encoder

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = {row: opened(cell) for row, cell in cells.items()}
    costs: dict[tuple[str, ...], dict[str, Any]] = {}
    views = {}
    for row, encoder in rows.items():
        side = encoder.config.image_size
        counted = account(encoder, image_size=side, classes=())
        costs[row] = {"GFLOPs": (counted.macs + counted.sampling) / 1e9}
        encoder.eval()
        encoder.to(device)
        views[row] = View(
            torch.randn(BATCH, encoder.config.channels, side, side, device=device),
            _regular(side, encoder.sizes[0]).to(device),
        )
    taken: dict[tuple[str, ...], list[float]] = {row: [] for row in rows}
    with torch.no_grad():
        for _ in range(ROUNDS + 1):
            for row, encoder in rows.items():
                began = time.perf_counter()
                encoder(views[row])
                if device.type == "cuda":
                    torch.cuda.synchronize()
                taken[row].append(time.perf_counter() - began)
    for row, seconds in taken.items():
        costs[row]["ms"] = 1000 * median(seconds[1:]) / BATCH
        costs[row]["conditions"] = _conditions(str(device), len(rows))
        save(costs[row], cells[row].steps[-1].folder(out) / KEPT)


def _conditions(device: str, rows: int) -> str:
    load = f", load {os.getloadavg()[0]:.1f}" if sys.platform != "win32" else ""
    when = time.strftime("%Y-%m-%d %H:%M")
    return (
        f"median of {ROUNDS} passes of {BATCH} images, {rows} rows taking turns, {when},"
        f" {machine(device)}{load}"
    )


def _sizes(cell: Cell) -> Sequence[int] | None:
    """Sizes that only the second recipe is given: those of the test."""
    values = [value for key, value in cell.values.items() if key.endswith(".sizes")]
    return [int(size) for size in values[0].partition("--")[0].split()] if values else None


def _regular(side: int, count: int) -> torch.Tensor:
    """A grid of at most ``count`` cells as segments: int32 (BATCH, side, side)."""
    import torch

    rows = int(count**0.5)
    cell = torch.arange(side) * rows // side
    return (cell[:, None] * rows + cell).int().expand(BATCH, -1, -1)
