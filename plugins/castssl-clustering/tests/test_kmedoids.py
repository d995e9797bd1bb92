from __future__ import annotations

import pytest
import torch
from torch import Tensor

from castssl.pooling.centroids import farthest
from castssl.testing import samples
from castssl_clustering.kmedoids import KMedoids
from castssl_clustering.token_pooling import TokenPooling

SIZE, DIM = 6, 5


def naive(
    x: Tensor, medoids: list[int], rounds: int, weight: Tensor, power: int
) -> tuple[list[int], list[int]]:
    """Labels and medoids of one image, by loops."""

    def distance(i: int, j: int) -> float:
        return float((x[i] - x[j]).double().square().sum().sqrt()) ** power

    def join() -> list[int]:
        return [min(range(len(medoids)), key=lambda k: distance(i, medoids[k])) for i in range(len(x))]

    for _ in range(rounds):
        label = join()
        for k in range(len(medoids)):
            members = [i for i in range(len(x)) if label[i] == k]
            cost = {i: sum(float(weight[j]) * distance(i, j) for j in members) for i in members}
            medoids[k] = min(cost, key=cost.__getitem__)
    return join(), medoids


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", ["mean", "medoid"])
def test_clusters_are_those_of_loops(seed: int, keep: str) -> None:
    tokens = samples.tokens(seed=seed, dim=DIM)
    out = KMedoids(DIM, iterations=3, keep=keep)(tokens, SIZE)  # type: ignore[arg-type]
    for image in range(2):
        rows = (tokens.mass[image] > 0).nonzero().squeeze(1)
        x = tokens.x[image, rows]
        start = farthest(x[None], torch.ones(1, len(x), dtype=torch.bool), SIZE)[0].tolist()
        label, medoids = naive(x, start, 3, torch.ones(len(x)), 1)
        assert out.assign[image, rows].argmax(-1).tolist() == label
        clusters = [[i for i in range(len(x)) if label[i] == k] for k in range(SIZE)]
        expected = x[medoids] if keep == "medoid" else torch.stack([x[c].mean(0) for c in clusters])
        torch.testing.assert_close(out.x[image], expected)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_medoids_are_those_of_loops(seed: int) -> None:
    tokens = samples.tokens({"received"}, seed=seed, dim=DIM)
    assert tokens.received is not None
    out = TokenPooling(DIM, centers="medoids", iterations=3)(tokens, SIZE)
    for image in range(2):
        rows = (tokens.mass[image] > 0).nonzero().squeeze(1)
        x, weight = tokens.x[image, rows], tokens.received[image, rows]
        label, medoids = naive(x, weight.topk(SIZE).indices.tolist(), 3, weight, 2)
        assert out.assign[image, rows].argmax(-1).tolist() == label
        torch.testing.assert_close(out.x[image], x[medoids])


def test_only_medoids_get_gradient_when_they_are_kept() -> None:
    tokens = samples.tokens(dim=DIM)
    x = tokens.x.clone().requires_grad_()
    KMedoids(DIM, keep="medoid")(tokens._replace(x=x), SIZE).x.sum().backward()
    assert x.grad is not None
    assert x.grad.any(-1).sum(1).tolist() == [SIZE, SIZE]


def test_tokens_that_nobody_looked_at_have_a_mean() -> None:
    tokens = samples.tokens(dim=DIM)._replace(received=torch.zeros(2, samples.COUNT))
    out = TokenPooling(DIM)(tokens, SIZE)
    expected = tokens.x[0][out.assign[0, :, 0] > 0].mean(0)
    torch.testing.assert_close(out.x[0, 0], expected)
