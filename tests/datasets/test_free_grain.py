from __future__ import annotations

import math
import random
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.datasets.folder import Files
from castssl.datasets.free_grain import draw_depths, hide_fine, read_shares
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.labels import LabelTree

CUB = (0.5, 0.4, 0.1)


def naive(names: list[str], classes: list[int], shares: Sequence[float], seed: int) -> list[int]:
    """The published rule, a class at a time, with names in the order of their hash for the shuffle."""
    depths = dict.fromkeys(names, 1)
    for number in set(classes):
        members = [name for name, own in zip(names, classes, strict=True) if own == number]
        words = {name: blake2b(f"{seed}/{name}".encode(), digest_size=8).digest() for name in members}
        members.sort(key=lambda name: int.from_bytes(words[name], "little"))
        count = len(members)
        for depth in range(len(shares), 1, -1):
            part = int(count * shares[depth - 1] + 1e-9)
            depths |= dict.fromkeys(members[:part], depth)
            members = members[part:]
    return [depths[name] for name in names]


@pytest.mark.parametrize("shares", [CUB, (0.4, 0.3, 0.3), (0.2, 0.8), (1.0, 0.0, 0.0), (0.1, 0.2, 0.3, 0.4)])
@pytest.mark.parametrize("seed", [0, 2**40])
def test_it_is_the_published_rule_in_any_order(shares: tuple[float, ...], seed: int) -> None:
    draw = random.Random(0)
    classes = [draw.randrange(7) for _ in range(200)]
    names = [f"{own}/{number} é.png" for number, own in enumerate(classes)]
    found = draw_depths(names, np.array(classes), shares, seed).tolist()
    assert found == naive(names, classes, shares, seed)
    order = draw.sample(range(200), 200)
    shuffled = draw_depths([names[i] for i in order], np.array([classes[i] for i in order]), shares, seed)
    assert shuffled.tolist() == [found[i] for i in order]


def test_the_shares_of_cub_f() -> None:
    names = [f"train/001.Black_footed_Albatross/{number}.jpg" for number in range(30)]
    found = draw_depths(names, np.zeros(30, dtype=np.int64), CUB, 0).tolist()
    assert [found.count(depth) for depth in (1, 2, 3)] == [15, 12, 3]


def test_the_draw_stays_what_it_was() -> None:
    """Another hash would hide other labels, and stored runs could not go on."""
    found = draw_depths([f"{number}.png" for number in range(12)], np.zeros(12, dtype=np.int64), CUB, 0)
    assert found.tolist() == GOLDEN


GOLDEN = [2, 1, 3, 2, 2, 1, 1, 1, 1, 1, 2, 1]


@pytest.mark.parametrize(
    ("share", "levels", "expected"),
    [
        (0.8, 2, (0.8, 0.2)),
        (0.5, 3, (0.25, 0.25, 0.5)),
        (0, 2, (0.0, 1.0)),
        (1, 3, (0.5, 0.5, 0.0)),
        (CUB, 3, CUB),
    ],
)
def test_a_share_is_parted_among_the_coarser_levels(
    share: float | tuple[float, ...], levels: int, expected: tuple[float, ...]
) -> None:
    assert read_shares(share, levels) == pytest.approx(expected)


@pytest.mark.parametrize("share", [1.1, -0.1, float("nan"), (0.5, 0.5), (0.5, 0.6, -0.1), (0.5, 0.3, 0.1)])
def test_what_are_no_shares_is_refused(share: float | tuple[float, ...]) -> None:
    with pytest.raises(DataError, match=r"expected a share in \[0, 1\], or .* each of the 3 levels"):
        read_shares(share, 3)


def _labeled(count: int) -> Images:
    tree = LabelTree((2, 3, 4), ((0, 0, 1), (0, 1, 1, 2)))
    targets = tree.paths()[torch.arange(count) % 4]
    source = Files(Path("any"), [f"{i}.png" for i in range(count)])
    return Images(source, np.arange(count), targets, tree)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.floats(0, 1), st.integers(0, 2**40))
def test_hidden_labels(count: int, share: float, seed: int) -> None:
    images = _labeled(count)
    hidden = hide_fine(images, share, seed=seed)
    before, after = images.targets.tolist(), hidden.targets.tolist()
    first = [[*path, -1].index(-1) for path in after]
    assert all(1 <= level <= 3 for level in first), "level 0 stays known"
    for path in images.tree.paths().tolist():
        kept = [level for level, old in zip(first, before, strict=True) if old == path]
        assert kept.count(3) == math.floor(len(kept) * (1 - share) + 1e-9)
        assert kept.count(2) == math.floor(len(kept) * share / 2 + 1e-9)
    for level, old, new in zip(first, before, after, strict=True):
        assert new == old[:level] + [-1] * (3 - level)
    assert torch.equal(hide_fine(images, share, seed=seed).targets, hidden.targets)


def test_hidden_labels_depend_on_seed_and_names_and_not_on_the_order() -> None:
    images = _labeled(400)
    half, most = (hide_fine(images, share, seed=1).targets for share in (0.5, 0.9))
    assert (half[:, 2] == -1).sum() == 200
    assert (most[half[:, 2] == -1, 2] == -1).all(), (
        "a larger share hides the fine labels of the same and more"
    )
    full = hide_fine(images, 1, seed=1).targets
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    assert torch.equal(hide_fine(images.take(order.tolist()), 1, seed=1).targets, full[order])
    source = Files(Path("any"), [f"{i}.png" for i in order.tolist()])
    listed = Images(source, np.arange(400), images.targets[order], images.tree)
    assert torch.equal(hide_fine(listed, 1, seed=1).targets, full[order]), "another order of the listing"
    assert (full[:, 1] == -1).sum() == 200, "both levels are drawn alike"
    assert not torch.equal(full, hide_fine(images, 1, seed=2).targets)
    assert int(images.targets.min()) == 0, "the data set itself is untouched"


def test_labels_that_are_missing_stay_missing() -> None:
    images = _labeled(40)
    images.targets[::2, 1:] = -1
    hidden = hide_fine(images, (0.0, 0.5, 0.5)).targets
    assert torch.equal(hidden[::2], images.targets[::2])
    assert sorted(((hidden[1::2] >= 0).sum(1)).tolist()) == [2] * 10 + [3] * 10


def test_labels_that_cannot_be_hidden(flat: Path) -> None:
    with pytest.raises(DataError, match="of 1 levels, expected two"):
        hide_fine(cast(Images, open_images(f"folder:{flat}")), 0.5)
    with pytest.raises(DataError, match="got -1, expected a whole number from 0"):
        hide_fine(_labeled(4), 0.5, seed=-1)
