"""Run by test_moco_ddp: one step on this rank's share of a fixed global batch; saves loss and gradients."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from torch import nn

from castssl import distributed
from castssl.leaving import leaving
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3
from castssl.types import Batch, View

COUNT = 8


def global_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    square = (torch.arange(32) // 8)[:, None] * 4 + torch.arange(32) // 8
    segments = square.int().expand(COUNT, -1, -1)
    views = [View(torch.randn(COUNT, 3, 32, 32, generator=generator), segments) for _ in range(2)]
    return Batch(views, torch.zeros(COUNT, 0, dtype=torch.long))


def fixed(objective: MoCoV3) -> MoCoV3:
    """No batch statistics and no chance: what is left must not depend on how the batch is shared out."""
    for module in objective.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    return objective


def main(path: str) -> None:
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    objective = fixed(MoCoV3(create("nano", image_size=32, sizes=(16, 8, 4)), hidden=32, out=16))
    model = accelerator.prepare(objective)
    share = COUNT // distributed.world()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    given = global_batch()
    views = [View(v.image[mine], v.segments[mine]) for v in given.views]
    loss = model(given._replace(views=views, target=given.target[mine])).loss
    accelerator.backward(loss)
    gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    mean = distributed.mean(loss)
    if distributed.is_main():
        torch.save({"loss": mean, "world": torch.tensor(distributed.world())} | gradients, path)


if __name__ == "__main__":
    with leaving():
        main(sys.argv[1])
