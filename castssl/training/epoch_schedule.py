"""The schedule of DeiT (https://arxiv.org/abs/2012.12877), which changes from epoch to epoch."""

from __future__ import annotations

from castssl.training.schedule import check_shares, half_cosine


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
    return floor + (1 - floor) * half_cosine(min(epoch / (cycle or epochs), 1.0))
