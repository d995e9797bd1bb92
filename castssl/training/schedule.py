"""Schedules as pure functions of progress, the share of optimizer steps done, 0 to 1.

MoCo v3 (https://arxiv.org/abs/2104.02057, section 4) warms the learning rate up linearly, lets it fall along
half a cosine, with every step.  DeiT (https://arxiv.org/abs/2012.12877) does so from epoch to epoch.
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
    return floor + (1 - floor) * _fall((progress - warmup) / (1 - warmup) if warmup < 1 else 0.0)


def epoch_cosine(
    progress: float,
    epochs: int,
    *,
    warmup: float = 0,
    start: float = 0.0,
    floor: float = 0.0,
    lag: int = 0,
    cycle: int = 0,
) -> float:
    """The factor of a learning rate that changes from epoch to epoch only, as DeiT and MoCo v3's probe do it.

    Half a cosine over all ``epochs``, whose first ``warmup`` epochs are replaced by a straight line from
    ``start`` that, at its end, would meet 1 and not the cosine.  It is timm's ``CosineLRScheduler`` without
    ``warmup_prefix``.

    Args:
        progress: share of optimizer steps done.
        epochs: of the whole run.
        warmup: epochs of warm-up.
        start: the factor of the first epoch, if there is a warm-up.
        floor: the factor that the cosine falls to.
        lag: so many epochs later than it should; the released DeiT has 1, because it steps its schedule
            after each epoch with that epoch's own number.
        cycle: epochs that the cosine takes, if not all ``epochs``; what is beyond them stays at ``floor``.

    Raises:
        ValueError: if a share is not in [0, 1].
    """
    check_shares(progress=progress, start=start, floor=floor)
    # The small term keeps 3 / 10 * 10 from being the end of epoch 2.
    epoch = max(int(progress * epochs + 1e-6) - lag, 0)
    if epoch < warmup:
        return start + (1 - start) * epoch / warmup
    return floor + (1 - floor) * _fall(min(epoch / (cycle or epochs), 1.0))


def _fall(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + cos(pi * progress))


def check_shares(**shares: float) -> None:
    """Refuse what is not in [0, 1] by a ``ValueError``."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share between 0 and 1, got {share}")
