"""The modules that sit on a published encoder: classifiers, and MoCo's projector and predictor."""

from __future__ import annotations

from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from castssl.transfer.layout import State


def classifier(weight: Tensor, bias: Tensor) -> nn.Module:
    """A linear layer with these tensors."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    return head


def head_of(taken: State) -> nn.Module:
    """A classifier, a three-layer projector, or the identity."""
    if not taken:
        return nn.Identity()
    if "weight" in taken:
        return classifier(taken["weight"], taken["bias"])
    (hidden, dim), out = taken["0.weight"].shape, taken["6.weight"].shape[0]
    rows = [(dim, hidden), (hidden, hidden), (hidden, out)]
    norms = [nn.BatchNorm1d(hidden), nn.BatchNorm1d(hidden), nn.BatchNorm1d(out, affine=False)]
    acts = [nn.ReLU(), nn.ReLU(), None]
    head: nn.Module = ProjectionHead([(*r, n, a) for r, n, a in zip(rows, norms, acts, strict=True)])
    head.load_state_dict({f"layers.{name}": value for name, value in taken.items()})
    return head
