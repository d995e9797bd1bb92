"""The other released models, by their golden values: first five values, mean and norm of each output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from castssl.checkpoints.load import load_official
from castssl.checkpoints.official import Stage
from castssl.checkpoints.official_model import Official
from castssl.types import View
from tests.parity import filler, published
from tests.parity.test_cast import DEPTHS, summary


def model(variant: str, *classes: int, stage: Stage | None = None, side: int = 28) -> Official:
    shapes = published.variant_shapes(variant) | published.heads(*classes)
    state = published.filled(shapes, side=side)
    how = "local" if variant == "cast_seg" else "head"
    return load_official(published.spell(state, DEPTHS, how), stage=stage).double()


def run(model: Official, view: View) -> Any:
    with torch.no_grad():
        return model(*view)


@pytest.fixture(scope="module")
def view() -> View:
    return View(filler.image(2, 224), torch.stack([filler.grid(224, 16), filler.grid(224, 20)]))


@pytest.fixture(scope="module")
def small() -> View:
    return View(filler.image(1, 128), filler.grid(128, 6)[None])


def test_cast_deit(view: View) -> None:
    expected = [0.090939, 0.907716, 0.744932, 1.968681, -2.01161, 0.01213417, 44.464622]
    assert summary(run(model("cast_deit", 1000), view)) == pytest.approx(expected, abs=2e-6)


HIER = {
    (100, 70, 30): [
        [1.418324, 1.229073, 4.635974, 3.832362, -4.548675, -0.06321530, 49.758008],
        [-4.596822, 0.469561, 1.249024, -8.794132, 3.904712, 0.20714406, 45.185676],
        [1.002381, -0.820372, 0.177826, 1.304425, 1.814506, 0.34594182, 7.783470],
    ],
    (34, 17): [
        [2.756379, 2.687878, 5.77906, 7.207358, -7.794876, 0.54880971, 33.092647],
        [-1.376611, 0.104031, 0.780923, -2.507964, 0.695843, -0.13984773, 7.311608],
    ],
}


@pytest.mark.parametrize("classes", HIER)
def test_hcast_returns_the_finest_level_first(classes: tuple[int, ...], view: View) -> None:
    logits = run(model("cast_deit_hier", *classes), view)
    assert [tuple(x.shape) for x in logits] == [(2, count) for count in classes]
    for got, expected in zip(logits, HIER[classes], strict=True):
        assert summary(got) == pytest.approx(expected, abs=2e-6)


def test_cast_seg_pretraining(view: View) -> None:
    loaded = model("cast_seg", 1000)
    expected = [-5.348719, 3.819855, -1.209857, -0.05224, -8.055819, 0.13178867, 148.046737]
    assert summary(run(loaded, view)) == pytest.approx(expected, abs=2e-6)
    with torch.no_grad():
        fused: Tensor = loaded.encoder(view, loaded.sizes(view)).stages[-1].cls[:, 0]
    expected = [2.974975, 6.520418, 2.273984, 0.207711, 4.99328, -0.21483873, 91.162381]
    assert summary(fused) == pytest.approx(expected, abs=2e-6)


def test_cast_seg_at_the_resolution_of_the_labels(small: View) -> None:
    loaded = model("cast_seg", 10, stage="segmentation", side=16)
    out = run(loaded, small)
    assert out.shape == (1, 484, 10)
    expected = [-4.890065, 2.381458, -0.078395, 0.956552, -6.536979, -0.45921036, 285.389487]
    assert summary(out) == pytest.approx(expected, abs=2e-6)
    with torch.no_grad():
        hierarchy = loaded.encoder.segment(small, loaded.sizes(small))
        pools: Any = loaded.encoder.poolings
        _, picks = pools[0].logits(hierarchy.stages[0], 320)
        logits, _ = pools[3].logits(hierarchy.stages[3], 40)
    assert picks[0, :10].tolist() == [483, 462, 21, 0, 153, 330, 15, 469, 132, 6]
    expected = [1.683851, 5.0, -1.006165, -1.729694, 1.530519, 0.03600651, 102.358170]
    assert summary(logits) == pytest.approx(expected, abs=2e-6)


def test_the_segmenters_encoder(small: View) -> None:
    """Its table is for 28 x 28 cells, and resized from there to the label map."""
    out = run(model("cast_seg_deit", 1000), small)
    assert out.shape == (1, 485, 384)
    expected = [-2.261115, 1.600407, -1.533056, -0.387572, 2.416803, -0.00115869, 1450.168441]
    assert summary(out) == pytest.approx(expected, abs=2e-6)
