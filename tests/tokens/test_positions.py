"""Position tables: closed form and resizing."""

from __future__ import annotations

import math

import pytest
import torch

from castssl.tokens.positions import resize, sin_cos


def test_sin_cos_by_its_closed_form() -> None:
    table = sin_cos(16, 3, 5)
    assert table.shape == (1, 16, 3, 5)
    for j in range(4):
        omega = 10000 ** (-j / 4)
        expected = [math.sin(2 * omega), math.cos(2 * omega), math.sin(4 * omega), math.cos(4 * omega)]
        got = [table[0, quarter * 4 + j, 2, 4].item() for quarter in range(4)]
        assert got == pytest.approx(expected, abs=1e-6)


def test_rows_come_before_columns() -> None:
    table = sin_cos(8, 4, 4)
    assert torch.equal(table[0, :4, 1, 0], table[0, :4, 1, 3])
    assert not torch.equal(table[0, 4:, 1, 0], table[0, 4:, 1, 3])


def test_width_must_be_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 10"):
        sin_cos(10, 2, 2)


def test_resize_to_its_own_grid_is_the_same_object() -> None:
    table = sin_cos(8, 4, 4)
    assert resize(table, 4, 4) is table
    assert resize(table, 6, 3).shape == (1, 8, 6, 3)
