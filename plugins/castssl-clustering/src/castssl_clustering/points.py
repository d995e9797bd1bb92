"""What all operators here share: where tokens lie, how far apart, and the mean of those that join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from castssl.contracts import Need
from castssl.pooling.arithmetic import masked_mean, squared_distances
from castssl.types import Tokens

Space = Literal["features", "keys"]
"""Tokens are compared by their features ``x``, or by the last attention's keys."""


def check_option(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not one of ``allowed``.

    Raises:
        ValueError: naming the option, what was given and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_count(name: str, value: int, least: int) -> None:
    """Refuse a count below ``least``.

    Raises:
        ValueError: naming the option, what was given and the least.
    """
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def needed(space: Space) -> frozenset[Need]:
    """What the model must record for tokens to be compared in ``space``."""
    return frozenset({"keys"} if space == "keys" else ())


def recorded(tokens: Tokens, need: Need) -> Tensor:
    """What was recorded for the pooling: ``tokens.keys`` or ``tokens.received``.

    Raises:
        ValueError: if it was not recorded.
    """
    values: Tensor | None = getattr(tokens, need)
    if values is None:
        raise ValueError(f"expected tokens with {need}, got None; the model records what the pooling `needs`")
    return values


@torch.no_grad()
def points(tokens: Tokens, space: Space) -> Tensor:
    """Where the tokens lie: float32 (or better) (B, N, d), rows of padding 0, without gradient."""
    rows = tokens.x if space == "features" else recorded(tokens, "keys")
    wide = torch.promote_types(rows.dtype, torch.float32)
    return rows.to(wide).masked_fill((tokens.mass <= 0)[..., None], 0)


@torch.no_grad()
def centered(where: Tensor, valid: Tensor) -> Tensor:
    """The points about their mean, (B, N, d), so that differences of large norms do not cancel."""
    return (where - masked_mean(where, valid)) * valid[..., None]


@torch.no_grad()
def distances(where: Tensor, valid: Tensor) -> Tensor:
    """Squared distances of all pairs: (B, N, d) -> (B, N, N), of a point to itself exactly 0."""
    where = centered(where, valid)
    same = torch.eye(where.shape[1], dtype=torch.bool, device=where.device)
    return squared_distances(where, where).masked_fill(same, 0)


@torch.no_grad()
def nearest_pick(distance: Tensor, valid: Tensor, index: Tensor) -> Tensor:
    """Which of the picked tokens is nearest to each: (B, N, N), int64 (B, K) -> int64 (B, N).

    Ties go to the first pick; a pick that is padding is never chosen.
    """
    present = valid.gather(1, index)
    columns = distance.gather(2, index[:, None].expand(-1, distance.shape[1], -1))
    return columns.masked_fill(~present[:, None], torch.inf).argmin(-1)


def mean_rows(x: Tensor, weight: Tensor) -> Tensor:
    """Weighted means: (B, N, D), weights (B, N, K) -> (B, K, D) in the dtype of ``x``; 0 where no weight is.

    Summed in float32 also under autocast: a product with half-precision weights would no longer be a mean.
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = weight.to(wide)
        total = weight.sum(1, keepdim=True)
        # Not clamped at a tiny number, by which the gradient of an empty cluster would overflow.
        share = weight / torch.where(total > 0, total, 1)
        return (share.transpose(1, 2) @ x.to(wide)).to(x.dtype)
