"""What a contract check says when a promise is broken, and how a subject becomes something to check."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from castssl.errors import ConfigError, ContractError
from castssl.registry import build

if TYPE_CHECKING:
    import pytest

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


def claim_inherits(built: object, base: type) -> None:
    """``built`` is an instance of the base class of its kind.

    Raises:
        ContractError: naming both classes.
    """
    claim(
        isinstance(built, base),
        f"inherit from castssl.contracts.{base.__name__}, got {type(built).__name__}",
    )


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


Deviations = Mapping[str | tuple[Subject, str], str]
"""Check name, or (subject, check name), to the reason why it is expected to fail."""


def parametrize(
    checks: Sequence[Check], subjects: Iterable[Subject], expected_failures: Deviations | None = None
) -> pytest.MarkDecorator:
    """Decorate ``def test_contract(check, subject): check(subject)`` with one case per check and subject.

    Args:
        checks: the ``checks`` of a room's module, or some of them.
        subjects: registry specs such as ``"graph:centroids=received"``, or factories.
        expected_failures: deviations, each with its reason, by check name or (subject, check name).  They
            are strict: a check that passes in spite of them fails the test.

    Raises:
        ConfigError: if there is no subject, or a deviation names no such check or subject or has no reason.
    """
    import pytest

    wanted = list(subjects)
    deviations = dict(expected_failures or {})
    _validate(checks, wanted, deviations)
    cases = []
    for subject in wanted:
        for check in checks:
            reason = deviations.get((subject, check.__name__), deviations.get(check.__name__))
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            cases.append(pytest.param(check, subject, id=f"{check.__name__}-{_label(subject)}", marks=marks))
    return pytest.mark.parametrize(("check", "subject"), cases)


def _validate(checks: Sequence[Check], subjects: list[Subject], deviations: Deviations) -> None:
    if not subjects or not checks:
        raise ConfigError("parametrize needs at least one check and one subject, or it would test nothing")
    known = {check.__name__ for check in checks}
    for key, reason in deviations.items():
        subject, name = key if isinstance(key, tuple) else (subjects[0], key)
        if name not in known or subject not in subjects:
            raise ConfigError(f"expected_failures names {key!r}; checks: {', '.join(sorted(known))}")
        if not reason.strip():
            raise ConfigError(f"expected_failures[{key!r}] needs a reason")


def _label(subject: Subject) -> str:
    return subject if isinstance(subject, str) else getattr(subject, "__qualname__", repr(subject))
