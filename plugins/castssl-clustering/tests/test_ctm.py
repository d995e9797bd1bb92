from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.testing import samples
from castssl_clustering.ctm import CTM

SIZE, DIM = 5, 6


def naive(x: Tensor, size: int, neighbors: int) -> list[int]:
    """The centers of one image by the paper's formulas, one token at a time."""
    count = len(x)
    far = [[float((a - b).double().square().mean()) for b in x] for a in x]
    density = []
    for i in range(count):
        near = sorted(far[i][j] for j in range(count) if j != i)[:neighbors]
        density.append(math.exp(-sum(near) / len(near)))
    score = []
    for i in range(count):
        denser = [far[i][j] for j in range(count) if (density[j], i) > (density[i], j)]
        score.append(density[i] * math.sqrt(min(denser) if denser else max(far[i])))
    return sorted(range(count), key=lambda i: -score[i])[:size]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("neighbors", [1, 5, 40])
def test_clusters_and_means_are_those_of_loops(seed: int, neighbors: int) -> None:
    tokens = samples.tokens(seed=seed, dim=DIM)
    pooling = CTM(DIM, neighbors=neighbors)
    out = pooling(tokens, SIZE)
    for image in range(2):
        rows = (tokens.mass[image] > 0).nonzero().squeeze(1)
        x = tokens.x[image, rows]
        centers = naive(x, SIZE, neighbors)
        label = [min(range(SIZE), key=lambda k: float((a - x[centers[k]]).square().sum())) for a in x]
        assert out.assign[image, rows].argmax(-1).tolist() == label
        score = F.layer_norm(x, (DIM,)) @ pooling.score.weight[0]
        for k in range(SIZE):
            inside = torch.tensor(label) == k
            weight = score[inside].exp()
            expected = (weight[:, None] * x[inside]).sum(0) / weight.sum()
            torch.testing.assert_close(out.x[image, k], expected)


def test_scores_of_any_size_leave_means_finite() -> None:
    tokens = samples.tokens(dim=DIM)
    pooling = CTM(DIM)
    with torch.no_grad():
        pooling.score.weight.mul_(1e4)
    out = pooling(tokens, SIZE)
    out.x.sum().backward()
    assert out.x.isfinite().all()
    assert pooling.score.weight.grad is not None
    assert pooling.score.weight.grad.isfinite().all()


def test_the_densities_of_distant_tokens_do_not_vanish() -> None:
    """exp(-m) would be 0 for all of them, and any token a peak."""
    corner = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    x = torch.cat([corner * 40, corner * 40 + 1000, corner * 40 - 1000])[None]
    tokens = samples.tokens(images=1, dim=2)
    given = tokens._replace(x=x, mass=torch.ones(1, 9), cls=tokens.cls[:1])
    assign = CTM(2, neighbors=2)(given, 3).assign
    assert assign[0].argmax(-1).view(3, 3).eq(assign[0].argmax(-1)[::3, None]).all()
    assert assign.sum(1).tolist() == [[3, 3, 3]]
