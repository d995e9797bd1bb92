from __future__ import annotations

import pytest
import torch

from castssl.errors import ConfigError, ContractError
from castssl.testing import parametrize, superpixels
from castssl.testing.claims import Check, Subject, claim_equal, claim_refused, make, run
from castssl.types import Tokens

pytest_plugins = ["pytester"]
SUITE = """
from castssl.testing import parametrize

def check_good(subject): pass
def check_bad(subject): assert subject == "right"

@parametrize([check_good, check_bad], ["right", "wrong"], expected_failures={failures})
def test_contract(check, subject):
    check(subject)
"""


def refuse(text: str) -> None:
    raise ValueError(text)


def check_passes(subject: object) -> None:
    """Passes."""


def check_fails(subject: object) -> None:
    """Fails."""
    raise KeyError(subject)


def test_run_goes_on_after_a_failure_and_leaves_the_threads() -> None:
    threads = torch.get_num_threads()
    results = list(run([check_fails, check_passes], "x"))
    assert [result.name for result in results] == ["check_fails", "check_passes"]
    assert isinstance(results[0].error, KeyError)
    assert results[1].error is None
    assert torch.get_num_threads() == threads


def test_make_draws_the_same_weights_for_a_seed() -> None:
    first, again, other = (make("pooling", "graph", 12, seed=seed).fc1[1].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert isinstance(make("pooling", lambda dim: Tokens, 12), type)


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (torch.zeros(3), "shapes"),
        (torch.tensor([0.0, 0.1]), "difference is 0.1"),
        (torch.tensor([0.0, torch.nan]), "difference is nan"),
    ],
)
def test_claim_equal_names_the_difference(got: torch.Tensor, words: str) -> None:
    claim_equal(torch.zeros(2), torch.zeros(2), "same")
    with pytest.raises(ContractError, match=words):
        claim_equal(got, torch.zeros(2), "same")


def test_claim_refused_wants_a_value_error_with_the_words() -> None:
    claim_refused(lambda: refuse("got 3, expected 4"), "3", ("3", "4"))
    with pytest.raises(ContractError, match="also name 4"):
        claim_refused(lambda: refuse("got 3"), "3", ("3", "4"))
    with pytest.raises(ContractError, match="not ZeroDivisionError"):
        claim_refused(lambda: 1 / 0, "3", ())
    with pytest.raises(ContractError, match="raise ValueError"):
        claim_refused(lambda: None, "3", ())


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
