"""A linear probe: a linear classifier on the features of a frozen encoder.

As MoCo v3 probes, https://arxiv.org/abs/2104.02057, appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Objective
from castssl.labels import LabelTree
from castssl.objectives.classification import OneHead, check_labeled, classes_of
from castssl.types import Batch, Outcome, View


class LinearProbe(Objective):
    """A linear classifier on the class token of a frozen encoder's last stage.

    An image without a label at the level adds nothing to the loss, which is a mean over the batch.  The
    encoder is in evaluation mode always, and nothing is kept for a gradient through it.

    Args:
        encoder: its parameters are frozen.
        labels: the data set's label tree.
        level: the label level to learn; -1 is the finest.

    Raises:
        ConfigError: if the data set is unlabeled, its labels do not exclude each other, or it has no such
            level.
    """

    target = "path"
    model: OneHead

    def __init__(self, encoder: Encoder, labels: LabelTree, *, level: int = -1) -> None:
        super().__init__()
        self.classes = classes_of(labels, level)
        self.levels, self.columns = labels.levels, [level % labels.levels]
        encoder.requires_grad_(False)
        encoder.eval()
        head = nn.Linear(encoder.dim, self.classes)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        self.model = OneHead(encoder, head=head)

    def forward(self, batch: Batch) -> Outcome:
        """Cross entropy, and the share of labeled images whose class comes first (not a number without any).

        Raises:
            ValueError: unless the batch has one view and an int64 target of as many levels as the labels.
        """
        classes = check_labeled(batch, self.levels)[:, self.columns[0]]
        logits = self.predict(batch.views[0])["class"].float()
        loss = F.cross_entropy(logits, classes, ignore_index=-1, reduction="sum") / len(classes)
        right = (logits.detach().argmax(1) == classes).sum() / (classes >= 0).sum()
        return Outcome(loss, {"loss": loss.detach(), "accuracy": right})

    def predict(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) of the classes of the level, as ``class``."""
        with torch.no_grad():
            feature = self.model.feature(view)
        return {"class": self.model.head(feature)}

    def train(self, mode: bool = True) -> LinearProbe:
        """As in torch, but the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self
