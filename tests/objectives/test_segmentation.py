"""Masked means: one process, and two with unequal numbers of labeled pixels."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from castssl import distributed
from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.segmentation import Mean, Segmentation, masked_cross_entropy
from castssl.testing import Check, Subject, parametrize
from castssl.testing.objectives import checks
from castssl.testing.processes import together
from castssl.types import Batch, View

CLASSES = 5


def model() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, CLASSES, 1)


def batch(unlabeled: float, images: int = 4) -> tuple[Tensor, Tensor]:
    """The first two images have mostly unknown pixels, as far as asked; the others few."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(images, 3, 6, 7, generator=draw)
    target = torch.randint(CLASSES, (images, 6, 7), generator=draw)
    unknown = torch.rand(target.shape, generator=draw)
    limit = torch.tensor([unlabeled, unlabeled, 0.1, 0.1])[:, None, None]
    return pixels, target.masked_fill(unknown < limit, -1)


def test_it_is_torchs_mean_over_labeled_pixels() -> None:
    pixels, target = batch(0.7)
    logits = model()(pixels)
    for mean in ("global", "process"):
        loss = masked_cross_entropy(logits, target, mean)
        torch.testing.assert_close(loss, F.cross_entropy(logits, target, ignore_index=-1))


@pytest.mark.parametrize("mean", ["global", "process"])
def test_without_a_labeled_pixel_loss_and_gradients_are_zero(mean: Mean) -> None:
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


def test_nothing_waits_for_a_device() -> None:
    """Fake tensors have no values, so that any read of one fails."""
    with FakeTensorMode():
        loss = masked_cross_entropy(torch.zeros(2, CLASSES, 4, 4), torch.zeros(2, 4, 4).long())
    assert loss.shape == ()


def test_what_does_not_fit_is_refused() -> None:
    logits, target = torch.zeros(2, CLASSES, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"torch.int64, got torch.float32"):
        masked_cross_entropy(logits, target.float())
    with pytest.raises(ValueError, match=r"\(2, 5, 4, 4\) and a target of shape \(2, 8, 8\)"):
        masked_cross_entropy(logits, target.new_zeros(2, 8, 8))
    with pytest.raises(ValueError, match="'global' or 'process'"):
        masked_cross_entropy(logits, target, cast(Mean, "mean"))


def step(rank: int, unlabeled: float, mean: Mean, expected: tuple[Tensor, Tensor]) -> None:
    """This process trains on two of the four images."""
    pixels, target = (part[2 * rank : 2 * rank + 2] for part in batch(unlabeled))
    head = DistributedDataParallel(model())
    loss = masked_cross_entropy(head(pixels), target, mean)
    loss.backward()
    torch.testing.assert_close(distributed.mean(loss), expected[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(head.module.weight.grad, expected[1], atol=1e-6, rtol=1e-5)


def alone(unlabeled: float, mean: Mean) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one process: of all pixels, or the mean of those of two pairs of images."""
    head = model()
    halves = zip(*(part.split(4 if mean == "global" else 2) for part in batch(unlabeled)), strict=True)
    losses = torch.stack([masked_cross_entropy(head(pixels), target) for pixels, target in halves])
    losses.mean().backward()
    assert head.weight.grad is not None
    return losses.mean().detach(), head.weight.grad


@pytest.mark.distributed
@pytest.mark.parametrize("mean", ["global", "process"])
@pytest.mark.parametrize("unlabeled", [0.9, 1.1])
def test_two_processes_have_loss_and_gradients_of_one(unlabeled: float, mean: Mean) -> None:
    counts = [int((half != -1).sum()) for half in batch(unlabeled)[1].split(2)]
    assert counts[0] < 20 < counts[1]
    assert (counts[0] == 0) == (unlabeled > 1)
    together(step, unlabeled, mean, alone(unlabeled, mean))


@pytest.mark.distributed
def test_the_mean_of_each_process_is_another_loss() -> None:
    """Else the two-process test could not fail."""
    one, other = (alone(0.9, mean)[0] for mean in ("global", "process"))
    assert abs(float(one) - float(other)) > 1e-3


def nothing_labeled(rank: int) -> None:
    head = DistributedDataParallel(model())
    pixels, target = batch(0.5)
    loss = masked_cross_entropy(head(pixels), torch.full_like(target, -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert head.module.weight.grad.eq(0).all()


@pytest.mark.distributed
def test_two_processes_without_a_labeled_pixel_have_zero_gradients() -> None:
    together(nothing_labeled)


TREE = LabelTree.flat(("sky", "sea", "land"))


def objective(name: str = "nano_seg", **options: Any) -> Segmentation:
    torch.manual_seed(0)
    encoder = create(name, image_size=32)
    return Segmentation(encoder, TREE, **options)


def labeled(side: int = 32, *, seed: int = 0) -> Batch:
    """Two images whose color is that of their class, in squares; a corner is not labeled."""
    draw = torch.Generator().manual_seed(seed)
    at = torch.arange(side) * 8 // side
    segments = (at[:, None] * 8 + at).int().repeat(2, 1, 1)
    target = torch.randint(0, 3, (2, 64), generator=draw).gather(1, segments.flatten(1).long())
    target = target.view(2, side, side)
    image = F.one_hot(target, 3).movedim(-1, 1).float()
    target[:, :4, :4] = -1
    return Batch([View(image, segments)], target)


@pytest.mark.parametrize("head", ["linear", "fused", "segmenter"])
@pytest.mark.parametrize("name", ["nano", "nano_seg", "nano_vit_seg", "timm:test_vit"])
def test_the_loss_is_cross_entropy_of_the_maps(name: str, head: str) -> None:
    """All encoders with all heads; gradients reach all that is trained."""
    learned, batch = objective(name, head=head), labeled()
    learned.eval()
    maps = learned.predict(batch.views[0])["class"]
    assert maps.shape == (2, 3, 32, 32)
    outcome = learned(batch)
    torch.testing.assert_close(outcome.loss, F.cross_entropy(maps, batch.target, ignore_index=-1))
    right = (maps.argmax(1) == batch.target)[batch.target >= 0].float().mean()
    torch.testing.assert_close(outcome.logs["accuracy"], right)
    learned.train()
    learned(batch).loss.backward()
    idle = [name for name, p in learned.model.head.named_parameters() if p.grad is None]
    assert not idle


def test_the_map_of_a_class_is_learned() -> None:
    learned, batch = objective(head="fused"), labeled()
    optimizer = torch.optim.AdamW(learned.parameters(), lr=3e-3)
    for _ in range(25):
        outcome = learned(batch)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
    assert learned(batch).logs["accuracy"] > 0.95


def test_a_frozen_encoder_stays_as_it_is() -> None:
    learned, batch = objective(frozen=True).train(), labeled()
    before = copy.deepcopy(learned.encoder.state_dict())
    learned(batch).loss.backward()
    assert not learned.encoder.training
    assert learned.model.head.training
    assert not any(p.requires_grad or p.grad is not None for p in learned.encoder.parameters())
    for name, value in learned.encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_batch_without_labels_moves_nothing() -> None:
    learned, batch = objective(), labeled()
    outcome = learned(batch._replace(target=torch.full_like(batch.target, -1)))
    outcome.loss.backward()
    assert outcome.loss == 0
    assert not any(p.grad.any() for p in learned.parameters() if p.grad is not None)


def test_maps_have_the_size_of_the_target() -> None:
    """As the published VOC code trains: superpixels of half the image's side, labels of the whole."""
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, fused=True, dense=True)
    learned, batch = Segmentation(encoder, TREE, head="fused"), labeled()
    view = batch.views[0]._replace(segments=labeled(16).views[0].segments)
    assert learned(batch._replace(views=[view])).loss.isfinite()
    assert learned.predict(view)["class"].shape == (2, 3, 32, 32)


def test_half_precision_is_finite() -> None:
    for head in ("linear", "fused", "segmenter"):
        with torch.autocast("cpu", torch.bfloat16):
            assert objective(head=head)(labeled()).loss.isfinite()


def fused(encoder: Encoder, labels: LabelTree) -> Segmentation:
    return Segmentation(encoder, labels, head="fused", frozen=True, mean="process")


def segmenter(encoder: Encoder, labels: LabelTree) -> Segmentation:
    return Segmentation(encoder, labels, head="segmenter")


@parametrize(checks, [Segmentation, fused, segmenter])
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)


class NoTokens(Encoder):
    dim, sizes = 8, (4,)


def test_what_cannot_be_segmented_is_refused() -> None:
    for tree in (LabelTree.none(), LabelTree((2, 3), ((0, 0, 1),)), LabelTree((3,), exclusive=False)):
        with pytest.raises(ConfigError, match="one level of classes"):
            Segmentation(create("nano"), tree)
    with pytest.raises(ConfigError, match="NoTokens has no tokens for segmentation"):
        Segmentation(NoTokens(), TREE)
    with pytest.raises(ConfigError, match="no head 'upernet'"):
        objective(head="upernet")
    batch = labeled()
    with pytest.raises(ValueError, match=r"int64 \(B, H, W\) of 2 images, got torch.int64 of shape \(2, 1\)"):
        objective()(batch._replace(target=torch.zeros(2, 1, dtype=torch.int64)))
    with pytest.raises(ValueError, match="1 view of each image, got 2"):
        objective()(batch._replace(views=[*batch.views] * 2))
