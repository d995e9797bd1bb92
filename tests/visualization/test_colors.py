from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from castssl.visualization.colors import NOTHING, Bytes, Floats, arrange, contacts, numbered, paint, rgb

seeds = st.integers(0, 10_000)


def nested(seed: int, *, size: int = 12, counts: tuple[int, ...] = (24, 12, 5)) -> list[Tensor]:
    """Label maps fine to coarse, each within the next."""
    rng = torch.Generator().manual_seed(seed)
    maps = [torch.randint(counts[0], (size, size), generator=rng)]
    for count, below in zip(counts[1:], counts, strict=False):
        maps.append(torch.randint(count, (below,), generator=rng)[maps[-1]])
    return maps


def colors_by_region(labels: Tensor, image: Bytes) -> dict[int, tuple[int, ...]]:
    """The color of each region; fails if a region has two."""
    found = {}
    for label in torch.unique(labels).tolist():
        colors = {tuple(map(int, color)) for color in image[(labels == label).numpy()]}
        assert len(colors) == 1
        found[label] = colors.pop()
    return found


def hue_of(color: tuple[int, ...]) -> float:
    """OKLab hue in turns: the inverse of ``rgb``, from the same page."""
    linear = np.array([c / 255 for c in color])
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    cones = np.cbrt(to_cones @ linear)
    a = np.array([1.9779984951, -2.4285922050, 0.4505937099]) @ cones
    b = np.array([0.0259040371, 0.7827717662, -0.8086757660]) @ cones
    return float(np.arctan2(b, a) / (2 * np.pi)) % 1


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_colors_do_not_depend_on_the_numbering(seed: int) -> None:
    maps = nested(seed)
    shuffle = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    for one, other in zip(paint(maps), paint([shuffle[labels] for labels in maps]), strict=True):
        assert np.array_equal(one, other)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_every_region_has_a_color_and_siblings_have_different_ones(seed: int) -> None:
    maps = nested(seed)
    for labels, image in zip(maps, paint(maps), strict=True):
        colors = colors_by_region(labels, image)
        assert len(set(colors.values())) == len(colors)
    [wholes, parts] = [colors_by_region(maps[i], paint(maps)[i]) for i in (2, 1)]
    for part, whole in zip(torch.unique(maps[1]).tolist(), wholes_of(maps[1], maps[2]), strict=True):
        assert abs((hue_of(parts[part]) - hue_of(wholes[whole]) + 0.5) % 1 - 0.5) < 0.03


def wholes_of(parts: Tensor, wholes: Tensor) -> list[int]:
    return [int(wholes[parts == part][0]) for part in torch.unique(parts)]


def test_an_only_part_keeps_its_wholes_color() -> None:
    whole = torch.arange(4).view(2, 2)
    fine, coarse = paint([whole + 7, whole])
    assert np.array_equal(fine, coarse)


def test_wholes_have_even_hues() -> None:
    [image] = paint([torch.arange(8).view(2, 4)])
    hues = sorted(hue_of(tuple(map(int, color))) for color in image.reshape(-1, 3))
    gaps = np.diff([*hues, hues[0] + 1])
    assert gaps == pytest.approx([1 / 8] * 8, abs=0.01)


def test_pixels_of_no_region_are_grey_and_split_regions_join_their_larger_part() -> None:
    coarse = torch.tensor([[0, 0, 1, -1]])
    fine = torch.tensor([[5, 5, 5, 5]])
    [small, large] = paint([fine, coarse])
    assert tuple(large[0, 3]) == NOTHING
    assert np.array_equal(small[0, 0], large[0, 0])
    [empty] = paint([torch.full((2, 2), -1)])
    assert empty.reshape(-1, 3).tolist() == [list(NOTHING)] * 4
    lonely, _ = paint([fine, torch.full((1, 4), -1)])
    assert int(lonely.max()) - int(lonely.min()) <= 2


def test_more_stages_than_channels_still_tell_parts_apart() -> None:
    maps = nested(1, counts=(40, 24, 12, 6, 3, 2))
    for labels, image in zip(maps, paint(maps), strict=True):
        colors = colors_by_region(labels, image)
        assert len(set(colors.values())) == len(colors)


def test_only_maps_of_one_size_are_painted() -> None:
    with pytest.raises(ValueError, match="one size"):
        paint([torch.zeros(2, 2), torch.zeros(2, 3)])
    with pytest.raises(ValueError, match="one size"):
        paint([])


@settings(deadline=None)
@given(seeds)
def test_contacts_are_counted_pixel_by_pixel(seed: int) -> None:
    labels = torch.randint(-1, 4, (5, 6), generator=torch.Generator().manual_seed(seed))
    regions = numbered(labels)
    count = regions.max() + 1
    expected = np.zeros((count, count))
    for y, x in np.ndindex(5, 6):
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < 5 and u < 6 and min(regions[y, x], regions[v, u]) >= 0 and regions[y, x] != regions[v, u]:
                expected[regions[y, x], regions[v, u]] += 1
                expected[regions[v, u], regions[y, x]] += 1
    assert np.array_equal(contacts(regions), expected)


def test_numbers_follow_reading_order() -> None:
    assert numbered(torch.tensor([[9, -4], [2, 9]])).tolist() == [[0, -1], [1, 0]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 6), seeds)
def test_arranging_reaches_a_permutation_that_no_swap_improves(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    touching, alike = rng.random((2, count, count))
    touching, alike = touching + touching.T, alike + alike.T
    np.fill_diagonal(touching, 0)

    def cost(slots: list[int]) -> float:
        return float((touching * alike[np.ix_(slots, slots)]).sum())

    slots = arrange(touching, alike).tolist()
    assert sorted(slots) == list(range(count))
    assert cost(slots) <= cost(list(range(count))) + 1e-9
    for i, j in combinations(range(count), 2):
        swapped = slots.copy()
        swapped[i], swapped[j] = slots[j], slots[i]
        assert cost(slots) <= cost(swapped) + 1e-9


def test_arranging_a_chain_of_four_is_as_good_as_trying_everything() -> None:
    chain: Floats = np.eye(4, k=1) + np.eye(4, k=-1)
    steps = np.arange(4)
    alike: Floats = -np.abs(steps[:, None] - steps).astype(np.float64)

    def cost(slots: tuple[int, ...]) -> float:
        return float(sum(alike[slots[i], slots[i + 1]] for i in range(3)))

    assert cost(tuple(arrange(chain, alike))) == min(map(cost, permutations(range(4))))


def test_shades_are_those_of_the_screen() -> None:
    # White, black, and a gray: OKLab's lightness is the cube root of the light.
    plain = rgb(np.array([[1, 0, 0.2], [0, 1, 0.3], [0.5, 0, 0.9]]))
    assert plain.tolist() == [[255, 255, 255], [0, 0, 0], [99, 99, 99]]


@settings(deadline=None)
@given(st.floats(0.4, 0.9), st.floats(0, 1))
def test_saturation_never_changes_the_hue(lightness: float, hue: float) -> None:
    shades = np.array([[lightness, saturation, hue] for saturation in (0.5, 1.0)])
    pale, loud = (tuple(map(int, color)) for color in rgb(shades))
    assert pale != loud
    assert abs((hue_of(loud) - hue + 0.5) % 1 - 0.5) < 0.02
    assert abs((hue_of(pale) - hue + 0.5) % 1 - 0.5) < 0.03
