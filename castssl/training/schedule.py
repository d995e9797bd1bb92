"""Schedules as pure functions of progress, the share of optimizer steps done, 0 to 1.

MoCo v3 (https://arxiv.org/abs/2104.02057, section 4) warms the learning rate up linearly, lets it fall along
half a cosine, and raises the twin's momentum to 1 along another half cosine.  Both move with every step.
"""

from __future__ import annotations

from math import cos, pi


def warmup_cosine(progress: float, warmup: float, floor: float = 0.0) -> float:
    """The factor of the learning rate: 0 to 1 over the warm-up, then 1 to ``floor`` along half a cosine.

    Args:
        progress: share of optimizer steps done.
        warmup: share of all steps that the warm-up takes; with the first step at progress 0, the rate
            starts at exactly 0.
        floor: the factor at the end.

    Raises:
        ValueError: if an argument is not in [0, 1].
    """
    _check(progress=progress, warmup=warmup, floor=floor)
    if progress < warmup:
        return progress / warmup
    return floor + (1 - floor) * _fall((progress - warmup) / (1 - warmup) if warmup < 1 else 0.0)


def cosine_rise(progress: float, start: float) -> float:
    """A momentum coefficient that rises from ``start`` to 1 along half a cosine.

    Raises:
        ValueError: if an argument is not in [0, 1].
    """
    _check(progress=progress, start=start)
    return 1 - (1 - start) * _fall(progress)


def _fall(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + cos(pi * progress))


def _check(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share between 0 and 1, got {share}")
