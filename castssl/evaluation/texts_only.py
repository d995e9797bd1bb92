"""What the texts of images alone tell of their labels: a baseline of models that learn from texts, too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.datasets.images import Images
from castssl.evaluation.label_paths import PathMetrics

PENALTY = 1.0
"""Of the squared weights, for embeddings of length 1."""


def texts_only(train: Images, held_out: Images) -> dict[str, float]:
    """The metrics of label paths (:class:`PathMetrics`) of linear classifiers of text embeddings.

    A classifier of each level is fitted by ridge regression to the training images with a text whose label is
    known at that level, with a bias that has no penalty.  A held-out image without a text gets the bias.

    Args:
        train: images with texts and label levels.
        held_out: likewise, of the same tree, with texts of the same encoder.

    Raises:
        ValueError: if one of them has no texts.
    """
    x, target = text_embeddings(train), train.targets
    seen = x.any(1)
    every = text_embeddings(held_out)
    logits = []
    for level, classes in enumerate(train.tree.sizes):
        known = seen & (target[:, level] >= 0)
        weight, bias = ridge(x[known], target[known, level], classes)
        logits.append((every @ weight + bias).float())
    metrics = PathMetrics(held_out.tree)
    metrics.update(logits, held_out.targets)
    return metrics.compute()


def text_embeddings(images: Images) -> Tensor:
    """The embeddings of the images' texts at length 1: float64 (n, E); all 0 without a text.

    Raises:
        ValueError: if the images have no texts.
    """
    if images.texts is None:
        raise ValueError("expected images with texts, got some without; see castssl.datasets.image_texts")
    rows = images.texts.row[torch.as_tensor(images.rows)]
    return F.normalize(images.texts.vectors.double(), dim=1)[rows.clamp(min=0)] * (rows >= 0)[:, None]


def ridge(x: Tensor, label: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The weight float64 (E, C) and the bias float64 (C,) fitted to one-hot classes.

    Args:
        x: embeddings, float64 (n, E).
        label: int64 (n,); with n = 0 all classes get 0.
        classes: C.
    """
    if not len(x):
        return x.new_zeros(x.shape[1], classes), x.new_zeros(classes)
    y = F.one_hot(label, classes).double()
    mean, share = x.mean(0), y.mean(0)
    centered = x - mean
    gram = centered.T @ centered + PENALTY * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, centered.T @ (y - share))
    return weight, share - mean @ weight
