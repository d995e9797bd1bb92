from __future__ import annotations

from pathlib import Path

import pytest
import torch

from castssl import distributed
from castssl.objectives.gathering import gather_with_gradient
from castssl.testing.processes import together


def rows(rank: int) -> torch.Tensor:
    return torch.randn(3, 2, generator=torch.Generator().manual_seed(rank)).double()


def loss_of(own: torch.Tensor, every: torch.Tensor) -> torch.Tensor:
    """A loss of the own rows that depends on those of all ranks."""
    return (own.sum(0) * every.square().sum(0)).sum()


def work(rank: int, folder: str) -> None:
    own = rows(rank).requires_grad_()
    every = gather_with_gradient(own)
    torch.autograd.backward(loss_of(own, every))
    torch.save({"every": every.detach(), "gradient": own.grad}, f"{folder}/{rank}.pt")
    assert distributed.world() == 2


@pytest.mark.distributed
def test_the_gradient_is_that_of_the_losses_of_all_ranks(tmp_path: Path) -> None:
    together(work, str(tmp_path))
    both = [rows(rank).requires_grad_() for rank in range(2)]
    every = torch.cat(both)
    torch.autograd.backward(loss_of(both[0], every) + loss_of(both[1], every))
    for rank, own in enumerate(both):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(found["every"], every.detach())
        torch.testing.assert_close(found["gradient"], own.grad)


def test_one_process_has_its_own_rows() -> None:
    own = rows(0).requires_grad_()
    torch.autograd.backward(gather_with_gradient(own).square().sum())
    torch.testing.assert_close(own.grad, 2 * own.detach())
