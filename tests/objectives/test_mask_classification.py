"""Mask queries learn: costs and losses against pixels and all permutations, and a few steps of training."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.models.create import create
from castssl.models.mask_queries import Predictions
from castssl.models.segmentation_heads import areas
from castssl.objectives import mask_classification as masks
from castssl.objectives.mask_classification import MaskClassification
from castssl.testing import Check, Subject, parametrize
from castssl.testing.objectives import checks
from castssl.types import Batch, DenseTokens
from tests.objectives.test_segmentation import TREE, labeled

CLASSES, QUERIES, TOKENS = 3, 4, 6


def example() -> tuple[Predictions, Tensor]:
    """Two predictions of four queries for two images, the second without one class; with unknown pixels."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, TOKENS, (2, 9, 7), generator=draw, dtype=torch.int32)
    target = torch.randint(-1, CLASSES, (2, 9, 7), generator=draw)
    target[1][target[1] == 1] = -1
    tokens = DenseTokens(torch.zeros(2, TOKENS, 1), torch.ones(2, TOKENS), labels)
    classes, logits = (torch.randn(2, 2, QUERIES, n, generator=draw) for n in (CLASSES + 1, TOKENS))
    return Predictions(classes, logits.requires_grad_(), tokens), target


def by_pixel(logits: Tensor, labels: Tensor, target: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Binary cross entropy and dice of one mask (N,) and one class, over labeled pixels with a token."""
    known = (target >= 0) & (labels >= 0)
    mask, truth = logits[labels[known].long()], (target[known] == label).float()
    inside = mask.sigmoid()
    dice = 1 - (2 * (inside * truth).sum() + 1) / (inside.sum() + truth.sum() + 1)
    return F.binary_cross_entropy_with_logits(mask, truth), dice


def naive(found: Predictions, target: Tensor) -> Tensor:
    """The sum of all losses, with the cheapest of all assignments."""
    total = torch.zeros(())
    labels = found.tokens.labels
    known = target.masked_fill(labels < 0, -1)
    present = [[c for c in range(CLASSES) if (image == c).any()] for image in known]
    count = sum(map(len, present))
    for classes, logits in zip(found.classes, found.masks, strict=True):
        wrong, weight = [], []
        for image in range(2):
            likely = classes[image].softmax(-1)
            terms = {
                (q, c): by_pixel(logits[image, q], labels[image], target[image], c)
                for q in range(QUERIES)
                for c in present[image]
            }
            best = min(
                permutations(range(QUERIES), len(present[image])),
                key=lambda queries: sum(
                    float((5 * sum(terms[q, c]) - 2 * likely[q, c]).detach())
                    for q, c in zip(queries, present[image], strict=True)
                ),
            )
            paired = dict(zip(best, present[image], strict=True))
            total = total + 5 * sum(sum(terms[pair]) for pair in paired.items()) / count
            wrong += [-likely[q, paired.get(q, CLASSES)].log() for q in range(QUERIES)]
            weight += [1.0 if q in paired else 0.1 for q in range(QUERIES)]
        total = total + 2 * sum(w * x for w, x in zip(weight, wrong, strict=True)) / sum(weight)
    return total


def test_losses_are_those_of_pixels_and_of_the_cheapest_assignment() -> None:
    found, target = example()
    pixels = masks.class_pixels(found.tokens, target, CLASSES)
    loss, expected = masks.mask_losses(found, pixels).total, naive(found, target)
    torch.testing.assert_close(loss, expected)
    [ours], [theirs] = (torch.autograd.grad(value, [found.masks]) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_costs_are_those_of_pixels() -> None:
    found, target = example()
    entropy, dice = masks.pair_losses(found.masks, masks.class_pixels(found.tokens, target, CLASSES))
    for image in range(2):
        for query in range(QUERIES):
            for label in range(CLASSES):
                of = found.masks[1, image, query], found.tokens.labels[image], target[image], label
                expected = torch.stack(by_pixel(*of))
                ours = torch.stack([entropy[1, image, query, label], dice[1, image, query, label]])
                torch.testing.assert_close(ours, expected)


def test_pixels_of_classes_add_up() -> None:
    found, target = example()
    pixels = masks.class_pixels(found.tokens, target.clamp(min=0), CLASSES)
    torch.testing.assert_close(pixels.sum(-1), areas(found.tokens))
    large = F.interpolate(target[:, None].float(), scale_factor=2, mode="nearest")[:, 0].long()
    counts = masks.class_pixels(found.tokens, large, CLASSES)
    torch.testing.assert_close(counts, 4 * masks.class_pixels(found.tokens, target, CLASSES))


def test_more_classes_than_queries_leave_classes_without_a_query() -> None:
    costs = torch.tensor([[[[3.0, 1.0, 2.0], [1.0, 0.5, 9.0]]]])
    assert masks.match(costs, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[[1, 0]]]
    assert masks.match(costs, torch.tensor([[False, False, True]])).tolist() == [[[2, 3]]]
    assert masks.match(costs, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[[3, 3]]]
    masks.match(costs * torch.nan, torch.ones(1, 3, dtype=torch.bool))


def objective(name: str = "nano", **options: bool) -> MaskClassification:
    torch.manual_seed(0)
    return MaskClassification(create(name, image_size=32), TREE, **options)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_order_of_queries_does_not_matter(frozen: bool) -> None:
    learned, batch = objective(frozen=frozen, masked=False), labeled()
    learned.encoder.eval()  # Its poolings draw their centroids in training.
    before = learned(batch).loss
    order = torch.randperm(100)
    learned.queries.queries.data = learned.queries.queries.data[:, order]
    torch.testing.assert_close(learned(batch).loss, before, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_loss_falls_and_the_classes_are_learned(frozen: bool) -> None:
    learned, batch = objective(frozen=frozen), labeled()
    optimizer = torch.optim.AdamW([p for p in learned.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(20):
        outcome = learned(batch)
        losses.append(float(outcome.loss.detach()))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        learned.after_step((step + 1) / 20)
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        learned.eval()
        right = learned.predict(batch.views[0])["class"].argmax(1) == batch.target
    # The frozen encoder has new weights, so that its tokens are hard to part in so few steps.
    assert frozen or right[batch.target >= 0].float().mean() > 0.9


def test_a_batch_without_labels_moves_nothing() -> None:
    learned, batch = objective(), labeled()
    outcome = learned(batch._replace(target=torch.full_like(batch.target, -1)))
    outcome.loss.backward()
    assert outcome.loss == 0
    assert not any(p.grad.any() for p in learned.parameters() if p.grad is not None)


def test_an_image_without_labels_does_not_count() -> None:
    learned, batch = objective(masked=False), labeled()
    learned.encoder.eval()
    target = batch.target.clone()
    target[1] = -1
    first = Batch([type(batch.views[0])(*(part[:1] for part in batch.views[0]))], target[:1])
    torch.testing.assert_close(learned(batch._replace(target=target)).loss, learned(first).loss)


@pytest.mark.parametrize("frozen", [False, True])
def test_half_precision_is_finite(frozen: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert objective(frozen=frozen)(labeled()).loss.isfinite()


@parametrize(checks, [MaskClassification])
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)
