from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.taxon_ssl import TaxonSSL, path_contrast
from castssl.testing import samples
from castssl.types import Batch

TREE = LabelTree((2, 4), ((0, 0, 1, 1),))


def made(**options: object) -> TaxonSSL:
    torch.manual_seed(0)
    return TaxonSSL(samples.SampleEncoder(), TREE, **options)  # type: ignore[arg-type]


def batch(size: int = 6, seed: int = 0, text_dim: int = 0) -> Batch:
    return samples.batch(3, TREE, size, seed=seed, text_dim=text_dim)


def logits(size: int, seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(size, count, generator=rng) for count in TREE.sizes]


class Oracle:
    """The released rule, by lists and one image at a time."""

    def __init__(self, alignment: int, memory: int) -> None:
        self.means: list[list[Tensor]] = [[], []]
        self.scores: list[list[float]] = [[], []]
        self.alignment, self.memory = alignment, memory

    def __call__(self, given: list[Tensor], k: float) -> tuple[list[list[int]], list[list[bool]]]:
        classes: list[list[int]] = []
        counts: list[list[bool]] = []
        for level, each in enumerate(given):
            shares = each.softmax(1)
            self.means[level] = [*self.means[level], shares.mean(0)][-self.alignment :]
            average = sum(self.means[level]) / len(self.means[level])
            aligned = [row / average / (row / average).sum() for row in shares]
            found = [float(row.max()) for row in aligned]
            self.scores[level] = [*self.scores[level], *found][-self.memory :]
            ordered = sorted(self.scores[level], reverse=True)
            threshold = ordered[max(math.floor(k * len(ordered)), 1) - 1]
            classes.append([int(row.argmax()) for row in aligned])
            counts.append([score >= threshold - 1e-7 for score in found])
        return classes, counts


def test_pseudo_labels_follow_the_released_rule() -> None:
    """Over the ends of both memories: 3 means and 20 probabilities of 8 batches of 6 images."""
    objective, oracle = made(alignment=3, memory=20), Oracle(3, 20)
    for step in range(8):
        objective.after_step(step / 8)
        k = 0.05 + 0.75 * min(step / 8 / 0.25, 1)
        classes, counts = objective.pseudo_labels(logits(6, step))
        expected, confident = oracle(logits(6, step), k)
        assert classes.T.tolist() == expected
        assert counts.bool().T.tolist() == confident
    for level, kept in enumerate(objective.scores):
        torch.testing.assert_close(kept.sort().values, torch.tensor(sorted(oracle.scores[level])))


def test_more_images_confide_as_training_goes_on() -> None:
    counts = []
    for progress in (0.0, 0.125, 0.25, 1.0):
        objective = made()
        objective.after_step(progress)
        counts.append(int(objective.pseudo_labels(logits(100, 0))[1][:, 0].sum()))
    # floor(k n) for k = 0.05, 0.425, 0.8 and 0.8; float32 may round it down by one.
    assert counts == pytest.approx([5, 42, 80, 80], abs=1)


def test_evaluation_leaves_what_is_kept_as_it_is() -> None:
    objective = made().eval()
    before = {name: value.clone() for name, value in objective.named_buffers()}
    objective(batch())
    assert all(torch.equal(before[name], value) for name, value in objective.named_buffers())


def test_images_of_one_path_are_alike() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(5, 8, generator=rng).requires_grad_() for _ in range(2))
    classes = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 1], [0, 1]])
    total = 0.0
    for i in range(5):
        cosines = F.cosine_similarity(q[i][None], k) / 0.1
        alike = [j for j in range(5) if i == j or torch.equal(classes[i], classes[j])]
        total += float(-cosines.log_softmax(0)[alike].mean().detach()) / 5
    loss = path_contrast(q, k, classes, 0.1)
    assert float(loss.detach()) == pytest.approx(total, abs=1e-5)
    torch.autograd.backward(loss)
    for rows in (q, k):
        assert rows.grad is not None
        assert rows.grad.any(1).all()


def test_the_loss_is_the_sum_of_its_terms() -> None:
    given, objective = batch(), made(hidden=0, pseudo_weight=2.0, contrast_weight=3.0, most=1.0, rise=0.5)
    objective.after_step(1.0)
    outcome = objective(given)
    standard, simclr = (objective.predict(view) for view in given.views[:2])
    known, followed = 0.0, 0.0
    for level, (name, scores) in enumerate(standard.items()):
        known += float(F.cross_entropy(scores, given.target[:, level]).detach())
        shares = scores.softmax(1)
        pseudo = (shares / shares.mean(0)).argmax(1)  # With most=1 the threshold is the least of them.
        followed += float(F.cross_entropy(simclr[name], pseudo).detach())
    assert float(outcome.logs["confident"]) == 1
    assert float(outcome.logs["pseudo"]) == pytest.approx(followed, abs=1e-5)
    contrast = float(outcome.logs["contrast"])
    assert float(outcome.loss.detach()) == pytest.approx(known + 2 * followed + 3 * contrast, abs=1e-4)
    assert {"accuracy_level0", "accuracy_level1"} <= outcome.logs.keys()


@pytest.mark.parametrize("level_mean", ["labeled", "batch", "rank"])
def test_a_batch_without_labels_trains(level_mean: str) -> None:
    """Without a fine label, without any, and with one alone, as the released code does not."""
    given = batch(text_dim=8)
    for hidden in (1, 0):
        objective = made(level_mean=level_mean, text_dim=8)
        given.target[:, hidden:] = -1
        outcome = objective(given)
        torch.autograd.backward(outcome.loss)
        assert outcome.loss.isfinite()
        assert float(outcome.logs["text"]) > 0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())
    alone = batch()
    alone.target[1:] = -1
    found = made(level_mean="labeled")(alone).logs
    assert float(found["accuracy_level1"]) in (0, 1)


def test_hidden_labels_do_not_matter_to_the_bit() -> None:
    """An unknown label is -1 whatever it was; the images still take part."""
    one, other = batch(), batch(seed=0)
    other.target[:3, 1] = (other.target[:3, 1] + 1) % 4
    losses = []
    for given in (one, other):
        given.target[:3, 1] = -1
        losses.append(made()(given).loss.detach())
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mixup": 0.8}, "taxon-ssl mixes no images"),
        ({"temperature": 0.0}, "temperature is above 0"),
        ({"memory": 0}, "alignment and memory are 1 or above"),
        ({"least": 0.9}, "0 <= least <= most <= 1"),
        ({"hidden": -1}, "hidden are 0 or above"),
        ({"text_temperature": 0.0}, "text_temperature is above 0"),
        ({"level_mean": "all"}, "level_mean: got 'all'"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**option)
