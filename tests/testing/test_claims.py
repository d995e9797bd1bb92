from __future__ import annotations

import pytest
import torch

from castssl.errors import ContractError
from castssl.testing.claims import claim_equal, claim_refused, make, run
from castssl.types import Tokens


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
