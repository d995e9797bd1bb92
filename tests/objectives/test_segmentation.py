"""Masked means: one process, and two with unequal numbers of labelled pixels."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from castssl import ranks
from castssl.objectives.segmentation import Mean, masked_cross_entropy
from castssl.testing.processes import together

CLASSES = 5


def model() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, CLASSES, 1)


def batch(unlabelled: float, images: int = 4) -> tuple[Tensor, Tensor]:
    """The first two images have mostly unknown pixels, as far as asked; the others few."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(images, 3, 6, 7, generator=draw)
    target = torch.randint(CLASSES, (images, 6, 7), generator=draw)
    unknown = torch.rand(target.shape, generator=draw)
    limit = torch.tensor([unlabelled, unlabelled, 0.1, 0.1])[:, None, None]
    return pixels, target.masked_fill(unknown < limit, -1)


def test_it_is_torchs_mean_over_labelled_pixels() -> None:
    pixels, target = batch(0.7)
    logits = model()(pixels)
    for mean in ("global", "process"):
        loss = masked_cross_entropy(logits, target, mean)
        torch.testing.assert_close(loss, F.cross_entropy(logits, target, ignore_index=-1))


@pytest.mark.parametrize("mean", ["global", "process"])
def test_without_a_labelled_pixel_loss_and_gradients_are_zero(mean: Mean) -> None:
    pixels, target = batch(0.5)
    head = model()
    loss = masked_cross_entropy(head(pixels), torch.full_like(target, -1), mean)
    loss.backward()
    assert float(loss.detach()) == 0
    assert head.weight.grad is not None
    assert head.weight.grad.eq(0).all()


def test_the_loss_is_float32_under_autocast() -> None:
    pixels, target = batch(0.5)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model()(pixels)
        loss = masked_cross_entropy(logits, target)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    logits, target = torch.zeros(2, CLASSES, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"torch.int64, got torch.float32"):
        masked_cross_entropy(logits, target.float())
    with pytest.raises(ValueError, match=r"\(2, 5, 4, 4\) and a target of shape \(2, 8, 8\)"):
        masked_cross_entropy(logits, target.new_zeros(2, 8, 8))
    with pytest.raises(ValueError, match="'global' or 'process'"):
        masked_cross_entropy(logits, target, cast(Mean, "mean"))


def step(rank: int, unlabelled: float, mean: Mean, expected: tuple[Tensor, Tensor]) -> None:
    """This process trains on two of the four images."""
    pixels, target = (part[2 * rank : 2 * rank + 2] for part in batch(unlabelled))
    head = DistributedDataParallel(model())
    loss = masked_cross_entropy(head(pixels), target, mean)
    loss.backward()
    torch.testing.assert_close(ranks.mean(loss), expected[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(head.module.weight.grad, expected[1], atol=1e-6, rtol=1e-5)


def alone(unlabelled: float, mean: Mean) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one process: of all pixels, or the mean of those of two pairs of images."""
    head = model()
    halves = zip(*(part.split(4 if mean == "global" else 2) for part in batch(unlabelled)), strict=True)
    losses = torch.stack([masked_cross_entropy(head(pixels), target) for pixels, target in halves])
    losses.mean().backward()
    assert head.weight.grad is not None
    return losses.mean().detach(), head.weight.grad


@pytest.mark.distributed
@pytest.mark.parametrize("mean", ["global", "process"])
@pytest.mark.parametrize("unlabelled", [0.9, 1.1])
def test_two_processes_have_loss_and_gradients_of_one(unlabelled: float, mean: Mean) -> None:
    counts = [int((half != -1).sum()) for half in batch(unlabelled)[1].split(2)]
    assert counts[0] < 20 < counts[1]
    assert (counts[0] == 0) == (unlabelled > 1)
    together(step, unlabelled, mean, alone(unlabelled, mean))


@pytest.mark.distributed
def test_the_mean_of_each_process_is_another_loss() -> None:
    """Else the two-process test could not fail."""
    one, other = (alone(0.9, mean)[0] for mean in ("global", "process"))
    assert abs(float(one) - float(other)) > 1e-3


def nothing_labelled(rank: int) -> None:
    head = DistributedDataParallel(model())
    pixels, target = batch(0.5)
    loss = masked_cross_entropy(head(pixels), torch.full_like(target, -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert head.module.weight.grad.eq(0).all()


@pytest.mark.distributed
def test_two_processes_without_a_labelled_pixel_have_zero_gradients() -> None:
    together(nothing_labelled)
