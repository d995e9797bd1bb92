"""Rates of backbone, head and biases."""

from __future__ import annotations

import torch
from torch import nn

from castssl.testing.samples import SampleEncoder
from castssl.training.optim import build_optimizer, set_rate
from castssl.training.rate_multiples import RateMultiples


def _segmenter() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": SampleEncoder(), "head": nn.Linear(4, 3)})


def test_rates_are_multiples_by_group_and_biases_multiply_theirs() -> None:
    module = _segmenter()
    multiples = RateMultiples(backbone=1, head=10, biases=2)
    optimizer = build_optimizer(
        module, name="sgd-caffe", lr=0.25, weight_decay=0.5, decay="no-biases", multiples=multiples
    )
    settings = {
        part: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for part in group["params"]
    }
    for name, part in module.named_parameters():
        rate = (1 if name.startswith("encoder") else 10) * (2 if name.endswith("bias") else 1)
        assert settings[part] == (0.25 * rate, 0.0 if name.endswith("bias") else 0.5), name
    assert len(settings) == sum(1 for _ in module.parameters())
    assert len(optimizer.param_groups) == 4
    set_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125, 0.25, 1.25, 2.5}
