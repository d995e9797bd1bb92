"""Losses over known entries: equal to torch's and timm's, and to the paper's equations written out."""

from __future__ import annotations

import math

import pytest
import torch
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel
from torch import Tensor
from torch.nn import functional as F

from castssl import distributed
from castssl.testing.processes import together
from castssl_multilabel.losses import asymmetric, binary_cross_entropy, reduce

FOCUS = [(1.0, 4.0, 0.05), (0.0, 1.0, 0.05), (0.0, 0.0, 0.0), (2.0, 1.5, 0.2)]


def example(*, unknown: bool = True) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, generator=draw) * 4
    return logits, torch.randint(-1 if unknown else 0, 2, (6, 9), generator=draw).float()


@pytest.mark.parametrize("focus", FOCUS)
def test_asymmetric_loss_is_that_of_the_paper(focus: tuple[float, float, float]) -> None:
    gamma_pos, gamma_neg, clip = focus
    logits, target = example()
    total = 0.0
    for logit, label in zip(logits.flatten().double().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        shifted = max(p - clip, 0)
        if label == 1:
            total -= (1 - p) ** gamma_pos * math.log(p)
        elif label == 0:
            total -= shifted**gamma_neg * math.log(1 - shifted)
    found = asymmetric(logits, target, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)
    assert float(found) == pytest.approx(total, rel=1e-4)


def test_without_unknown_entries_the_losses_are_those_of_libraries() -> None:
    logits, target = example(unknown=False)
    theirs = F.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(binary_cross_entropy(logits, target) / target.numel(), theirs)
    timm = AsymmetricLossMultiLabel()
    rows = [timm(row[None], labels[None]) for row, labels in zip(logits, target, strict=True)]
    torch.testing.assert_close(asymmetric(logits, target), torch.stack(rows).sum())


@pytest.mark.parametrize("focus", [None, *FOCUS])
def test_unknown_entries_have_no_part_in_loss_and_gradient(focus: tuple[float, float, float] | None) -> None:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        if focus is None:
            return binary_cross_entropy(logits, target)
        return asymmetric(logits, target, gamma_pos=focus[0], gamma_neg=focus[1], clip=focus[2])

    logits, target = example()
    rows, columns = torch.where(target >= 0)
    known = logits[rows, columns][None].requires_grad_()
    every = logits.clone().requires_grad_()
    alone, among = loss(known, target[rows, columns][None]), loss(every, target)
    torch.testing.assert_close(among, alone)
    (expected,), (found,) = torch.autograd.grad(alone, known), torch.autograd.grad(among, every)
    torch.testing.assert_close(found[rows, columns], expected[0])
    assert not found[target < 0].any()


def test_a_sum_is_divided_by_images_and_a_mean_by_known_entries() -> None:
    logits, target = example()
    total = binary_cross_entropy(logits, target)
    assert torch.equal(reduce(total, target, "sum"), total / 6)
    assert torch.equal(reduce(total, target, "mean"), total / int((target >= 0).sum()))
    assert reduce(total * 0, torch.full_like(target, -1), "mean") == 0


def test_two_processes_have_the_mean_of_one() -> None:
    together(_half, None)


def _half(rank: int, _: object) -> None:
    logits, target = example()
    target[:2] = target[:2].clamp(min=0)  # The processes have different numbers of known entries.
    own = slice(0, 2) if rank == 0 else slice(2, 4)
    loss = reduce(binary_cross_entropy(logits[own], target[own]), target[own], "mean")
    whole = binary_cross_entropy(logits[:4], target[:4]) / (target[:4] >= 0).sum()
    torch.testing.assert_close(distributed.mean(loss), whole)
