"""Segment means against a pixel-by-pixel oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from castssl.encoder_config import Membership
from castssl.tokens.area import cell_shares
from castssl.tokens.segments import sample_labels, segment_mean


def random_case(seed: int, size: int, side: int, cells: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, cells, cells, generator=generator)
    return features, torch.randint(size, (2, side, side), generator=generator, dtype=torch.int32)


def oracle(features: Tensor, segments: Tensor, size: int, membership: Membership) -> tuple[Tensor, Tensor]:
    """One pixel at a time; ``nearest`` looks only at the first pixel of each cell."""
    batch, dim, rows, cols = features.shape
    height, width = segments.shape[1:]
    total, mass = torch.zeros(batch, size, dim), torch.zeros(batch, size)
    for b in range(batch):
        cells: dict[tuple[int, int], list[int]] = {}
        for r in range(height):
            for c in range(width):
                cells.setdefault((r * rows // height, c * cols // width), []).append(int(segments[b, r, c]))
        for (r, c), inside in cells.items():
            first = [int(segments[b, r * height // rows, c * width // cols])]
            labels = first if membership == "nearest" else inside
            for label in labels:
                mass[b, label] += 1 / len(labels)
                total[b, label] += features[b, :, r, c] / len(labels)
    return total / mass.clamp(min=1e-9)[..., None], mass


@pytest.mark.parametrize("membership", ["nearest", "area"])
@given(seed=st.integers(0, 999), size=st.integers(1, 9), side=st.integers(4, 13))
@settings(max_examples=25, deadline=None)
def test_means_and_mass_equal_the_oracle(membership: Membership, seed: int, size: int, side: int) -> None:
    features, segments = random_case(seed, size, side, 4)
    means, mass = segment_mean(features, segments, size, membership)
    expected_means, expected_mass = oracle(features, segments, size, membership)
    torch.testing.assert_close(means, expected_means, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mass, expected_mass, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("membership", ["nearest", "area"])
def test_mass_adds_up_to_the_cells(membership: Membership) -> None:
    features, segments = random_case(0, 5, 12, 4)
    _, mass = segment_mean(features, segments, 7, membership)
    torch.testing.assert_close(mass.sum(1), torch.full((2,), 16.0))


def test_a_small_superpixel_is_lost_by_samples_and_kept_by_area() -> None:
    segments = torch.zeros(1, 8, 8, dtype=torch.int32)
    segments[0, 3, 3] = 1
    features = torch.randn(1, 2, 4, 4)
    assert segment_mean(features, segments, 2, "nearest")[1].tolist() == [[16, 0]]
    means, mass = segment_mean(features, segments, 2, "area")
    assert mass[0, 1] == pytest.approx(0.25)
    torch.testing.assert_close(means[0, 1], features[0, :, 1, 1])


@pytest.mark.parametrize(
    ("height", "width", "rows", "cols"), [(224, 224, 28, 28), (17, 23, 5, 7), (9, 9, 9, 9)]
)
def test_labels_are_sampled_as_nearest_interpolation_does(
    height: int, width: int, rows: int, cols: int
) -> None:
    segments = torch.randint(50, (2, height, width))
    expected = F.interpolate(segments[:, None].double(), (rows, cols), mode="nearest")[:, 0].long()
    assert torch.equal(sample_labels(segments, rows, cols), expected)


def test_shares_of_a_cell_sum_to_one() -> None:
    _, segments = random_case(3, 6, 11, 4)
    torch.testing.assert_close(cell_shares(segments, 4, 4, 6).sum(-1), torch.ones(2, 16))


def test_half_precision_features_are_summed_in_float32() -> None:
    # 4096 ones in bfloat16 would stick at 256.
    features = torch.ones(1, 1, 64, 64, dtype=torch.bfloat16)
    features[..., 0] = 3
    means, _ = segment_mean(features, torch.zeros(1, 64, 64, dtype=torch.int32), 1)
    assert means.dtype == torch.bfloat16
    assert means.item() == pytest.approx(66 / 64, abs=0.005)
