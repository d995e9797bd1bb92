from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.pictures import LAYOUT, write


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two splits of two label levels; val lacks the class dog."""
    return write(tmp_path / "set", [*LAYOUT, "val/animal/cat/e.png", "val/plant/oak/f.png"])


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Twelve pictures of three classes, no splits."""
    return write(tmp_path / "flat", [f"{'abc'[i % 3]}/{i:02}.png" for i in range(12)])
