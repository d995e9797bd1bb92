"""What a contract check says when a promise is broken, and how a subject becomes something to check."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from castssl.errors import ContractError
from castssl.registry import build

Subject = str | Callable[..., Any]
"""A registry spec such as ``"graph:centroids=received"``, or a factory of that kind."""
Check = Callable[[Subject], None]


class Result(NamedTuple):
    """What one check found."""

    name: str
    error: Exception | None
    """None if the promise holds."""
    seconds: float


def run(checks: Iterable[Check], subject: Subject) -> Iterator[Result]:
    """Run one check after the other; a broken promise does not stop the next check."""
    for check in checks:
        start = time.perf_counter()
        try:
            check(subject)
            error = None
        except Exception as fault:
            error = fault
        yield Result(check.__name__, error, time.perf_counter() - start)


def make(kind: str, subject: Subject, *args: Any, seed: int = 0) -> Any:
    """Build a subject, with weights drawn from ``seed``."""
    seed_all(seed)
    return build(kind, subject, *args) if isinstance(subject, str) else subject(*args)


def seed_all(seed: int) -> None:
    """Seed every global generator that a plugin may draw from: Python's, numpy's and torch's."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def claim(holds: bool, message: str) -> None:
    """Raise ContractError with ``message`` unless ``holds``."""
    if not holds:
        raise ContractError(message)


def claim_equal(got: Tensor, expected: Tensor, message: str, *, tolerance: float = 1e-5) -> None:
    """Two tensors agree in shape, and in value up to ``tolerance`` (absolute and relative).

    Raises:
        ContractError: with ``message`` and the largest difference.
    """
    if got.shape != expected.shape:
        raise ContractError(f"{message}; shapes {tuple(got.shape)} and {tuple(expected.shape)}")
    a, b = got.detach().double(), expected.detach().double()
    if not torch.allclose(a, b, rtol=tolerance, atol=tolerance):
        raise ContractError(f"{message}; the largest difference is {float((a - b).abs().max()):.3g}")


def claim_refused(call: Callable[[], object], given: str, words: Iterable[str]) -> None:
    """``call`` raises ValueError, and its message names all ``words``.

    Raises:
        ContractError: naming what was ``given``.
    """
    try:
        call()
    except ValueError as refusal:
        missing = [word for word in words if word not in str(refusal)]
        if missing:
            wanted = " and ".join(missing)
            raise ContractError(f"given {given}, the error should also name {wanted}: {refusal}") from refusal
    except Exception as fault:
        raise ContractError(f"given {given}, raise ValueError, not {type(fault).__name__}") from fault
    else:
        raise ContractError(f"given {given}, raise ValueError that names what was expected and what was got")
