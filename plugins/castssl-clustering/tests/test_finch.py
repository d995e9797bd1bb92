from __future__ import annotations

import pytest
import torch
from finch import FINCH as oracle  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from castssl.types import Tokens
from castssl_clustering.finch import Finch, Likeness, alike, link

DIM = 7


def tokens(count: int, seed: int, padded: int = 0) -> Tokens:
    draw = torch.Generator().manual_seed(seed)
    mass = torch.ones(2, count)
    mass[1, torch.randperm(count, generator=draw)[:padded]] = 0
    return Tokens(torch.randn(2, count, DIM, generator=draw), torch.zeros(2, 1, DIM), mass)


def together(label: Tensor) -> Tensor:
    """Which pairs share a cluster: the partition, whatever its clusters are called."""
    return label[:, None] == label


def partitions(x: Tensor, likeness: Likeness) -> Tensor:
    """All partitions of one image, finest first, by the authors' package: (levels, N)."""
    found, *_ = oracle(x.double().numpy(), distance=likeness, ensure_early_exit=False, verbose=False)
    return torch.from_numpy(found).long().T


def counts(partition: Tensor) -> int:
    return len(set(partition.tolist()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("likeness", ["cosine", "euclidean"])
def test_partitions_are_those_of_the_authors(seed: int, likeness: Likeness) -> None:
    given = tokens(150, seed, padded=20)
    pooling = Finch(DIM, likeness=likeness, whole=True)
    for image in range(2):
        rows = given.mass[image] > 0
        levels = partitions(given.x[image, rows], likeness)
        assert len(levels) >= 2
        for level in levels:
            out = pooling(given, counts(level))
            label = out.assign[image, rows].argmax(-1)
            assert torch.equal(together(label), together(level))
            mean = torch.stack([given.x[image, rows][label == k].mean(0) for k in range(counts(level))])
            torch.testing.assert_close(out.x[image, : counts(level)], mean)


def naive(x: Tensor, size: int) -> list[int]:
    """The first partition; while it has more than ``size`` clusters, links one by one, the closest first."""
    label = partitions(x, "cosine")[0].tolist()
    while len(set(label)) > size:
        names = sorted(set(label))
        means = torch.stack([x[[i for i in range(len(x)) if label[i] == name]].mean(0) for name in names])
        cosine = torch.cosine_similarity(means[:, None], means, dim=-1).fill_diagonal_(-2)
        pairs = {(min(i, j), max(i, j)) for i, j in enumerate(cosine.argmax(1).tolist())}
        now = {name: name for name in names}
        for i, j in sorted(pairs, key=lambda pair: -float(cosine[pair])):
            if len(set(now.values())) > size:
                old, new = now[names[i]], now[names[j]]
                now = {name: new if place == old else place for name, place in now.items()}
        label = [now[name] for name in label]
    return label


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [3, 10, 20, 60])
def test_a_later_round_stops_at_the_size(seed: int, size: int) -> None:
    tokens_ = tokens(150, seed)
    out = Finch(DIM)(tokens_, size)
    for image in range(2):
        first = counts(partitions(tokens_.x[image], "cosine")[0])
        label = out.assign[image].argmax(-1)
        assert torch.equal(together(label), together(torch.tensor(naive(tokens_.x[image], size))))
        assert counts(label) == min(first, size)


def test_the_first_partition_is_its_own_count() -> None:
    """However many are allowed: the other columns are padding."""
    out = Finch(DIM)(tokens(150, 0), 140)
    first = counts(partitions(tokens(150, 0).x[0], "cosine")[0])
    assert first < 75
    assert int((out.assign[0].sum(0) > 0).sum()) == first
    assert not out.x[0, first:].any()


@given(st.integers(1, 12), st.integers(0, 10**6))
def test_fewer_links_leave_so_many_clusters(links: int, seed: int) -> None:
    """Each link that counts leaves one cluster fewer, also where many tokens are equally alike."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (1, 24, 3), generator=draw).float()
    present = torch.ones(1, 24, dtype=torch.bool)
    whole = int(link(alike(x, "euclidean"), present, torch.tensor([24])).max()) + 1
    some = int(link(alike(x, "euclidean"), present, torch.tensor([links])).max()) + 1
    assert some == max(24 - links, whole)
