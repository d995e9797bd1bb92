"""The modules that sit on a published encoder: classifiers, and MoCo's projector and predictor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from castssl.errors import DataError
from castssl.transfer.encoders import RECOGNISER
from castssl.transfer.layout import COARSER, State

LEVELS = ("head", *COARSER)
"""The published classifiers, fine to coarse."""


def classifier(weight: Tensor, bias: Tensor) -> nn.Module:
    """A linear layer with these tensors."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.to(weight.dtype).load_state_dict({"weight": weight, "bias": bias})
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
    head.to(taken["0.weight"].dtype)
    head.load_state_dict({f"layers.{name}": value for name, value in taken.items()})
    return head


def published_heads(beside: State, settings: Mapping[str, Any]) -> State:
    """The classifiers, or MoCo's projector, of a file of ours by their published names.

    H-CAST's coarsest level reads the last stage, the next the one before; castssl counts levels from the
    coarsest, the released code from the finest.

    Args:
        beside: the tensors beside the encoder.
        settings: those of the file.

    Raises:
        DataError: with each reason why the published layout has no place for them.
    """
    about = settings.get(RECOGNISER)
    if about is None or about["objective"] == "deit":
        return {name: value for name, value in beside.items() if name.startswith(tuple(map(_dot, LEVELS)))}
    if about["objective"] != "tree-kl":
        raise DataError(
            f"the published layout has no place for the classifiers of {about['objective']}; it knows one"
            " (deit), or one a level (tree-kl)"
        )
    options, levels = about["options"], len(about["labels"]["sizes"])
    usual = [-1 - level for level in range(levels)]
    stages, order = options.get("stages"), options.get("order", "coarse-last")
    wrong = [] if levels <= len(LEVELS) else [f"{levels} label levels, at most {len(LEVELS)} have a head"]
    if list(stages) != usual if stages else levels > 1 and order != "coarse-last":
        read = f"stages={list(stages)}" if stages else f"order={order}"
        wrong.append(
            f"{read}, expected that the coarsest level reads the last stage, the next the one before"
        )
    if levels > 1 and options.get("norm", "last") != "last":
        wrong.append(f"norm={options['norm']}, expected last: the last stage alone has a norm")
    if wrong:
        raise DataError(f"the released H-CAST has no place for these classifiers: {'; '.join(wrong)}")
    return {
        f"{LEVELS[levels - 1 - level]}.{part}": beside[f"level_heads.{level}.{part}"]
        for level in range(levels)
        for part in ("weight", "bias")
    }


def _dot(name: str) -> str:
    return f"{name}."
