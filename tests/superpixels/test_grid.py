from __future__ import annotations

import pickle
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castssl.contracts import Superpixels
from castssl.errors import ConfigError
from castssl.superpixels.grid import Grid


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_every_pixel_is_in_its_cell(height: int, width: int, cell: int) -> None:
    grid = Grid(cell)
    segments = grid(torch.zeros(2, 3, height, width, dtype=torch.uint8))
    columns = len(range(0, width, cell))
    naive = [[row // cell * columns + column // cell for column in range(width)] for row in range(height)]
    assert segments.dtype == torch.int32
    assert segments.tolist() == [naive, naive]
    assert grid.capacity(height, width) == len({label for row in naive for label in row})


def test_vit_patches() -> None:
    assert Grid().capacity(224, 224) == 196


@pytest.mark.parametrize("runs_on", ["worker", "device"])
def test_runs_on_either_side_and_pickles(runs_on: Literal["worker", "device"]) -> None:
    grid = pickle.loads(pickle.dumps(Grid(4, runs_on=runs_on)))
    assert isinstance(grid, Superpixels)
    assert grid.runs_on == runs_on
    assert grid(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).max() == 3


def test_compiles_whole() -> None:
    images = torch.zeros(2, 3, 20, 33, dtype=torch.uint8)
    compiled = torch.compile(Grid(8), fullgraph=True, backend="eager")
    assert torch.equal(compiled(images), Grid(8)(images))


def test_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel, got 0"):
        Grid(0)
    with pytest.raises(ConfigError, match="'gpu'"):
        Grid(runs_on="gpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8"):
        Grid()(torch.zeros(1, 3, 8, 8))
