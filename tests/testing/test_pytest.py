from __future__ import annotations

import pytest

from castssl.errors import ConfigError
from castssl.testing import parametrize, superpixels
from castssl.testing.claims import Check, Subject

pytest_plugins = ["pytester"]
SUITE = """
from castssl.testing import parametrize

def check_good(subject): pass
def check_bad(subject): assert subject == "right"

@parametrize([check_good, check_bad], ["right", "wrong"], expected_failures={failures})
def test_contract(check, subject):
    check(subject)
"""


def check_good(subject: Subject) -> None:
    """Passes."""


def check_other(subject: Subject) -> None:
    """Passes too."""


@pytest.mark.parametrize(
    ("failures", "outcome"),
    [
        ("{}", {"passed": 3, "failed": 1}),
        ("{('wrong', 'check_bad'): 'is wrong'}", {"passed": 3, "xfailed": 1}),
        ("{'check_bad': 'is wrong'}", {"passed": 2, "xfailed": 1, "failed": 1}),
    ],
)
def test_deviations_are_strict(pytester: pytest.Pytester, failures: str, outcome: dict[str, int]) -> None:
    pytester.makepyfile(SUITE.replace("{failures}", failures))
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(**outcome)


def test_cases_are_named_by_check_and_subject(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE.replace("{failures}", "{}"))
    listed = pytester.runpytest_inprocess("--collect-only", "-q", "-p", "no:cacheprovider").outlines
    assert any(line.endswith("test_contract[check_bad-wrong]") for line in listed)


@pytest.mark.parametrize(
    ("subjects", "failures", "words"),
    [
        ([], {}, "at least one"),
        (["a"], {"check_gone": "reason"}, "check_gone"),
        (["a"], {("b", "check_good"): "reason"}, "'b'"),
        (["a"], {"check_good": " "}, "needs a reason"),
    ],
)
def test_what_would_test_nothing_is_refused(
    subjects: list[Subject], failures: dict[str | tuple[Subject, str], str], words: str
) -> None:
    checks: list[Check] = [check_good, check_other]
    with pytest.raises(ConfigError, match=words):
        parametrize(checks, subjects, failures)


def test_the_rooms_export_checks_with_distinct_names() -> None:
    names = [check.__name__ for check in superpixels.checks]
    assert len(set(names)) == len(names)
    assert all(check.__doc__ for check in superpixels.checks)
