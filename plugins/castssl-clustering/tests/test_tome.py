from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.testing import samples
from castssl.types import Tokens
from castssl_clustering.tome import ToMe, widths

DIM = 8
Cluster = tuple[list[int], Tensor, float]
"""Its tokens, their mean key, and their mass."""


def naive(keys: Tensor, mass: Tensor, size: int) -> list[list[int]]:
    """The clusters of one image in their order, one pair at a time."""
    found: list[Cluster] = [([i], keys[i], float(mass[i])) for i in range(len(keys)) if mass[i] > 0]
    while len(found) > size:
        seekers, others = found[1::2], list(found[::2])
        pairs = []
        for place, (_, key, _) in enumerate(seekers):
            cosine = [float(F.cosine_similarity(key, other, dim=0)) for _, other, _ in others]
            pairs.append((max(cosine), place, cosine.index(max(cosine))))
        pairs.sort(reverse=True)
        chosen = pairs[: min(len(seekers), len(found) - size)]
        for _, place, partner in chosen:
            (a, x, m), (b, y, n) = seekers[place], others[partner]
            others[partner] = (a + b, (m * x + n * y) / (m + n), m + n)
        gone = {place for _, place, _ in chosen}
        found = [seeker for place, seeker in enumerate(seekers) if place not in gone] + others
    return [sorted(members) for members, _, _ in found]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1, 3, 5, 11, 16, 20, 24])
def test_clusters_are_those_of_loops(seed: int, size: int) -> None:
    """One round and many, with padding and without."""
    tokens = samples.tokens({"keys"}, images=3, seed=seed, dim=DIM)
    assert tokens.keys is not None
    out = ToMe(DIM)(tokens, size)
    for image in range(3):
        clusters = naive(tokens.keys[image], tokens.mass[image], size)
        for place, members in enumerate(clusters):
            assert out.assign[image, :, place].nonzero().squeeze(1).tolist() == members
            weight = tokens.mass[image, members][:, None]
            torch.testing.assert_close(
                out.x[image, place], (weight * tokens.x[image, members]).sum(0) / weight.sum()
            )
        assert not out.assign[image, :, len(clusters) :].any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [(16, 5), (7, 7, 1)])
def test_the_bias_is_the_log_of_how_many_finest_tokens_merged(seed: int, sizes: tuple[int, ...]) -> None:
    """Over several poolings, also where superpixels differ in mass; padding has 0."""
    tokens = samples.tokens({"keys"}, images=3, seed=seed, dim=DIM)
    whole = torch.ones_like(tokens.mass).masked_fill(tokens.mass <= 0, 0).diag_embed()
    for size in sizes:
        out = ToMe(DIM)(tokens, size)
        whole = whole @ out.assign
        assert out.bias is not None
        torch.testing.assert_close(out.bias, whole.sum(1).clamp(min=1).log(), atol=1e-5, rtol=0)
        mass = (out.assign * tokens.mass[..., None]).sum(1)
        assert torch.equal(out.bias[mass <= 0], torch.zeros(int((mass <= 0).sum())))
        tokens = Tokens(out.x, out.cls, mass, keys=out.x, bias=out.bias)
    assert int(whole.sum()) == 24 + 18 + 18


def test_without_proportional_attention_there_is_no_bias() -> None:
    assert ToMe(DIM, proportional=False)(samples.tokens({"keys"}, dim=DIM), 5).bias is None


def test_where_padding_lies_changes_nothing() -> None:
    tokens = samples.tokens({"keys"}, dim=DIM)
    order = (tokens.mass[1] <= 0).int().argsort(stable=True)
    assert tokens.keys is not None
    x, mass, keys = (field[1:, order] for field in (tokens.x, tokens.mass, tokens.keys))
    ours = ToMe(DIM)(tokens, 5)
    theirs = ToMe(DIM)(Tokens(x, tokens.cls[1:], mass, keys), 5)
    torch.testing.assert_close(ours.x[1], theirs.x[0])
    assert torch.equal(ours.assign[1, order], theirs.assign[0])


def test_at_most_half_of_the_tokens_merge_in_a_round() -> None:
    assert list(widths(196, 64)) == [98, 64]
    assert list(widths(196, 180)) == [180]
    assert list(widths(7, 1)) == [4, 2, 1]
    assert not list(widths(8, 8))
