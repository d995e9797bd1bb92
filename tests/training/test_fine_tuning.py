"""Rates by depth, and clipped gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from castssl.models.create import create
from castssl.training import build_optimizer, set_rate
from castssl.training.fine_tuning import clip_gradients, decay_rates


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "nano_seg",
            {
                "stem.layers.0.weight": 2,
                "cls_token": 2,
                "stages.0.blocks.0.attn.qkv.weight": 2,
                "poolings.0.": 2,
                "stages.1.blocks.0.norm1.bias": 1,
                "poolings.1.": 1,
                "stages.2.blocks.0.mlp.fc1.weight": 0,
                "poolings.2.": 0,
                "fusion.linear.weight": 0,
            },
        ),
        ("nano", {"norm.weight": 0, "stages.0.blocks.0.attn.qkv.weight": 2}),
        (
            "timm:test_vit",
            {
                "network.patch_embed.proj.weight": 5,
                "network.blocks.4.norm1.bias": 1,
                "network.norm.weight": 0,
            },
        ),
        ("timm:test_convnext", {"network.stem.0.weight": 0}),
    ],
)
def test_the_rate_falls_towards_the_first_block(name: str, expected: dict[str, int]) -> None:
    model = nn.ModuleDict({"encoder": create(name, image_size=32), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(model, lr=0.1, decay="matrices", summands=False)
    decay_rates(optimizer, model["encoder"], 0.5)  # type: ignore[arg-type]
    set_rate(optimizer, 2.0)
    rates = {part: group["lr"] for group in optimizer.param_groups for part in group["params"]}
    assert len(rates) == sum(p.requires_grad for p in model.parameters())
    names = {name: rates[part] for name, part in model.named_parameters() if part in rates}
    for start, count in {**expected, "../head.weight": 0}.items():
        found = {
            rate
            for name, rate in names.items()
            if name.startswith(f"encoder.{start}".replace("encoder.../", ""))
        }
        assert found == {0.2 * 0.5**count}, start


def test_gradients_are_clipped_together() -> None:
    layer = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    optimizer.add_param_group({"params": [extra := nn.Parameter(torch.zeros(1))]})
    clip_gradients(optimizer, 0.5)
    trained = [*layer.parameters(), extra]
    for scale, norm in ((100.0, 0.5), (0.01, 0.01 * 5**0.5)):
        before = [part.detach().clone() for part in trained]
        (layer(torch.ones(1, 3)) + extra).mul(scale).backward()
        optimizer.step()
        optimizer.zero_grad()
        moved = [new - old for new, old in zip(trained, before, strict=True)]
        assert float(torch.cat([part.flatten() for part in moved]).norm().detach()) == pytest.approx(norm)
