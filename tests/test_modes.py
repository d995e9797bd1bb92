from __future__ import annotations

import pytest
import torch
from torch import nn

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


def test_modes_come_back_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with pytest.raises(RuntimeError, match="shapes"), evaluating(net):
        net(torch.zeros(1, 3))
    assert modes(net) == [True, True, True]
