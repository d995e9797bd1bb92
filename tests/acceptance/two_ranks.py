"""What each of two processes does: one gradient of every objective, where one process lacks labels."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from castssl import distributed
from castssl.contracts import Objective, Target
from castssl.labels import LabelTree
from castssl.models.blocks import Stage
from castssl.registry import build
from castssl.testing import samples
from castssl.types import Batch, Hierarchy, View

FLAT = LabelTree.flat(["a", "b", "c"])
TREE = LabelTree.from_paths([("a", "aa"), ("a", "ab"), ("b", "ba"), ("b", "bb")])
MANY = LabelTree(sizes=(3,), names=(("a", "b", "c"),), exclusive=False)
IMAGES = 4
LIGHTLY = "hidden=16,out=8"
SPECS = {
    "moco": "moco:hidden=16,out=8",
    "deit": "deit",
    "deit-bce": "deit:bce=true",
    "probe": "probe",
    "tree-kl": "tree-kl:tie=0.5",
    "tree-kl-labeled": "tree-kl:tie=0.5,level_mean=labeled",
    "taxon-ssl": "taxon-ssl:least=0.5,most=0.5",
    "flat": "flat",
    "transhp": "transhp",
    "fgn": "fgn:width=16",
    "hrn": "hrn",
    "clip": "clip",
    "simclr": f"simclr:{LIGHTLY}",
    "byol": f"byol:{LIGHTLY}",
    "barlow-twins": f"barlow-twins:{LIGHTLY}",
    "vicreg": f"vicreg:{LIGHTLY}",
    "dino": "dino:hidden=16,bottleneck=8,out=12",
    "segmentation": "segmentation:head=fused",
    "multilabel": "multilabel:text=learned:8",
    "multilabel-asl": "multilabel:head=plain,loss=asl",
}
"""Every objective of castssl and its plugins, small."""
Found = dict[str, dict[str, Any]]


class Reads(samples.SampleEncoder):
    """A sample encoder with what objectives ask beside: fixed vectors for class names, blocks for prompts."""

    scale = torch.tensor(10.0)

    def __init__(self) -> None:
        super().__init__()
        self.last = Stage(self.dim, 2, (0.0, 0.0))

    def forward(self, view: View) -> Hierarchy:
        """The last stage passes two blocks of attention."""
        found = super().forward(view)
        return found._replace(stages=(*found.stages[:-1], self.last(found.stages[-1])))

    def zero_shot(self, names: list[str], templates: list[str]) -> Tensor:
        """Unit vectors float32 (C, D)."""
        return F.normalize(torch.randn(len(names), self.dim, generator=torch.Generator().manual_seed(5)))


def tree_of(spec: str) -> LabelTree:
    """The classes that an objective learns."""
    return {"segmentation": FLAT, "multilabel": MANY}.get(spec.partition(":")[0], TREE)


def make(spec: str) -> Objective:
    """An objective in evaluation mode: without batch statistics and mixing, which differ by process."""
    torch.manual_seed(0)
    objective = cast(nn.Module, build("objectives", spec, Reads(), tree_of(spec)))
    return cast(Objective, objective.eval())


def share(objective: Objective, rank: int, *, hidden: int) -> Batch:
    """The images of a process; of the second one the labels of the levels, or the columns of many
    labels or rows of label maps, from ``hidden`` on are unknown.
    """
    tree = {"map": FLAT, "multihot": MANY}.get(objective.target, TREE)
    target: Target | None = "map" if objective.target == "map" else None
    batch = samples.batch(objective.views, tree, IMAGES, seed=rank, target=target)
    if rank == 1:
        batch.target[:, hidden:] = -1
    return batch


def both(objective: Objective, *, hidden: int) -> Batch:
    """The images of the two processes as one batch."""
    halves = [share(objective, rank, hidden=hidden) for rank in range(2)]
    views = [
        View(*(torch.cat(field) for field in zip(*pair, strict=True)))
        for pair in zip(*(half.views for half in halves), strict=True)
    ]
    return Batch(views, torch.cat([half.target for half in halves]))


def gradients(objective: Objective) -> dict[str, Tensor]:
    """By parameter."""
    module = cast(nn.Module, objective)
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def work(rank: int, path: str) -> None:
    """Write the gradients of each objective, with labels missing from level 1 and from level 0 on."""
    found: Found = {}
    for name, spec in SPECS.items():
        for hidden in (1, 0):
            objective = make(spec)
            wrapped = DistributedDataParallel(cast(nn.Module, objective))
            outcome = wrapped(share(objective, rank, hidden=hidden))
            torch.autograd.backward(outcome.loss)
            found[f"{name}-{hidden}"] = {
                "loss": distributed.mean(outcome.loss),
                "gradients": gradients(objective),
            }
    if distributed.is_main():
        torch.save(found, path)
