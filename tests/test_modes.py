from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from castssl.modes import evaluating


def modes(module: nn.Module) -> list[bool]:
    return [each.training for each in module.modules()]


def test_every_module_gets_its_own_mode_back() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    net[1].eval()
    before = modes(net)
    with evaluating(net):
        assert not any(modes(net))
    assert modes(net) == before == [True, True, False, True]


def test_parameters_that_are_sharded_over_processes_are_whole_inside(tmp_path: Path) -> None:
    net, x = nn.Linear(2, 2), torch.ones(1, 2)
    expected = net(x)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        net.weight, net.bias = (
            nn.Parameter(distribute_tensor(part.detach(), mesh, [Shard(0)])) for part in net.parameters()
        )
        with evaluating(net):
            assert torch.equal(net(x), expected)
        assert all(isinstance(part, DTensor) and part.requires_grad for part in net.parameters())
    finally:
        dist.destroy_process_group()


def test_modes_come_back_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with pytest.raises(RuntimeError, match="shapes"), evaluating(net):
        net(torch.zeros(1, 3))
    assert modes(net) == [True, True, True]
