"""Toy encoders and objectives for the tests of evaluators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.datasets.open import open_images
from castssl.encoder_config import EncoderConfig
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.superpixels.grid import Grid
from castssl.testing import samples
from castssl.types import Hierarchy, Tokens, View


def evaluation(image_folder: str | Path, *evaluators: Evaluator, **options: Any) -> Evaluation:
    """On the small data set, by default in batches of five."""
    data = f"folder:{image_folder}"
    images, held_out = open_images(data), open_images(data, split="val")
    defaults = {"view": CenterView(32, interpolation="bicubic"), "batch_size": 5, "superpixels": Grid(8)}
    arguments: dict[str, Any] = defaults | options
    return Evaluation(images, held_out, evaluators=evaluators, **arguments)


class Colors(Encoder):
    """An encoder of mean colors that would answer differently in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 6
        self.sizes = (4, 4)
        self.config = EncoderConfig("toy")
        self.project = nn.Linear(3, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)

    def forward(self, view: View) -> Hierarchy:
        cls = self.drop(self.norm(self.project(view.image.mean((2, 3))))).unsqueeze(1)
        rows, size = len(cls), self.sizes[0]
        stage = Tokens(torch.zeros(rows, size, self.dim), torch.zeros_like(cls), torch.ones(rows, size))
        assign = torch.eye(size).expand(rows, -1, -1)
        return Hierarchy(view.segments, (stage, stage._replace(cls=cls)), (assign,))


class Heads(nn.Module):
    """Predicts the classes of each level by mean color; in training mode it drops colors."""

    encoder: Encoder = samples.SampleEncoder()

    def __init__(self, *sizes: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.heads = nn.ModuleList(nn.Linear(3, size, bias=False) for size in sizes)
        self.drop = nn.Dropout(0.5)

    def predict(self, view: View, branch: str = "base") -> Mapping[str, Tensor]:
        color = self.drop(view.image.mean((2, 3))) * (1 if branch == "base" else -1)
        return {f"level{level}": head(color) for level, head in enumerate(self.heads)}


def subject(objective: Heads, branch: str = "base") -> Subject:
    """An objective as recipes hand it to an evaluation."""
    return Subject(objective.encoder, lambda view: objective.predict(view, branch), objective)
