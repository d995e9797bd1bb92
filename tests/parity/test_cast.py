"""The released classification model, by its golden values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from castssl.checkpoints.load import load_official
from castssl.checkpoints.official_model import Official
from castssl.pooling.graph import GraphPool
from castssl.types import View
from tests.parity import filler, published

DEPTHS = (3, 3, 3, 2)


@pytest.fixture(scope="module")
def small() -> Official:
    state = published.zeros(published.cast_shapes())
    state = {k: v if k == "pos_embed" else filler.fill(k, v) for k, v in state.items()}
    return load_official(published.spell(state, DEPTHS, "head")).double()


@pytest.fixture(scope="module")
def view() -> View:
    return View(filler.image(2, 224), torch.stack([filler.grid(224, 16), filler.grid(224, 20)]))


def summary(x: Tensor) -> list[float]:
    return [*x.flatten()[:5].tolist(), x.mean().item(), x.norm().item()]


def test_the_filler_is_the_published_hash() -> None:
    expected = [0.04703688, 0.85693821, 0.26264867, 0.456684]
    assert filler.uniform(4, 7).tolist() == pytest.approx(expected, abs=1e-7)


def test_cast_small_by_golden_values(small: Official, view: View) -> None:
    with torch.no_grad():
        hierarchy = small.encoder.segment(view, small.sizes(view))
        logits = small(*view)
    out = hierarchy.stages[3].cls[:, 0]
    # The published figures have six digits; the mean is a sum of cancelling terms.
    assert summary(out) == pytest.approx(
        [1.411687, -1.003686, 0.351014, -1.076738, -0.251381, 0.00390181, 27.913795], abs=2e-6
    )
    assert summary(out[1]) == pytest.approx(
        [1.24599, -0.595009, 0.262484, -0.822543, 0.290715, 0.00432063, 19.740515], abs=2e-6
    )
    assert summary(logits) == pytest.approx(
        [-0.007812, -0.282931, 0.963325, 0.843303, -1.431822, 0.01441945, 45.979093], abs=2e-6
    )
    assert (hierarchy.stages[0].mass == 0).sum(1).tolist() == [0, 75]
    counts = torch.bincount(hierarchy.parents(4)[0], minlength=8).tolist()
    assert counts == [16, 32, 23, 18, 17, 17, 50, 23]


def test_cast_small_alone_has_fewer_tokens(small: Official, view: View) -> None:
    alone = View(view.image[1:], view.segments[1:])
    assert small.sizes(alone)[0] == 131
    with torch.no_grad():
        out = small.encoder(alone, small.sizes(alone)).stages[-1].cls[:, 0]
    assert summary(out) == pytest.approx(
        [1.402263, -0.95104, 0.278002, -1.009099, -0.071661, 0.00349524, 19.740280], abs=2e-6
    )


LOGITS = {
    1: [-0.719352, 5.0, -1.353767, 1.70656, 2.240089, -0.04100481, 280.981023],
    2: [-1.279549, -1.805938, 1.082718, 0.097079, 5.0, 0.03414023, 100.737122],
    3: [5.0, -0.148333, -0.970915, -1.769379, -1.365375, 0.02339195, 53.659867],
    4: [-1.021706, 2.232747, -0.78413, 5.0, -1.988453, 0.00090154, 30.515916],
}
CENTROIDS = {
    1: [1.227139, -2.813297, -0.90821, 0.573109, 0.480175, 0.46996852, 521.879372],
    2: [5.685072, 0.932894, -0.441307, 0.979484, 2.708353, 0.57912468, 501.845557],
    3: [8.146557, -3.143802, -0.576289, -3.489238, 1.057827, 0.45156435, 436.335121],
    4: [6.163867, -4.500111, 1.52662, -4.582917, -2.198104, 0.38401236, 354.520879],
}
PICKS = {
    1: ([55, 0, 194, 168, 10, 184, 153, 5, 70, 141], [34, 8, 120, 1, 129, 84, 45, 106, 70, 110]),
    2: ([45, 3, 2, 4, 0, 18, 9, 6, 12, 5], [3, 2, 4, 1, 5, 37, 7, 0, 11, 14]),
    3: ([0, 1, 5, 2, 4, 10, 8, 9, 7, 15], [2, 1, 5, 9, 0, 6, 7, 4, 3, 12]),
    4: ([4, 10, 2, 0, 3, 8, 6, 1], [4, 3, 9, 8, 13, 2, 7, 6]),
}


def test_poolings_of_cast_small_by_golden_values(small: Official, view: View) -> None:
    with torch.no_grad():
        hierarchy, pooled = small.encoder.trace(view, small.sizes(view), stages=5)
    for level in (1, 2, 3, 4):
        pooling = small.encoder.poolings[level - 1]
        assert isinstance(pooling, GraphPool)
        size = small.encoder.sizes[level]
        with torch.no_grad():
            logits, picks = pooling.logits(hierarchy.stages[level - 1], size)
        assert tuple(row[:10] for row in picks.tolist()) == PICKS[level]
        assert summary(logits) == pytest.approx(LOGITS[level], abs=2e-6)
        assert summary(pooled[level - 1].x) == pytest.approx(CENTROIDS[level], abs=2e-6)


@pytest.mark.parametrize("how", ["bare", "global", "local"])
def test_all_spellings_of_the_block_keys_agree(how: str) -> None:
    state = published.zeros(published.cast_shapes(dim=48, classes=4), 48, 4)
    state = {k: v if k == "pos_embed" else filler.fill(k, v) for k, v in state.items()}
    sizes = (16, 9, 6, 4, 2)
    expected = load_official(published.spell(state, DEPTHS, "head"), sizes=sizes).state_dict()
    got = load_official(published.spell(state, DEPTHS, how), sizes=sizes).state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[k], got[k]) for k in expected)
