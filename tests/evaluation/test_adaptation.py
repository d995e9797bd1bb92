from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.errors import DataError
from castssl.evaluation.adaptation import (
    Adaptation,
    Adapted,
    Settings,
    _random_directions,
    adapt,
    class_vectors,
    entropy,
    gain,
)
from castssl.evaluation.held_out import Forward, Subject, indexed
from castssl.evaluation.overlap import Overlap
from castssl.models.create import create
from castssl.models.timm_encoder import TimmEncoder
from castssl.modes import evaluating
from castssl.testing import samples
from castssl.types import View
from tests.evaluation import toys

CLASSES = 3
MODELS = {
    "cast": lambda: create("cast_nano", sizes=(16, 8, 4, 2), image_size=32),
    "published padding": lambda: create("cast_nano", sizes=(16, 8, 4, 2), image_size=32, padding="reference"),
    "fused": lambda: create("nano_seg", sizes=(16, 8, 4, 2), image_size=32),
    "dense": lambda: create("nano_seg", sizes=(16, 8, 4, 2), image_size=32, dense=True),
    "vit": lambda: create("nano_vit", sizes=(16, 16, 16), image_size=32),
    "timm": lambda: TimmEncoder("test_vit", image_size=32),
}


def built(make: Callable[[], Encoder], dtype: torch.dtype = torch.float64) -> Encoder:
    """An encoder whose norms and statistics are not as they begin, in training mode."""
    torch.manual_seed(0)
    encoder = make().to(dtype)
    for part in encoder.modules():
        if isinstance(part, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1, 0.1)
            nn.init.normal_(part.bias, 0, 0.1)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean = torch.randn_like(part.weight.detach()) * 0.1
            part.running_var = torch.rand_like(part.weight.detach()) + 0.5
    return encoder


def inputs(encoder: Encoder, batch: int = 3) -> tuple[View, Tensor]:
    """Images and class vectors, in the encoder's dtype."""
    dtype = next(encoder.parameters()).dtype
    images, segments = samples.view(batch)
    vectors = torch.randn(CLASSES, encoder.dim, generator=torch.Generator().manual_seed(1))
    return View(images.to(dtype), segments), F.normalize(vectors.to(dtype), dim=1)


def naive(encoder: Encoder, view: View, vectors: Tensor, settings: Settings) -> list[Adapted]:
    """Each image by itself: a copy of the encoder, torch's SGD on the parameters of its norms."""
    results = []
    for place in range(len(view.image)):
        alone = View(view.image[place : place + 1], view.segments[place : place + 1])
        copied = deepcopy(encoder).eval().requires_grad_(False)
        norms = [
            part
            for part in copied.modules()
            if isinstance(part, nn.LayerNorm | nn.modules.batchnorm._BatchNorm)
        ]
        for part in norms:
            part.requires_grad_(True)
            part.train(settings.statistics == "image" and isinstance(part, nn.BatchNorm2d))
        optimizer = torch.optim.SGD([p for part in norms for p in part.parameters()], settings.rate)
        logits = []
        for _ in range(settings.steps):
            feature = copied(alone).stages[-1].cls[:, 0]
            logits.append(F.normalize(feature, dim=1) @ vectors.T / settings.temperature)
            optimizer.zero_grad()
            torch.distributions.Categorical(logits=logits[-1]).entropy().sum().backward()
            optimizer.step()
        with torch.no_grad():
            feature = copied(alone).stages[-1].cls[:, 0]
            logits.append(F.normalize(feature, dim=1) @ vectors.T / settings.temperature)
            results.append(Adapted(copied.segment(alone), feature, logits[0].detach(), logits[-1]))
    return results


TWICE = Settings(steps=2, rate=0.3, temperature=0.2, statistics="image")
CASES = [(name, torch.float64, settings) for name in MODELS for settings in (Settings(), TWICE)]
CASES += [("cast", torch.float32, Settings()), ("timm", torch.float32, Settings())]
NEAR = {torch.float64: 1e-10, torch.float32: 1e-5}
"""The largest difference, as a share of the largest value."""


def assert_near(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max()) * NEAR[expected.dtype]
    torch.testing.assert_close(found, expected, rtol=0, atol=largest)


@pytest.mark.parametrize(("model", "dtype", "settings"), CASES)
def test_a_batch_is_adapted_as_each_image_alone(model: str, dtype: torch.dtype, settings: Settings) -> None:
    encoder = built(MODELS[model], dtype)
    view, vectors = inputs(encoder)
    found, alone = adapt(encoder, view, vectors, settings), naive(encoder, view, vectors, settings)
    assert_near(found.feature, torch.cat([one.feature for one in alone]))
    assert_near(found.first, torch.cat([one.first for one in alone]))
    assert_near(found.last, torch.cat([one.last for one in alone]))
    for stage in range(len(encoder.sizes)):
        assert_near(
            found.hierarchy.stages[stage].x, torch.cat([one.hierarchy.stages[stage].x for one in alone])
        )
        labels = torch.cat([one.hierarchy.labels(stage) for one in alone])
        assert torch.equal(found.hierarchy.labels(stage), labels)
    assert not torch.allclose(found.last, found.first, atol=1e-2), "the step changed nothing"


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_encoder_changes(training: bool) -> None:
    encoder = built(MODELS["fused"], torch.float32).train(training)
    encoder.stem.requires_grad_(False)
    view, vectors = inputs(encoder)
    state, expected = deepcopy(encoder.state_dict()), encoder.eval()(view).stages[-1].cls
    encoder.train(training)
    flags = [parameter.requires_grad for parameter in encoder.parameters()]
    with torch.no_grad():
        adapt(encoder, view, vectors, TWICE)
    assert encoder.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert all(part.training == training for part in encoder.modules())
    assert [parameter.requires_grad for parameter in encoder.parameters()] == flags
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert torch.equal(encoder.eval()(view).stages[-1].cls, expected)


def test_without_a_step_an_encoder_is_as_it_was() -> None:
    encoder = built(MODELS["cast"]).eval()
    view, vectors = inputs(encoder)
    found = adapt(encoder, view, vectors, Settings(steps=0))
    torch.testing.assert_close(found.feature, encoder(view).stages[-1].cls[:, 0])
    torch.testing.assert_close(found.first, found.last, rtol=0, atol=0)
    assert torch.equal(found.hierarchy.labels(-1), encoder.segment(view).labels(-1))


def test_a_short_step_lowers_the_entropy_of_each_image_and_a_negative_one_raises_it() -> None:
    encoder = built(MODELS["cast"])
    view, vectors = inputs(encoder)
    lower = adapt(encoder, view, vectors, Settings(rate=1e-3))
    higher = adapt(encoder, view, vectors, Settings(rate=-1e-3))
    assert bool((entropy(lower.last) < entropy(lower.first)).all())
    assert bool((entropy(higher.last) > entropy(higher.first)).all())


def test_a_random_step_is_as_long_as_that_of_the_gradient_and_an_images_own() -> None:
    gradients = {"a": torch.randn(3, 200), "b": 5 * torch.randn(3, 300)}
    drawn = _random_directions(gradients, [7, 8, 9], 0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(drawn[name].norm(dim=1), gradient.norm(dim=1))
        assert float(F.cosine_similarity(drawn[name], gradient, dim=1).abs().max()) < 0.3
    encoder = built(MODELS["cast"])
    view, vectors = inputs(encoder)
    together = adapt(encoder, view, vectors, random=[7, 8, 9]).last
    last = View(view.image[2:], view.segments[2:])
    torch.testing.assert_close(together[2:], adapt(encoder, last, vectors, random=[9]).last)
    assert not torch.allclose(together[2:], adapt(encoder, last, vectors, random=[8]).last)
    assert not torch.allclose(together, adapt(encoder, view, vectors).last)


def test_class_vectors_by_hand() -> None:
    features = torch.tensor([[3.0, 0], [0, 0.5], [-2, 0], [9, 9], [7, 7]])
    vectors = class_vectors(features, torch.tensor([0, 0, 1, -1, 2]), 2)
    torch.testing.assert_close(vectors, torch.tensor([[0.5**0.5, 0.5**0.5], [-1, 0]]))
    with pytest.raises(DataError, match="1 of 3 classes have no training image"):
        class_vectors(features, torch.tensor([0, 0, 1, -1, 1]), 3)


def test_the_entropy_is_that_of_torch() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64) * 9
    torch.testing.assert_close(entropy(logits), torch.distributions.Categorical(logits=logits).entropy())
    assert entropy(torch.zeros(1, 4)).item() == pytest.approx(math.log(4))


def test_held_out_images_are_measured_before_and_after(image_folder: Path) -> None:
    encoder = built(MODELS["cast"], torch.float32)
    sizes = encoder.sizes
    adaptation, overlap = Adaptation(sizes), Overlap(sizes)
    evaluation = toys.evaluation(image_folder, overlap, adaptation)
    plain = evaluation(Subject(encoder), [overlap])
    adapted = evaluation(Subject(encoder), [adaptation])
    columns = adaptation.baselines()
    iou = [name for name in plain if "_iou_" in name]
    assert {name: columns["before"][name] for name in iou} == {
        name: pytest.approx(plain[name]) for name in iou
    }
    found = adaptation.per_image
    train, held_out = indexed(evaluation.train), indexed(evaluation.held_out)
    assert found.positions.tolist() == list(overlap.images())
    assert found.region_iou["before"].mean() == pytest.approx(plain["region_iou_2"])
    assert found.region_iou["adapted"].mean() == pytest.approx(adapted["region_iou_2"])
    right = found.predicted["before"] == held_out.targets[found.positions, -1]
    assert columns["before"]["top1"] == pytest.approx(float(right.float().mean()))
    assert found.confidence["adapted"].mean() == pytest.approx(adapted["confidence"])
    assert len({name: values["confidence"] for name, values in columns.items()}) == 2
    with evaluating(encoder), torch.no_grad():
        features = [
            torch.cat([Forward(Subject(encoder)).feature(batch.views[0]) for batch in batches])
            for batches in (evaluation.batches(one, [evaluation.view], "") for one in (train, held_out))
        ]
    vectors = class_vectors(features[0], train.targets[:, -1], 8)
    predicted = (F.normalize(features[1], dim=1) @ vectors.T).argmax(1)
    assert torch.equal(found.predicted["before"], predicted[found.positions])
    first = next(evaluation.batches(held_out, [evaluation.view], "")).views[0]
    view = View(first.image[:1], first.segments[:1])
    last = adapt(encoder, view, vectors).last.softmax(-1)
    assert float(found.confidence["adapted"][0]) == pytest.approx(float(last.max()), rel=1e-4)


def test_gains_by_hand() -> None:
    before, after = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.6, 0.7, 0.8])
    assert gain(before, after) == pytest.approx((3, 0.2, 0.1 / 3**0.5))
    assert gain(before[:1], after[:1])[:2] == pytest.approx((1, 0.1))
    assert math.isnan(gain(before[:0], after[:0]).mean)
