"""Features of images: gathered from all processes, compared by cosine, and the progress of reading images."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from castssl import distributed
from castssl.contracts import Encoder
from castssl.types import Hierarchy, View

Device = torch.device | str
Read = TypeVar("Read")
"""A batch of what a loader reads."""

CELLS = 2**27
"""How many float32 cells a temporary may have (512 MiB): bounds the rows that are compared at once."""
SENT = 2**14
"""How many rows each process sends at once."""
EVERY = 10.0
"""Seconds between two lines about progress."""


class Features:
    """Rows of numbers for images, collected batch by batch on the CPU.

    Args:
        device: where processes exchange rows.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, rows: Tensor, labels: Tensor, index: Tensor) -> None:
        """Collect a batch of this process.

        Args:
            rows: float32 (B, D).
            labels: int64 (B, L), or multi-hot float32 (B, C).
            index: int64 (B,), the images' numbers.
        """
        # Processes exchange one dtype, also those without a batch.
        self._parts.append((rows.cpu(), labels.cpu().long(), index.cpu().unsqueeze(1)))

    def gather(self) -> tuple[Tensor, Tensor]:
        """The rows of all processes, once for each image, in the order of the images' numbers.

        Every process calls this, and gets the same, whatever the number of processes.

        Returns:
            float32 (n, D) and int64 (n, L), on the CPU.
        """
        rows, labels, index = (
            _gather([part[place] for part in self._parts], dtype, self._device)
            for place, dtype in enumerate((torch.float32, torch.int64, torch.int64))
        )
        first = np.unique(index.flatten().numpy(), return_index=True)[1]
        return rows[first], labels[first]


def tracked(loader: Iterable[Read], total: int | None, what: str) -> Iterator[Read]:
    """The batches, with their progress on stderr: a bar on a terminal that shows no other, else lines.

    Args:
        loader: of the share of this process.
        total: how many batches it has; None for a stream.
        what: the name of the images.
    """
    console = Console(stderr=True)
    if not distributed.is_main():
        yield from loader
    elif console.is_terminal and not isinstance(sys.stderr, FileProxy):
        yield from track(loader, what, total, console=console, transient=True)
    else:
        last = time.monotonic()
        for number, batch in enumerate(loader):
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                print(
                    f"{what}: {number:,} of {'?' if total is None else f'{total:,}'} batches", file=sys.stderr
                )
            yield batch


def blocks(rows: int, cells: int) -> Iterator[slice]:
    """Slices over ``rows``, so many at a time that rows x ``cells`` stay within :data:`CELLS`."""
    step = max(1, CELLS // cells)
    return (slice(start, start + step) for start in range(0, rows, step))


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row, the largest first; of equal scores the lowest columns.

    ``torch.topk`` takes any of them: which ones depends on the device, and on how many columns there are.

    Args:
        scores: float (n, m), not NaN.
        k: 1 to m.

    Returns:
        float (n, k) and the columns int64 (n, k).
    """
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    least = values[:, k - 1 : k]
    tied = (values[:, k:] == least).any(1).nonzero()[:, 0]
    columns = columns[:, :k]
    if len(tied):  # Some of the rows that score the least are left out.
        some, least = scores[tied], least[tied]
        above, equal = some > least, some == least
        equal &= equal.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)
        columns[tied] = (above | equal).nonzero()[:, 1].view(-1, k)
    columns = columns.sort(1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def segment_with_feature(encoder: Encoder, view: View) -> tuple[Hierarchy, Tensor]:
    """The hierarchy of all stages, and the class token of the last stage that has one: float (B, D)."""
    hierarchy = encoder.segment(view)
    stages = (encoder(view) if encoder.config.fused else hierarchy).stages
    return hierarchy, stages[encoder.stages_with_cls - 1].cls[:, 0]


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1 in float32."""
    return F.normalize(rows.float(), dim=1)


def check_rows(name: str, rows: Tensor) -> None:
    """Refuse features that are not (n, D), that are none, or that are not finite.

    Raises:
        ValueError: with what was expected.
    """
    if rows.dim() != 2 or not len(rows):
        raise ValueError(f"{name}: expected features (n, D) with n > 0, got {tuple(rows.shape)}")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"{name}: features are not finite; has the run diverged?")


def _gather(parts: list[Tensor], dtype: torch.dtype, device: Device) -> Tensor:
    """The rows (n, W) of all ranks in rank order, on the CPU; ranks may have unequal numbers, or none."""
    rows = torch.cat(parts) if parts else torch.empty(0, 0, dtype=dtype)
    shapes = distributed.gather(torch.tensor([rows.shape], device=device)).tolist()
    counts, width = [count for count, _ in shapes], max(width for _, width in shapes)
    if len(counts) == 1 or width == 0:
        return rows.new_empty(sum(counts), 0) if width == 0 else rows
    rows = rows.reshape(-1, width)
    pieces: list[list[Tensor]] = [[] for _ in counts]
    for start in range(0, max(counts), SENT):
        piece = rows[start : start + SENT]
        # A collective needs equal shapes: pad here, and cut after it.
        piece = F.pad(piece, (0, 0, 0, min(SENT, max(counts) - start) - len(piece)))
        for rank, part in enumerate(distributed.gather(piece.to(device)).cpu().chunk(len(counts))):
            pieces[rank].append(part[: max(0, counts[rank] - start)])
    return torch.cat([part for rank in pieces for part in rank])
