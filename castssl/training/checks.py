"""Contracts that cost nothing in the steady state: checked before the run and on its first batch."""

from __future__ import annotations

import torch

from castssl.contracts import Encoder, Objective, Superpixels
from castssl.errors import ConfigError, ContractError
from castssl.modes import evaluating
from castssl.types import Batch, Hierarchy, View


def fits(superpixels: Superpixels, encoder: Encoder, image_size: int) -> None:
    """Refuse superpixels that may be more than the encoder's token budget.

    An encoder that makes its own cells has ``uses_superpixels = False``.

    Raises:
        ConfigError: with both numbers.
    """
    most = superpixels.capacity(image_size, image_size)
    if most > encoder.sizes[0] and encoder.uses_superpixels:
        raise ConfigError(
            f"{superpixels!r} may give {most} segments for {image_size} x {image_size} pixels, but the model"
            f" has room for {encoder.sizes[0]}; ask for fewer superpixels, or give --sizes {most} ..."
        )


class FirstBatch:
    """Run the encoder on two images of the first batch and hold its hierarchy against the contracts.

    Called with every batch, it does nothing from the second on.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective: Objective | None = objective

    def __call__(self, batch: Batch) -> None:
        """Check the first batch.

        Raises:
            ContractError: naming the stage and the promise that is broken.
        """
        if self._objective is None:
            return
        encoder, self._objective = self._objective.encoder, None
        few = View(*(field[:2] for field in batch.views[0]))
        with evaluating(encoder), torch.no_grad():
            check_hierarchy(encoder(few))


def check_hierarchy(hierarchy: Hierarchy) -> None:
    """Finite tokens, labels below the budget, an ``assign`` for each token that is not padding.

    Raises:
        ContractError: naming the stage and the promise that is broken.
    """
    first = hierarchy.stages[0]
    if int(hierarchy.segments.max()) >= first.mass.shape[1] or int(hierarchy.segments.min()) < 0:
        raise ContractError(
            f"labels from {int(hierarchy.segments.min())} to {int(hierarchy.segments.max())}, expected 0 to"
            f" {first.mass.shape[1] - 1}; the superpixels' capacity() promises too little"
        )
    for stage, tokens in enumerate(hierarchy.stages):
        if not bool(torch.isfinite(tokens.x).all() and torch.isfinite(tokens.cls).all()):
            raise ContractError(f"stage {stage}: tokens are not finite; look at the pooling before it")
    for stage, assign in enumerate(hierarchy.assigns):
        whole, count = assign.dtype == torch.int64, hierarchy.stages[stage + 1].x.shape[1]
        rows = ((assign >= 0) & (assign < count)).float() if whole else assign.sum(-1)
        valid = (hierarchy.stages[stage].mass > 0).float()
        if not (whole or assign.dtype == torch.float32) or not torch.allclose(rows, valid, atol=1e-3):
            raise ContractError(
                f"the pooling after stage {stage}: expected a float32 assign whose valid rows sum to 1 and"
                " whose padded rows are 0, or int64 tokens of the next stage with -1 for padding, got"
                f" {assign.dtype}, sums {rows.min():.3f} to {rows.max():.3f};"
                " run `castssl check pooling NAME`"
            )
