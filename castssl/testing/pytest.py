"""The contract checks as pytest cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest

from castssl.errors import ConfigError
from castssl.testing.claims import Check, Subject

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
