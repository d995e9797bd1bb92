"""How features spread over their space: signs that self-supervised training collapses, without labels.

A collapsed encoder gives all images the same feature (complete collapse), or features that fill few
dimensions (dimensional collapse; Jing et al. 2022, https://arxiv.org/abs/2110.09348).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-7
"""RankMe's, added to each share of the singular values."""
DEAD = 0.01
"""A dimension with a smaller deviation, as a share of :func:`deviations`'s largest value, is dead."""


def effective_rank(rows: Tensor) -> float:
    """RankMe: exp of the entropy of the singular values, as shares of their sum.

    Garrido et al. 2023, https://arxiv.org/abs/2210.02885, equation 1: exp(-sum_k p_k log p_k) with
    p_k = s_k / sum(s) + 1e-7 for the singular values s of the features, which are not centered.

    Args:
        rows: float (n, D), a feature for each image.

    Returns:
        From 1 (all features are multiples of one) to min(n, D); 0 if all features are 0.
    """
    # Of the smaller Gram matrix, which needs no more memory than the features.
    rows = rows.double()
    gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    if not float(singular.sum()):
        return 0.0
    shares = singular / singular.sum() + EPSILON
    return float(torch.exp(-(shares * shares.log()).sum()))


def deviations(rows: Tensor) -> Tensor:
    """The standard deviation of each dimension of the normalized features, times sqrt(D): float64 (D,).

    Chen and He 2021 (SimSiam), https://arxiv.org/abs/2011.10566, section 4.1: about 1 in each dimension if
    features are uniform on the sphere, and 0 if they have collapsed to one.

    Args:
        rows: float (n, D), of any length.
    """
    normalized = F.normalize(rows.double(), dim=1)
    scaled: Tensor = normalized.std(0, correction=0) * rows.shape[1] ** 0.5
    return scaled


def dead_dimensions(rows: Tensor) -> float:
    """The share of the dimensions whose deviation is below :data:`DEAD`, in [0, 1].

    Args:
        rows: float (n, D), of any length.
    """
    return float((deviations(rows) < DEAD).double().mean())


def alignment(first: Tensor, second: Tensor) -> float:
    """The mean squared distance between the normalized features of two views of an image, 0 to 4.

    Wang and Isola 2020, https://arxiv.org/abs/2005.10242, equation 5, with alpha = 2.

    Args:
        first: float (n, D), of any length.
        second: float (n, D), row i of the same image as row i of ``first``.
    """
    apart = F.normalize(first.double(), dim=1) - F.normalize(second.double(), dim=1)
    return float(apart.square().sum(1).mean())


def uniformity(rows: Tensor) -> float:
    """The log of the mean of exp(-2 d^2) over all pairs of images, at most 0; nan with a single image.

    Wang and Isola 2020, equation 6, with t = 2; d is the distance of the normalized features.  It is 0 if all
    features are alike, and lowest if they are uniform on the sphere.

    Args:
        rows: float (n, D), of any length.
    """
    count, normalized = len(rows), F.normalize(rows.double(), dim=1)
    # Of length 1, or 0 for a feature of zeros, which is at distance 0 from another one.
    squares = normalized.square().sum(1)
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for part, own in zip(normalized.split(1024), squares.split(1024), strict=True):
        apart = own[:, None] + squares - 2 * part @ normalized.T
        total += torch.exp(-2 * apart.clamp_min(0)).sum()
    pairs = count * (count - 1)
    return float(((total - count) / pairs).log()) if pairs else float("nan")
