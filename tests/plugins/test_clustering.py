"""The poolings of ``plugins/castssl-clustering`` in a model that two processes train."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from castssl import distributed, registry
from castssl.testing import samples
from castssl.testing.processes import together

NAMES = ("ctm", "finch", "kmeans", "kmedoids", "token-pooling", "tome")
SMALL = 32


class Pools(nn.Module):
    """A layer, a pooling, and a layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(SMALL, SMALL), nn.Linear(SMALL, 1)
        self.pooling = registry.build("pooling", name, SMALL)

    def forward(self, seed: int) -> Tensor:
        tokens = samples.tokens(self.pooling.needs, seed=seed, dim=SMALL)
        out = self.pooling(tokens._replace(x=self.before(tokens.x)), 7)
        loss: Tensor = (self.after(out.x) - out.assign.sum(1)[..., None]).square().mean()
        return loss


def three_steps(rank: int) -> None:
    for name in NAMES:
        torch.manual_seed(rank)
        model = Pools(name)
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            wrapped(10 * step + rank).backward()
            optimizer.step()
        for parameter in model.parameters():
            both = distributed.gather(parameter.detach()[None])
            assert torch.equal(both[0], both[1]), name


@pytest.mark.distributed
def test_two_ranks_stay_equal() -> None:
    """Without find_unused_parameters, on different tokens."""
    together(three_steps)
