from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.testing import samples
from castssl.types import Batch
from castssl_baselines.fgn import FGN, answers

TREES = {
    1: LabelTree.flat(("ant", "bee", "cat", "dog")),
    2: LabelTree((2, 4), ((0, 0, 1, 1),)),
    3: LabelTree((2, 3, 5), ((0, 0, 1), (0, 0, 1, 2, 2))),
    5: LabelTree((1, 2, 2, 3, 4), ((0, 0), (0, 1), (0, 0, 1), (0, 1, 2, 2))),
}
RESNET50 = 23_508_032
"""Parameters of timm's resnet50 without its classifier."""


def made(levels: int = 2, **options: Any) -> FGN:
    torch.manual_seed(0)
    return FGN(samples.SampleEncoder(), TREES[levels], **{"width": 24, **options})


@pytest.mark.parametrize("levels", TREES)
def test_every_level_is_predicted_from_its_part_and_the_finer_ones(levels: int) -> None:
    objective = made(levels, width=23).eval()
    assert sum(objective.widths) == 23
    assert max(objective.widths) - min(objective.widths) < levels
    found = objective.predict(samples.view(3))
    assert {name: each.shape for name, each in found.items()} == {
        f"level{level}": (3, count) for level, count in enumerate(TREES[levels].sizes)
    }
    feature = objective.model.neck(objective.encoder(samples.view(3)).stages[-1].cls[:, 0])
    for level, head in enumerate(objective.model.level_heads):
        tail = feature[:, sum(objective.widths[:level]) :]
        torch.testing.assert_close(found[f"level{level}"], head(tail))


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_a_level_teaches_its_own_feature_only(levels: int) -> None:
    features = [torch.randn(2, 3, requires_grad=True) for _ in range(levels)]
    heads = [nn.Linear(3 * (levels - level), 4) for level in range(levels)]
    for level, logits in enumerate(answers(features, heads)):
        grads = torch.autograd.grad(logits.square().sum(), features, allow_unused=True)
        reached = [grad is not None and bool(grad.any()) for grad in grads]
        assert reached == [other == level for other in range(levels)]


def test_a_level_teaches_its_own_rows_of_the_neck_only() -> None:
    objective, batch = made(3).train(), samples.batch(1, TREES[3], 6)
    target = torch.full_like(batch.target, -1)
    target[:, 1] = batch.target[:, 1]
    objective(Batch(batch.views, target)).loss.backward()
    grad = objective.get_parameter("model.neck.1.weight").grad
    assert grad is not None
    touched = [bool(rows.any()) for rows in torch.split(grad, list(objective.widths))]
    assert touched == [False, True, False]


def test_the_loss_is_the_sum_over_levels_and_leaves_out_what_is_not_known() -> None:
    objective, batch = made().eval(), samples.batch(1, TREES[2], 6)
    target = batch.target.clone()
    target[2:, 1] = -1
    coarse, fine = objective.predict(batch.views[0]).values()
    expected: Tensor = F.cross_entropy(coarse, target[:, 0])
    expected = expected + F.cross_entropy(fine, target[:, 1], ignore_index=-1, reduction="sum") / 6
    torch.testing.assert_close(objective(batch._replace(target=target)).loss, expected)


def test_with_resnet50_it_is_as_large_as_the_poster_says() -> None:
    living17 = LabelTree((17, 34), (tuple(range(17)) * 2,))
    with torch.device("meta"):
        objective = FGN(samples.SampleEncoder(2048), living17)
    own = sum(p.numel() for name, p in objective.named_parameters() if not name.startswith("model.encoder"))
    assert round((own + RESNET50) / 1e6, 1) == 24.8


def test_a_level_without_a_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 2 for 3"):
        made(3, width=2)
