from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans as Oracle
from torch import Tensor

from castssl.pooling.centroids import farthest
from castssl.testing import samples
from castssl.types import Tokens
from castssl_clustering.kmeans import KMeans
from castssl_clustering.lloyd import means
from castssl_clustering.token_pooling import TokenPooling

SIZE, DIM = 6, 5


def oracle(x: Tensor, index: Tensor, rounds: int, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """scikit-learn's labels and means of one image, from the same start."""
    start = x[index].double().numpy()
    found = Oracle(len(index), init=start, n_init=1, max_iter=rounds, tol=0, algorithm="lloyd")
    found.fit(x.double().numpy(), sample_weight=None if weight is None else weight.numpy())
    return torch.from_numpy(found.labels_).long(), torch.from_numpy(found.cluster_centers_).float()


def valid_rows(tokens: Tokens, image: int) -> Tensor:
    return (tokens.mass[image] > 0).nonzero().squeeze(1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rounds", [1, 5, 50])
def test_clusters_are_scikit_learns(seed: int, rounds: int) -> None:
    tokens = samples.tokens(images=3, seed=seed, dim=DIM)
    out = KMeans(DIM, iterations=rounds)(tokens, SIZE)
    for image in range(3):
        rows = valid_rows(tokens, image)
        x = tokens.x[image, rows]
        index = farthest(x[None], torch.ones(1, len(x), dtype=torch.bool), SIZE)[0]
        label, _ = oracle(x, index, rounds)
        assert torch.equal(out.assign[image, rows].argmax(-1), label)
        torch.testing.assert_close(out.x[image], torch.stack([x[label == k].mean(0) for k in range(SIZE)]))


@pytest.mark.parametrize("seed", range(4))
def test_weighted_clusters_are_scikit_learns(seed: int) -> None:
    tokens = samples.tokens({"received"}, images=3, seed=seed, dim=DIM)
    assert tokens.received is not None
    out = TokenPooling(DIM, iterations=60)(tokens, SIZE)
    for image in range(3):
        rows = valid_rows(tokens, image)
        x, weight = tokens.x[image, rows], tokens.received[image, rows]
        label, centers = oracle(x, weight.topk(SIZE).indices, 60, weight)
        assert torch.equal(out.assign[image, rows].argmax(-1), label)
        torch.testing.assert_close(out.x[image], centers, atol=1e-5, rtol=1e-4)


def test_far_from_the_origin_the_clusters_are_the_same() -> None:
    tokens = samples.tokens(dim=DIM)
    away = tokens._replace(x=tokens.x + 3000)
    near, far = (KMeans(DIM)(given, SIZE).assign for given in (tokens, away))
    assert torch.equal(near, far)


def test_a_centre_that_nobody_joins_stays() -> None:
    where = torch.tensor([[[0.0], [0.1], [4.0], [10.0]]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    start = torch.tensor([[0, 0, 3]])
    assert means(where, valid, start, 0).tolist() == [[0, 0, 0, 2]]
    assert means(where, valid, start, 3).tolist() == [[1, 1, 0, 2]]


def test_a_random_start_is_drawn_anew() -> None:
    tokens = samples.tokens(dim=DIM)
    pooling = KMeans(DIM, start="random", iterations=0)
    torch.manual_seed(0)
    first, second = (pooling(tokens, SIZE).assign for _ in range(2))
    assert not torch.equal(first, second)
