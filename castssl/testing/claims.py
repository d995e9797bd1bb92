"""What the contract checks of all kinds share: the subject, the claims about it, and pytest cases."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from castssl.errors import ConfigError, ContractError
from castssl.registry import build
from castssl.testing.faults import located

if TYPE_CHECKING:
    import pytest

Subject = str | Callable[..., Any]
"""A registry spec such as ``"graph:centroids=received"``, or a factory of that kind."""
Check = Callable[[Subject], None]
T = TypeVar("T")


class Result(NamedTuple):
    """The result of one check."""

    name: str
    error: Exception | None
    """None if the promise holds."""
    seconds: float
    promise: str = ""
    """What it checks, in a sentence."""


def run(checks: Iterable[Check], subject: Subject) -> Iterator[Result]:
    """Run one check after the other; a broken promise does not stop the next check."""
    for check in checks:
        start = time.perf_counter()
        try:
            check(subject)
            error = None
        except Exception as fault:
            error = fault
        promise = " ".join((check.__doc__ or "").partition("\n\n")[0].split())
        yield Result(check.__name__, error, time.perf_counter() - start, promise)


def make(kind: str, subject: Subject, *args: Any, seed: int = 0) -> Any:
    """Build a subject, with weights drawn from ``seed``."""
    seed_all(seed)
    return build(kind, subject, *args) if isinstance(subject, str) else subject(*args)


def seed_all(seed: int) -> None:
    """Seed every global generator that a plugin may draw from: Python's, numpy's and torch's."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def checks_of(module: Mapping[str, Any]) -> list[Check]:
    """The checks of a module, in the order of their definition: its functions ``check_xxx(subject)``.

    Args:
        module: the module's ``globals()``.
    """
    return [value for name, value in module.items() if name.startswith("check_")]


def claim(holds: bool, message: str) -> None:
    """Raise ContractError with ``message`` unless ``holds``."""
    if not holds:
        raise ContractError(message)


@contextmanager
def promised(message: str) -> Iterator[None]:
    """ContractError with ``message`` in place of any error inside; ``{}`` in it becomes the error."""
    try:
        yield
    except ContractError:
        raise
    except Exception as fault:
        raise ContractError(message.replace("{}", located(fault))) from fault


def claim_inherits(built: object, base: type) -> None:
    """``built`` is an instance of the base class of its kind."""
    name = type(built).__name__
    claim(isinstance(built, base), f"inherit from castssl.contracts.{base.__name__}, got {name}")


def claim_equal(value: Tensor, expected: Tensor, message: str, *, tolerance: float = 1e-5) -> None:
    """Two tensors agree in shape, and in value up to ``tolerance`` (absolute and relative).

    Raises:
        ContractError: with ``message`` and the largest difference.
    """
    if value.shape != expected.shape:
        raise ContractError(f"{message}; shapes {tuple(value.shape)} and {tuple(expected.shape)}")
    a, b = value.detach().double(), expected.detach().double()
    if not torch.allclose(a, b, rtol=tolerance, atol=tolerance):
        raise ContractError(f"{message}; the largest difference is {float((a - b).abs().max()):.3g}")


def claim_same(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], message: str, *, tolerance: float = 1e-5
) -> None:
    """Two sets of tensors agree as in :func:`claim_equal`; ``{}`` becomes the name of one that differs."""
    claim(a.keys() == b.keys(), message.replace("{}", "number of stages"))
    for name, value in a.items():
        claim_equal(value, b[name], message.replace("{}", name), tolerance=tolerance)


def claim_refused(
    call: Callable[[], object],
    case: str,
    words: Iterable[str],
    kind: type[Exception] = ValueError,
    remedy: str = "name what was expected and what was got",
) -> None:
    """``call`` raises an error of a kind, and its message has all ``words``; ``case`` names the input."""
    try:
        call()
    except kind as refusal:
        missing = " and ".join(word for word in words if word not in str(refusal))
        claim(not missing, f"given {case}, the error should also name {missing}: {refusal}")
    except Exception as fault:
        message = f"given {case}, raise {kind.__name__}, not {located(fault)}; {remedy}"
        raise ContractError(message) from fault
    else:
        raise ContractError(f"given {case}, raise {kind.__name__}: {remedy}")


def claim_trained(module: nn.Module, of: str = "") -> None:
    """After a backward pass, a finite gradient reaches each parameter that is trained, and no frozen one.

    Args:
        module: has the parameters.
        of: what the gradient is of, such as "of dense tokens ", for the message.
    """
    named = list(module.named_parameters())
    idle = [name for name, p in named if p.requires_grad and p.grad is None]
    claim(
        not idle, f"no gradient {of}reaches {', '.join(idle[:5])}: DDP would wait for it; use or freeze them"
    )
    frozen = [name for name, p in named if not p.requires_grad and p.grad is not None]
    claim(not frozen, f"frozen parameters got a gradient: {', '.join(frozen)}")
    broken = [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()]
    claim(not broken, f"the gradient of {', '.join(broken[:5])} is not finite")


def claim_untouched(kind: str, before: Any, after: Any) -> None:
    """No field of a named tuple of tensors was written to."""
    for name, old, new in zip(before._fields, before, after, strict=True):
        same = old is None or torch.equal(old, new)
        claim(same, f"{kind}.{name} was changed in place: work on a copy")


def deep_copy(module: T) -> T:
    """A deep copy of a module after a training step, which shares no tensor with it."""
    with promised("deepcopy fails after a step: {}; store no result on self"):
        copied = copy.deepcopy(module)
    theirs, tensors = copied.state_dict(), module.state_dict()  # type: ignore[attr-defined]
    shared = [n for n, t in tensors.items() if t.numel() and t.data_ptr() == theirs[n].data_ptr()]
    claim(not shared, f"a deep copy shares {', '.join(shared[:5])}: keep tensors as parameters or buffers")
    return copied


def pickled(value: T, remedy: str) -> T:
    """A pickled copy."""
    with promised(f"pickling fails: {{}}; {remedy}"):
        copied: T = pickle.loads(pickle.dumps(value))
        return copied


def in_worker(data: Dataset[T]) -> T:
    """The only item of a data set, read in a data-loader worker."""
    start = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    item: T = next(iter(DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=start)))
    return item


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

    chosen = list(subjects)
    deviations = dict(expected_failures or {})
    _validate(checks, chosen, deviations)
    cases = []
    for subject in chosen:
        for check in checks:
            reason = deviations.get((subject, check.__name__), deviations.get(check.__name__))
            xfail = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            cases.append(pytest.param(check, subject, id=f"{check.__name__}-{_label(subject)}", marks=xfail))
    return pytest.mark.parametrize(("check", "subject"), cases)


def _validate(checks: Sequence[Check], subjects: list[Subject], deviations: Deviations) -> None:
    if not subjects or not checks:
        raise ConfigError("parametrize needs at least one check and one subject, or it would test nothing")
    names = {check.__name__ for check in checks}
    for key, reason in deviations.items():
        subject, name = key if isinstance(key, tuple) else (subjects[0], key)
        if name not in names or subject not in subjects:
            raise ConfigError(f"expected_failures names {key!r}; checks: {', '.join(sorted(names))}")
        if not reason.strip():
            raise ConfigError(f"expected_failures[{key!r}] needs a reason")


def _label(subject: Subject) -> str:
    return subject if isinstance(subject, str) else getattr(subject, "__qualname__", repr(subject))
