"""One small subject of each kind that keeps every promise; the mutants differ from it in one thing."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Need, Target
from castssl.pooling.arithmetic import check_size, gather, weighted_mean
from castssl.superpixels.lift import per_image
from castssl.types import Batch, LabelTree, Outcome, Pooled, Tokens, View


class Bands:
    """Superpixels: pixels of like brightness."""

    runs_on: Literal["worker", "device"] = "worker"

    def __init__(self, count: int = 32) -> None:
        self.count = count

    def capacity(self, height: int, width: int) -> int:
        return self.count

    def __call__(self, images: Tensor) -> Tensor:
        return per_image(self.partition)(images)

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        brightness: NDArray[np.int64] = image.sum(-1, dtype=np.int64)
        return brightness * self.count // 766


class Heaviest(nn.Module):
    """Pooling: soft assignment to the heaviest tokens in a learned space."""

    needs: frozenset[Need] = frozenset()

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.space = nn.Linear(dim, dim)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        check_size(tokens, size)
        assign = self.assign(tokens, size)
        return Pooled(weighted_mean(tokens.x, assign), tokens.cls, assign)

    def assign(self, tokens: Tokens, size: int) -> Tensor:
        index = tokens.mass.topk(size).indices
        space = F.normalize(self.space(tokens.x).float(), dim=-1)
        logits = (5 * space @ gather(space, index).transpose(1, 2)).float()
        absent = tokens.mass.gather(1, index) <= 0
        assign = logits.masked_fill(absent[:, None], -torch.inf).softmax(-1)
        return assign * (tokens.mass > 0)[..., None]


class Classifier(nn.Module):
    """Objective: a head names the finest label, and stays near its slow twin."""

    views = 1
    target: Target = "path"
    progress: Tensor

    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = labels.levels
        self.head = nn.Linear(encoder.dim, labels.sizes[-1] if labels.levels else 1)
        self.twin = deepcopy(self.head).requires_grad_(False)
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, batch: Batch) -> Outcome:
        self.validate(batch)
        cls = self.read(batch.views[0])
        logits = self.head(cls).float()
        loss = F.cross_entropy(logits, batch.target[:, -1])
        near = F.mse_loss(logits, self.twin(cls).float())
        return Outcome(loss + 0.1 * (1 - self.progress) * near, {"near": near.detach()})

    def validate(self, batch: Batch) -> None:
        if len(batch.views) != self.views:
            raise ValueError(f"expected {self.views} view, got {len(batch.views)}")
        if batch.target.dtype != torch.int64:
            raise ValueError(f"expected int64 labels, got {batch.target.dtype}")
        if batch.target.shape[1] != self.width:
            raise ValueError(f"expected {self.width} label levels, got {batch.target.shape[1]}")

    def read(self, view: View) -> Tensor:
        return self.encoder(view).stages[-1].cls[:, 0]

    def after_step(self, progress: float) -> None:
        self.progress.fill_(progress)
        with torch.no_grad():
            for slow, fast in zip(self.twin.parameters(), self.head.parameters(), strict=True):
                slow.lerp_(fast, 0.1)

    def predict(self, view: View) -> Mapping[str, Tensor]:
        return {"finest": self.head(self.read(view))}
