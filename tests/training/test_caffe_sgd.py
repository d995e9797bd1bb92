"""Caffe's momentum against a naive one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from castssl.training.optim import build_optimizer, set_rate
from castssl.training.poly import poly


def test_caffes_momentum_keeps_the_rates_of_earlier_steps() -> None:
    """Against the published recurrence in float64, while the rate falls; torch's SGD gives another result."""
    rates = [0.1 * poly(step / 8) for step in range(8)]
    moved = {}
    for name in ("sgd", "sgd-caffe"):
        weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        module = nn.Module()
        module.register_parameter("weight", weight)
        optimizer = build_optimizer(module, name=name, lr=0.1, weight_decay=0.01)
        for step, rate in enumerate(rates):
            weight.grad = torch.full_like(weight, step - 3.0)
            set_rate(optimizer, rate / 0.1)
            optimizer.step()
        moved[name] = weight.tolist()
    expected = []
    for start in (1.0, -2.0):
        w, v = start, 0.0
        for step, rate in enumerate(rates):
            v = 0.9 * v + rate * (step - 3.0 + 0.01 * w)
            w -= v
        expected.append(w)
    assert moved["sgd-caffe"] == pytest.approx(expected, rel=1e-12)
    assert moved["sgd"] != pytest.approx(expected, rel=1e-3)
