"""The schedule of segmentation: a power of the share of training that is left."""

from __future__ import annotations

from castssl.training.schedule import check_shares


def poly(
    progress: float, power: float = 0.9, floor: float = 0.0, *, warmup: float = 0.0, start: float = 0.1
) -> float:
    """The factor of the learning rate: ``floor + (1 - floor) (1 - progress)^power``.

    Segmenter's rate (https://arxiv.org/abs/2105.05633) has the factor 1e-2 as its floor: 1e-5 of 1e-3.  The
    VOC code released with CAST has no floor, and a warm-up over 100 of 30,000 steps from a tenth of the rate.

    Args:
        progress: share of optimizer steps done.
        power: of the share that is left.
        floor: the factor at the end.
        warmup: share of all steps in which a straight line from ``start`` to 1 limits the factor.
        start: the line's factor at progress 0.

    Raises:
        ValueError: if a share is not in [0, 1], or the power is negative.
    """
    check_shares(progress=progress, floor=floor, warmup=warmup, start=start)
    if power < 0:
        raise ValueError(f"power: expected 0 or more, got {power}")
    factor: float = floor + (1 - floor) * (1 - progress) ** power
    return min(factor, start + (1 - start) * progress / warmup) if progress < warmup else factor
