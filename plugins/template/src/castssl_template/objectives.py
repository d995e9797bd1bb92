"""Guess the color of an image, as an objective that needs no label."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Model, Objective
from castssl.labels import LabelTree
from castssl.types import Batch, Outcome


class TemplateModel(Model):
    """What is trained: the encoder, and a layer that guesses three numbers."""

    head: nn.Linear


class TemplateObjective(Objective):
    """The class token of the last stage guesses the mean color of its image.

    Args:
        encoder: what is trained.
        labels: the data set's label tree, unused.
        weight: factor on the loss.
    """

    model: TemplateModel

    def __init__(self, encoder: Encoder, labels: LabelTree, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.model = TemplateModel(encoder, head=nn.Linear(encoder.dim, 3))

    def forward(self, batch: Batch) -> Outcome:
        """The squared error of the guess.

        Raises:
            ValueError: unless the batch has one view.
        """
        if len(batch.views) != self.views:
            raise ValueError(f"expected {self.views} view of each image, got {len(batch.views)}")
        view = batch.views[0]
        guess: Tensor = self.model.head(self.model.feature(view))
        error = F.mse_loss(guess.float(), view.image.mean((2, 3)))
        return Outcome(self.weight * error, {"error": error.detach()})
