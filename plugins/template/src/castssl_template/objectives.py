"""Guess the color of an image, as an objective that needs no label."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Target
from castssl.types import Batch, LabelTree, Outcome, View


class TemplateObjective(nn.Module):
    """The class token of the last stage guesses the mean color of its image.

    Args:
        encoder: what is trained.
        labels: the data set's label tree, unused.
        weight: factor on the loss.
    """

    views = 1
    target: Target = "none"

    def __init__(self, encoder: Encoder, labels: LabelTree, *, weight: float = 1.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.weight = weight
        self.head = nn.Linear(encoder.dim, 3)

    def forward(self, batch: Batch) -> Outcome:
        """The squared error of the guess.

        Raises:
            ValueError: unless the batch has one view.
        """
        if len(batch.views) != self.views:
            raise ValueError(f"expected {self.views} view of each image, got {len(batch.views)}")
        view = batch.views[0]
        guess: Tensor = self.head(self.encoder(view).stages[-1].cls[:, 0])
        error = F.mse_loss(guess.float(), view.image.mean((2, 3)))
        return Outcome(self.weight * error, {"error": error.detach()})

    def after_step(self, progress: float) -> None:
        """Nothing is updated between steps; update a momentum encoder here."""

    def predict(self, view: View) -> Mapping[str, Tensor]:
        """Nothing: there are no classes."""
        return {}
