"""Schedules as pure functions of progress, the share of optimizer steps done, 0 to 1.

MoCo v3 (https://arxiv.org/abs/2104.02057, section 4) warms the learning rate up linearly, lets it fall along
half a cosine, with every step.
"""

from __future__ import annotations

from math import cos, pi


def warmup_cosine(progress: float, warmup: float, floor: float = 0.0, *, start: float = 0.0) -> float:
    """The factor of the learning rate: up to 1 over the warm-up, then down to ``floor`` along half a cosine.

    Args:
        progress: share of optimizer steps done.
        warmup: share of all steps that the warm-up takes.
        floor: the factor at the end.
        start: the factor of the first step, at progress 0, if there is a warm-up.

    Raises:
        ValueError: if an argument is not in [0, 1].
    """
    check_shares(progress=progress, warmup=warmup, floor=floor, start=start)
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    return floor + (1 - floor) * half_cosine((progress - warmup) / (1 - warmup) if warmup < 1 else 0.0)


def half_cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + cos(pi * progress))


def check_shares(**shares: float) -> None:
    """Refuse what is not in [0, 1] by a ``ValueError``."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share between 0 and 1, got {share}")
