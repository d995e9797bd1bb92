"""Means over the images with a label: a naive oracle, batches that lack labels, two unequal processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from castssl import distributed
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import cross_entropy
from castssl.objectives.level_means import LevelMean, level_means, soft_cross_entropies
from castssl.objectives.tree_kl import TreeKL, tree_kl
from castssl.testing import samples
from castssl.testing.processes import together
from castssl.types import Batch, View

TREE = LabelTree((2, 3, 4), ((0, 0, 1), (0, 1, 2, 2)))
IMAGES = 8
# Each image's mirror in the batch of both processes is its mirror in that of its own process.
ROWS = ((0, 1, 6, 7), (2, 3, 4, 5))
DEPTHS = {
    "unequal": (1, 3, 3, 3, 2, 3, 3, 1),
    "none on one": (1, 1, 3, 2, 3, 3, 2, 1),
    "one in all": (1, 1, 1, 3, 1, 1, 1, 1),
    "none at all": (1, 2, 1, 2, 2, 1, 1, 1),
}
"""How many levels of each image are known."""


def made(level_mean: LevelMean, **options: Any) -> TreeKL:
    torch.manual_seed(0)
    return TreeKL(samples.SampleEncoder(), TREE, order="all-last", level_mean=level_mean, **options)


def batch(depths: str, rows: tuple[int, ...] = tuple(range(IMAGES))) -> Batch:
    given = samples.batch(1, TREE, IMAGES)
    depth = torch.tensor(DEPTHS[depths])[:, None]
    target = given.target.masked_fill(torch.arange(3) >= depth, -1)
    chosen = list(rows)
    return Batch([View(*(field[chosen] for field in given.views[0]))], target[chosen])


def learned(objective: TreeKL, given: Batch) -> dict[str, Tensor]:
    """The loss and the gradients of a batch, mixed by fixed draws."""
    np.random.seed(3)  # noqa: NPY002
    loss = objective(given).loss
    torch.autograd.backward(loss)
    found = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


def test_it_is_the_mean_of_the_images_that_are_known() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=rng)
    target = torch.randn(6, 5, generator=rng).softmax(1) * torch.tensor([1.0, 0, 0.25, 1, 0, 0.75])[:, None]
    total = 0.0
    for scores, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        top = math.log(sum(map(math.exp, scores)))
        total -= sum(share * (score - top) for share, score in zip(wanted, scores, strict=True))
    losses, known = soft_cross_entropies(logits, target), target.sum(1)
    for level_mean, count in (("batch", 6), ("labeled", 3.0), ("rank", 3.0)):
        found = level_means([losses, 2 * losses], [known, known], level_mean)  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.tensor([total, 2 * total]) / count)
    torch.testing.assert_close(losses.mean(), cross_entropy(logits, target), atol=0, rtol=0)


@pytest.mark.parametrize("level_mean", ["labeled", "rank"])
def test_the_loss_of_images_that_are_known_to_different_depths(level_mean: LevelMean) -> None:
    """One each: fine, middle and coarse, by the published formula."""
    objective, given = made(level_mean).eval(), batch("unequal", (0, 4, 3))
    logits = list(objective.predict(given.views[0]).values())
    each = [F.cross_entropy(scores, given.target[:, i], ignore_index=-1) for i, scores in enumerate(logits)]
    hard = [
        F.one_hot(given.target[2:3, i], count).float() for i, count in enumerate((2, 3, 4))
    ]  # The third image alone has a whole path.
    both = tree_kl([scores[2:3] for scores in logits], hard)
    found = objective(given)
    torch.testing.assert_close(found.loss, torch.stack(each).sum() + 0.5 * both)
    torch.testing.assert_close(found.logs["kl"], both.detach())
    assert abs(float((found.loss - made("batch").eval()(given).loss).detach())) > 0.1


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("depths", ["one in all", "none at all"])
@pytest.mark.parametrize("level_mean", ["batch", "labeled", "rank"])
def test_a_batch_that_lacks_fine_labels_trains(level_mean: LevelMean, depths: str, mixed: bool) -> None:
    objective = made(level_mean).train(mixed)
    found = learned(objective, batch(depths))
    assert all(value.isfinite().all() for value in found.values())
    heads = [found[f"model.level_heads.{level}.weight"] for level in range(3)]
    assert heads[0].any()
    assert bool(heads[2].any()) == (depths == "one in all")


def test_a_label_s_share_of_a_mixture_is_its_weight() -> None:
    """Four mixtures, one of which has a fine label for 0.3 of it: its cross entropy with the full weight."""
    objective = made("labeled", weight=0.0)
    logits = [torch.randn(4, count, generator=torch.Generator().manual_seed(1)) for count in (2, 3, 4)]
    targets = [scores.softmax(1).flip(1) for scores in logits]
    targets[2] = targets[2] * torch.tensor([0, 0.3, 0, 0])[:, None]
    loss, _ = objective.criterion(logits, targets)
    fine = F.cross_entropy(logits[2][1:2], targets[2][1:2] / 0.3)
    coarse = [F.cross_entropy(*pair) for pair in zip(logits[:2], targets[:2], strict=True)]
    torch.testing.assert_close(loss, fine + torch.stack(coarse).sum())


def test_an_image_counts_for_the_divergence_if_it_and_its_mirror_have_whole_paths() -> None:
    objective, given, whole = made("labeled"), batch("unequal"), [1, 2, 5, 6]
    np.random.seed(3)  # noqa: NPY002
    view, targets = objective.mixing(given.views[0], given.target)
    logits = list(objective.predict(view).values())
    expected = tree_kl([each[whole] for each in logits], [each[whole] for each in targets])
    np.random.seed(3)  # noqa: NPY002
    torch.testing.assert_close(objective(given).logs["kl"], expected.detach())


@pytest.mark.parametrize("level_mean", ["labeled", "rank"])
def test_hidden_labels_are_not_seen_to_the_bit(level_mean: LevelMean) -> None:
    """Whatever negative numbers stand for the unknown labels; the classes themselves would be seen."""
    given = batch("unequal")
    expected = learned(made(level_mean), given)
    hidden = torch.randint(-99, 0, given.target.shape, generator=torch.Generator().manual_seed(2))
    found = learned(made(level_mean), given._replace(target=given.target.where(given.target >= 0, hidden)))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    shown = samples.batch(1, TREE, IMAGES).target
    assert not torch.equal(learned(made(level_mean), given._replace(target=shown))["loss"], expected["loss"])


def step(rank: int, depths: str, level_mean: LevelMean, expected: dict[str, Tensor]) -> None:
    """This process trains on its half of the images."""
    objective = made(level_mean)
    wrapped = DistributedDataParallel(objective)
    np.random.seed(3)  # noqa: NPY002
    loss = wrapped(batch(depths, ROWS[rank])).loss
    loss.backward()
    torch.testing.assert_close(distributed.mean(loss), expected["loss"], atol=1e-6, rtol=1e-5)
    for name, value in objective.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], atol=1e-6, rtol=1e-4)


def alone(depths: str, level_mean: LevelMean) -> dict[str, Tensor]:
    """Loss and gradients of one process: of all images, or the means of those of two halves."""
    parts = [tuple(range(IMAGES))] if level_mean == "labeled" else list(ROWS)
    found = [learned(made("labeled"), batch(depths, rows)) for rows in parts]
    return {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("depths", "level_mean"),
    [("unequal", "labeled"), ("none on one", "labeled"), ("none at all", "labeled"), ("unequal", "rank")],
)
def test_two_processes_of_unequal_counts_have_loss_and_gradients_of_one(
    depths: str, level_mean: LevelMean
) -> None:
    fine = [sum(DEPTHS[depths][row] == 3 for row in rows) for rows in ROWS]
    assert fine == {"unequal": [2, 3], "none on one": [0, 3], "none at all": [0, 0]}[depths]
    together(step, depths, level_mean, alone(depths, level_mean))


def test_the_mean_of_each_process_is_another_loss() -> None:
    """Else the two-process test could not fail."""
    one, other = (alone("unequal", level_mean)["loss"] for level_mean in ("labeled", "rank"))
    assert abs(float(one) - float(other)) > 1e-3


def test_another_mean_is_refused() -> None:
    with pytest.raises(ConfigError, match="level_mean: got 'process', expected one of batch, labeled, rank"):
        made("process")  # type: ignore[arg-type]
