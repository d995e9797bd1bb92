from __future__ import annotations

import pytest
import torch

from castssl import distributed
from castssl.errors import ContractError
from castssl.testing.processes import WORLD, together


def gather_ranks(rank: int, expected: int) -> None:
    assert distributed.world() == expected
    assert distributed.gather(torch.tensor([float(rank)])).tolist() == [0.0, 1.0]


def fail_on_the_second(rank: int) -> None:
    if rank:
        raise RuntimeError("rank one is unwell")


@pytest.mark.distributed
def test_two_processes_talk() -> None:
    together(gather_ranks, WORLD)


@pytest.mark.distributed
def test_a_failure_in_one_process_is_told() -> None:
    with pytest.raises(ContractError, match="rank one is unwell"):
        together(fail_on_the_second)


def test_what_does_not_pickle_is_refused() -> None:
    with pytest.raises(ContractError, match="no lambda"):
        together(gather_ranks, lambda: None)
