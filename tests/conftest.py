"""A small generated data set that several rooms look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from castssl.data import demo


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 32-pixel pictures of eight classes, six of each to train on, with masks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASTSSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return demo.root(size=32, per_class=6)
