from __future__ import annotations

import pytest

from castssl.marks import scale


@pytest.mark.parametrize(
    ("name", "times"), [("top1", 100), ("fpa", 100), ("severity_levels", 1), ("knn_ms", 1)]
)
def test_shares_are_read_in_percent_and_units_as_they_are(name: str, times: float) -> None:
    assert scale(name) == times
