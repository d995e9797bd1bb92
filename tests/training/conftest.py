from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.processes import finished


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    finished(out)
    return out
