from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pytest

from castssl.datasets.free_grain import draw_depths, read_shares
from castssl.errors import DataError

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
