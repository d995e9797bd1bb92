"""What frozen features know, without training anything: a vote of nearest neighbours, and matching views.

The vote is that of Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
discrimination", https://arxiv.org/abs/1805.01978, section 3.4.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from castssl import ranks
from castssl.contracts import Encoder, Superpixels
from castssl.data.finish import finish
from castssl.modes import evaluating
from castssl.types import Batch

Device = torch.device | str

CELLS = 2**27
"""How many float32 cells a temporary may have (512 MiB): bounds the rows that are compared at once."""
SENT = 2**14
"""How many rows each rank sends at once."""
EVERY = 10.0
"""Seconds between two lines about progress."""


class Loader(Protocol):
    """What :func:`features` asks of a loader; ``castssl.data.load`` gives one."""

    @property
    def batches(self) -> Iterable[Sequence[int]] | None:
        """The images in each batch of this rank, by number; None if only a stream knows."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...


def features(
    encoder: Encoder, loader: Loader, superpixels: Superpixels, device: Device, *, what: str = "images"
) -> tuple[Tensor, Tensor]:
    """The last stage's class token of every image, once each, in the data set's order.

    Every rank must call this, each with its share of the data; all get the same, whole answer, and it
    does not depend on the number of ranks: images that come twice, to fill batches, are kept once.  (A
    stream does not number its images: their rows come rank by rank, all of them.)
    Modules are in evaluation mode meanwhile, each in its own mode again afterwards.

    Args:
        encoder: the branch to judge, explicitly: ``objective.encoder`` for the trained one, or the
            momentum twin's.
        loader: yields raw batches; only their first view is looked at.
        superpixels: what the loader was given.
        device: where ``encoder`` is.
        what: how the progress on stderr names the images.

    Returns:
        float32 (n, D) features, not normalised, and int64 (n, L) label paths, both on the CPU.
    """
    rows: list[Tensor] = []
    paths: list[Tensor] = []
    with evaluating(encoder), torch.no_grad():
        for raw in _tracked(loader, what):
            batch = finish(raw, superpixels, device)
            rows.append(encoder(batch.views[0]).stages[-1].cls.squeeze(1).float().cpu())
            paths.append(batch.target.cpu())
    found = _gather(rows, torch.float32, device), _gather(paths, torch.int64, device)
    if loader.batches is None:
        return found
    numbers = [torch.tensor(list(images), dtype=torch.int64).unsqueeze(1) for images in loader.batches]
    first = _first_of_each(_gather(numbers, torch.int64, device).squeeze(1))
    return found[0][first], found[1][first]


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    classes: int,
    device: Device | None = None,
) -> float:
    """The share of test rows whose class wins the weighted vote of their ``k`` nearest train rows.

    A neighbour's vote weighs exp(cosine / temperature), relative to the nearest one's, so that no temperature
    overflows.  Where two classes have equal votes, the lower number wins.  Rows are compared a block at a
    time, so that 1.28 million train and 50,000 test rows need no more than the train rows and :data:`CELLS`
    cells.
    No communication: any one rank may call it.

    Args:
        train_features: float (n, D), of any length.
        train_labels: int64 (n,), one level of the label path.
        test_features: float (m, D).
        test_labels: int64 (m,), of the same level.
        k: how many neighbours vote; all of them if there are fewer train rows.
        temperature: above 0; small values let the nearest decide.
        classes: how many classes the level has.
        device: where to compare; where the train rows are if None.

    Returns:
        A top-1 accuracy in [0, 1].

    Raises:
        ValueError: if shapes disagree, there are no rows, a label is not in [0, classes), a feature is not
            finite, or ``k`` or ``temperature`` is out of range.
    """
    if k < 1 or not temperature > 0:
        raise ValueError(f"knn: expected k of 1 or more and a temperature above 0, got {k} and {temperature}")
    _check("knn train", train_features, train_labels, classes)
    _check("knn test", test_features, test_labels, classes)
    bank = _unit(train_features, device).T
    votes = train_labels.to(bank.device)
    neighbours = min(k, len(votes))
    right = 0
    for some in _blocks(len(test_labels), max(len(votes), classes)):
        rows = _unit(test_features[some], bank.device)
        cosines, nearest = (rows @ bank).topk(neighbours, dim=1)
        # A softmax, not exp: exp(1 / 0.01) is beyond float32.
        weights = (cosines / temperature).softmax(1)
        voted = weights.new_zeros(len(rows), classes).scatter_add_(1, votes[nearest], weights).argmax(1)
        right += int((voted.cpu() == test_labels[some].cpu()).sum())
    return right / len(test_labels)


def match(a: Tensor, b: Tensor, *, device: Device | None = None) -> float:
    """The share of rows of ``a`` whose nearest row of ``b`` is their own: do two views know each other?

    Args:
        a: float (n, D), of any length; nearness is the cosine.
        b: float (n, D), row i showing the same image as row i of ``a``.
        device: where to compare; where ``b`` is if None.

    Returns:
        In [0, 1]; 1 / n if all rows of ``b`` are alike (a collapsed encoder).

    Raises:
        ValueError: if the shapes differ, there are no rows, or a feature is not finite.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"match: expected two (n, D) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    _check_rows("match", a)
    _check_rows("match", b)
    bank = _unit(b, device).T
    blocks = _blocks(len(a), len(b))
    nearest = torch.cat([(_unit(a[some], bank.device) @ bank).argmax(1).cpu() for some in blocks])
    return float((nearest == torch.arange(len(a))).float().mean())


def _tracked(loader: Loader, what: str) -> Iterator[Batch]:
    """The batches, with their progress on stderr: a bar on a terminal that shows no other, else lines."""
    total = None if loader.batches is None else sum(1 for _ in loader.batches)
    console = Console(stderr=True)
    if not ranks.is_main():
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


def _blocks(rows: int, cells: int) -> Iterator[slice]:
    """Slices over ``rows``, so many at a time that rows x ``cells`` stay within :data:`CELLS`."""
    step = max(1, CELLS // cells)
    return (slice(start, start + step) for start in range(0, rows, step))


def _unit(rows: Tensor, device: Device | None) -> Tensor:
    return F.normalize(rows.to(device or rows.device).float(), dim=1)


def _check_rows(name: str, rows: Tensor) -> None:
    if rows.dim() != 2 or not len(rows):
        raise ValueError(f"{name}: expected features (n, D) with n > 0, got {tuple(rows.shape)}")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"{name}: features are not finite; has the run diverged?")


def _check(name: str, rows: Tensor, labels: Tensor, classes: int) -> None:
    _check_rows(name, rows)
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{name}: expected one label a row, ({len(rows)},), got {tuple(labels.shape)};"
            f" choose a level of the path, labels[:, -1] for the finest"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"{name}: expected labels in [0, {classes}), got {int(labels.min())} to {int(labels.max())}"
        )


def _gather(parts: list[Tensor], dtype: torch.dtype, device: Device) -> Tensor:
    """The rows (n, W) of all ranks in rank order, on the CPU; ranks may have unequal numbers, or none."""
    rows = torch.cat(parts) if parts else torch.empty(0, 0, dtype=dtype)
    shapes = ranks.gather(torch.tensor([rows.shape], device=device)).tolist()
    counts, width = [count for count, _ in shapes], max(width for _, width in shapes)
    if len(counts) == 1 or width == 0:
        return rows.new_empty(sum(counts), 0) if width == 0 else rows
    rows = rows.reshape(-1, width)
    pieces: list[list[Tensor]] = [[] for _ in counts]
    for start in range(0, max(counts), SENT):
        piece = rows[start : start + SENT]
        # A collective wants equal shapes: pad here, cut there.
        piece = F.pad(piece, (0, 0, 0, min(SENT, max(counts) - start) - len(piece)))
        for rank, part in enumerate(ranks.gather(piece.to(device)).cpu().chunk(len(counts))):
            pieces[rank].append(part[: max(0, counts[rank] - start)])
    return torch.cat([part for rank in pieces for part in rank])


def _first_of_each(index: Tensor) -> Tensor:
    """Where each distinct value first occurs, by increasing value: int64 (n,) -> (m,)."""
    order = torch.argsort(index, stable=True)
    fresh = torch.ones_like(order, dtype=torch.bool)
    fresh[1:] = index[order][1:] != index[order][:-1]
    return order[fresh]
