from __future__ import annotations

from pathlib import Path

import pytest
import torch

from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.views import TwoViews
from castssl.datasets.images import Images
from castssl.evaluation import matching
from castssl.evaluation.held_out import Subject
from castssl.evaluation.matching import Matching, match
from castssl.superpixels.grid import Grid
from tests.evaluation.toys import Colors, evaluation


def test_matching_counts_rows_that_find_their_own() -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert match(rows, 3 * rows) == 1
    swapped = rows[[1, 0, *range(2, 50)]]
    assert match(rows, swapped) == pytest.approx(0.96)
    assert match(rows, torch.ones(50, 8)) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="one shape"):
        match(rows, rows[:3])


def test_the_images_are_spread_and_their_views_those_of_a_loader(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "IMAGES", 3)
    views, toy = TwoViews(32), Colors()
    found = evaluation(image_folder, Matching(views=views))
    assert isinstance(found.held_out, Images)
    loader = load(found.held_out.take([0, 2, 5]), views=views, superpixels=Grid(8), batch_size=3, train=False)
    (raw,) = loader
    first, second = (toy.eval()(view).stages[-1].cls[:, 0].detach() for view in to_views(raw, Grid(8)).views)
    assert found(Subject(toy)) == {"match": match(first, second)}
    assert found.baselines()["chance"] == {"match": 1 / 3}
    assert not torch.equal(first, second)
