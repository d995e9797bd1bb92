"""Each loss against its formula; two processes against one; schedules, momentum models and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from castssl.encoder_config import EncoderConfig
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.testing import claims
from castssl.testing.processes import together
from castssl.testing.samples import SampleEncoder, batch
from castssl.types import Batch, Hierarchy, Tokens, View

NONE = LabelTree.none()
SPECS = {
    "simclr": "simclr:hidden=32,out=8,temperature=0.3",
    "byol": "byol:hidden=32,out=8",
    "barlow-twins": "barlow-twins:hidden=32,out=8,weight=0.1",
    "barlow-twins-apart": "barlow-twins:hidden=32,out=8,weight=0.1,per_process=true",
    "vicreg": "vicreg:hidden=32,out=8,invariance=9,variance=7,covariance=3",
    "dino": "dino:hidden=32,bottleneck=16,out=24",
}
Made = Any
"""An objective of this package, of which the tests use more than the contract has."""


def make(spec: str, encoder: nn.Module | None = None) -> Made:
    torch.manual_seed(0)  # Of the encoder.
    return claims.make("objectives", spec, encoder or SampleEncoder(), NONE)


def tokens(encoder: nn.Module, given: Batch) -> list[Tensor]:
    """The class tokens of each view."""
    return [encoder(view).stages[-1].cls[:, 0] for view in given.views]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b) / torch.sqrt(torch.dot(a, a) * torch.dot(b, b))


def simclr(objective: Made, given: Batch) -> Tensor:
    """Equation 1, for each of the 2N views."""
    a, b = (objective.model.projector(rows) for rows in tokens(objective.encoder, given))
    rows, count, total = torch.cat([a, b]), len(a), torch.zeros(())
    for i in range(2 * count):
        close = [math.inf if j == i else cosine(rows[i], rows[j]) / 0.3 for j in range(2 * count)]
        others = torch.stack([cast(Tensor, c) for j, c in enumerate(close) if j != i]).exp().sum()
        total = total - (cast(Tensor, close[(i + count) % (2 * count)]).exp() / others).log()
    return total / (2 * count)


def byol(objective: Made, given: Batch) -> Tensor:
    """Equation 2 and its mirror image."""
    model = objective.model
    online = [model.predictor(model.projector(x)) for x in tokens(model.encoder, given)]
    target = [objective.momentum_model.projector(x) for x in tokens(objective.momentum_model.encoder, given)]
    total = torch.zeros(())
    for p, z in [(online[0], target[1]), (online[1], target[0])]:
        for one, other in zip(p, z, strict=True):
            total = total + (one / one.norm() - other / other.norm()).square().sum()
    return total / len(given.views[0].image)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Equation 2 of Barlow Twins, with the 1e-5 that its code's batch norm adds to each variance."""
    (a, size_a), (b, size_b) = ((x - x.mean(0), (x.var(0, correction=0) + 1e-5).sqrt()) for x in (a, b))
    return torch.stack(
        [
            torch.stack([(a[:, i] * b[:, j]).mean() / size_a[i] / size_b[j] for j in range(b.shape[1])])
            for i in range(a.shape[1])
        ]
    )


def redundancy(c: Tensor, weight: float = 0.1) -> Tensor:
    """Equation 1 of Barlow Twins."""
    size = range(len(c))
    terms = [(1 - c[i, j]) ** 2 if i == j else weight * c[i, j] ** 2 for i, j in product(size, size)]
    return torch.stack(terms).sum()


def barlow_twins(objective: Made, given: Batch) -> Tensor:
    return redundancy(correlation(*(objective.model.projector(x) for x in tokens(objective.encoder, given))))


def vicreg(objective: Made, given: Batch) -> Tensor:
    """Equations 1 to 6, scaled as the released code does."""
    a, b = (objective.model.projector(x) for x in tokens(objective.encoder, given))
    count, width = a.shape
    total: Tensor = 9 * (a - b).square().sum() / (count * width)
    for z in (a, b):
        covariance = torch.stack([torch.outer(row, row) for row in z - z.mean(0)]).sum(0) / (count - 1)
        for i, j in product(range(width), range(width)):
            if i == j:
                total = total + 7 * (1 - (covariance[i, i] + 1e-4).sqrt()).clamp(min=0) / width / 2
            else:
                total = total + 3 * covariance[i, j] ** 2 / width
    return total


def dino(objective: Made, given: Batch) -> Tensor:
    """Algorithm 1 without local crops, at the start: center 0, the teacher's temperature 0.04."""
    student = [objective.model.projector(x) / 0.1 for x in tokens(objective.encoder, given)]
    teacher = [objective.momentum_model.projector(x) for x in tokens(objective.momentum_model.encoder, given)]
    total = torch.zeros(())
    for s, t in [(student[0], teacher[1]), (student[1], teacher[0])]:
        total = total - ((t / 0.04).exp() / (t / 0.04).exp().sum(1, True) * s.log_softmax(1)).sum(1).mean()
    return total / 2


ORACLES: dict[str, Callable[[Made, Batch], Tensor]] = {
    "simclr": simclr,
    "byol": byol,
    "barlow-twins": barlow_twins,
    "barlow-twins-apart": barlow_twins,
    "vicreg": vicreg,
    "dino": dino,
}


@pytest.mark.parametrize("name", SPECS)
def test_the_loss_is_the_paper_s(name: str) -> None:
    objective, given = make(SPECS[name]), batch(2, NONE, 8)
    objective.train()
    expected = ORACLES[name](objective, given)
    torch.testing.assert_close(objective(given).loss, expected, rtol=2e-3, atol=1e-4)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By spec, what two processes found."""
    path = tmp_path_factory.mktemp("processes") / "found.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)  # Where they find what they are to do.
        together(import_module("two_processes").losses, str(path), list(SPECS.values()))
    return cast("dict[str, dict[str, Any]]", torch.load(path, weights_only=True))


@pytest.mark.distributed
@pytest.mark.parametrize("name", SPECS)
def test_two_processes_have_the_gradient_of_one(name: str, found: dict[str, dict[str, Any]]) -> None:
    objective, halves = make(SPECS[name]), [batch(2, NONE, 6, seed=rank) for rank in range(2)]
    objective.train(name == "dino")
    both = Batch(
        [_stack(*views) for views in zip(*(half.views for half in halves), strict=True)], torch.zeros(12, 0)
    )
    if "per_process" in SPECS[name]:
        project = objective.model.projector
        parts = [correlation(*(project(x) for x in tokens(objective.encoder, h))) for h in halves]
        loss = redundancy((parts[0] + parts[1]) / 2)
    else:
        loss = objective(both).loss
    loss.backward()
    torch.testing.assert_close(found[SPECS[name]]["loss"], loss.detach(), rtol=2e-3, atol=1e-5)
    expected = {key: p.grad for key, p in objective.named_parameters() if p.requires_grad}
    apart = [(found[SPECS[name]]["gradients"][key] - grad).norm() for key, grad in expected.items()]
    size = torch.stack([grad.norm() for grad in expected.values()]).norm()
    assert float(torch.stack(apart).norm() / size) < 1e-3
    if name == "dino":
        torch.testing.assert_close(
            found[SPECS[name]]["buffers"]["criterion.center"], objective.criterion.center
        )


def _stack(first: View, second: View) -> View:
    return View(torch.cat([first.image, second.image]), torch.cat([first.segments, second.segments]))


def test_the_centre_follows_in_training_only() -> None:
    objective, given = make(SPECS["dino"]), batch(2, NONE, 8)
    objective.eval()
    objective(given)
    assert not objective.criterion.center.any()
    objective.train()
    objective(given)
    rows = torch.cat(
        [objective.momentum_model.projector(x) for x in tokens(objective.momentum_model.encoder, given)]
    )
    torch.testing.assert_close(objective.criterion.center[0, 0], 0.1 * rows.mean(0))


@pytest.mark.parametrize(("progress", "expected"), [(0.05, 0.055), (0.1, 0.07), (0.9, 0.07)])
def test_the_teacher_warms_up_and_a_loaded_state_remembers(progress: float, expected: float) -> None:
    objective, given = make(SPECS["dino"]), batch(2, NONE, 8)
    objective.eval()
    objective.after_step(progress)
    teacher = [
        objective.momentum_model.projector(x) / expected
        for x in tokens(objective.momentum_model.encoder, given)
    ]
    student = [objective.model.projector(x) / 0.1 for x in tokens(objective.encoder, given)]
    terms = [
        -(t.softmax(1) * s.log_softmax(1)).sum(1).mean() for t, s in zip(teacher, student[::-1], strict=True)
    ]
    fresh = make(SPECS["dino"]).eval()
    fresh.load_state_dict(objective.state_dict())
    for each in (objective, fresh):
        torch.testing.assert_close(each(given).loss, (terms[0] + terms[1]) / 2)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_last_layer_waits(sharded: bool, tmp_path: Path) -> None:
    objective, given = make(SPECS["dino"] + ",freeze=0.5"), batch(2, NONE, 8)
    moved = []
    if sharded:  # FSDP replaces the parameters.
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
        fully_shard(objective, mesh=init_device_mesh("cpu", (1,)))
    try:
        for progress in (0.25, 0.5):
            objective.after_step(progress)
            objective(given).loss.backward()
            layers = objective.model.projector.last_layer.weight_v, objective.model.projector.layers[0].weight
            last, first = (p.grad.full_tensor() if sharded else p.grad for p in layers)
            moved.append(bool(last.any()))
            assert first.any()
    finally:
        if sharded:
            dist.destroy_process_group()
    assert moved == [False, True]


@pytest.mark.parametrize("name", ["byol", "dino"])
def test_the_momentum_encoder_follows_and_ends_still(name: str) -> None:
    objective = make(SPECS[name] + ",momentum=0.8")
    momentum, base = objective.branch("momentum").embed.weight, objective.branch("base").embed.weight
    assert torch.equal(momentum, base)
    with torch.no_grad():
        base += 1
    before = momentum.clone()
    objective.after_step(0.5)
    # 1 - 0.2 * (cos(pi / 2) + 1) / 2
    torch.testing.assert_close(momentum, before + 0.1 * (base - before))
    before = momentum.clone()
    objective.after_step(1.0)
    torch.testing.assert_close(momentum, before)


def test_the_momentum_models_have_the_modes_of_their_papers() -> None:
    student, pupil = make(SPECS["dino"]).train(), make(SPECS["byol"]).train()
    assert student.model.projector.training
    assert not any(part.training for part in student.momentum_model.modules())
    assert all(part.training for part in pupil.momentum_model.modules())


@pytest.mark.parametrize("name", SPECS)
def test_embeddings_that_have_become_one_are_told(name: str) -> None:
    objective = make(SPECS[name]).eval()
    given = batch(2, NONE, 8)
    same = Batch([View(v.image[:1].expand_as(v.image), v.segments) for v in given.views], given.target)
    assert float(objective(same).logs["spread"]) < 1e-3
    assert float(objective(given).logs["spread"]) > 3e-3


class Apart(nn.Module):
    """An encoder whose class tokens lie far apart for images of noise."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.dim, self.sizes, self.config = 32, (1,), EncoderConfig("apart")
        self.embed = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), norm or nn.LayerNorm(32))

    def forward(self, view: View) -> Hierarchy:
        token = self.embed(view.image)[:, None]
        return Hierarchy(view.segments, (Tokens(token, token, torch.ones(token.shape[:2])),), ())


def test_the_batch_norm_of_dino_s_teacher_follows_its_images() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(32), nn.Dropout(0.5))
    objective, segments = make(SPECS["dino"], Apart(norm)).train(), torch.zeros(16, 4, 4, dtype=torch.int32)
    views = [View(5 + torch.randn(16, 3, 4, 4), segments) for _ in range(2)]
    objective(Batch(views, torch.zeros(16, 0)))
    linear, taught = objective.branch("momentum").embed[1], objective.branch("momentum").embed[2]
    means = [linear(view.image.flatten(1)).mean(0) for view in views]
    torch.testing.assert_close(taught[0].running_mean, 0.1 * (0.9 * means[0] + means[1]))
    assert taught[0].training
    assert not taught[1].training
    kept = taught[0].running_mean.clone()
    objective.eval()(Batch(views, torch.zeros(16, 0)))
    assert torch.equal(taught[0].running_mean, kept)


def test_dino_learns_images_that_differ() -> None:
    objective = make("dino:hidden=64,bottleneck=32,out=32,momentum=0.9", Apart()).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    images, segments, losses = torch.randn(16, 3, 4, 4), torch.zeros(16, 4, 4, dtype=torch.int32), []
    for step in range(100):
        views = [View(images + 0.3 * torch.randn_like(images), segments) for _ in range(2)]
        outcome = objective(Batch(views, torch.zeros(16, 0)))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        objective.after_step((step + 1) / 100)
        losses.append(float(outcome.loss.detach()))
    assert sum(losses[-5:]) / 5 < 0.3 * losses[0]
    assert float(outcome.logs["spread"]) > 0.7


@pytest.mark.parametrize("name", ["barlow-twins", "vicreg"])
def test_one_image_has_no_statistics(name: str) -> None:
    with pytest.raises(ValueError, match="2 images in each process, got 1"):
        make(SPECS[name]).eval()(batch(2, NONE, 1))


def test_images_without_normalisation_are_refused() -> None:
    given = batch(2, NONE)
    raw = Batch([View(v.image.to(torch.uint8), v.segments) for v in given.views], given.target)
    with pytest.raises(ValueError, match=r"SimCLR expects float images, got torch\.uint8"):
        make(SPECS["simclr"])(raw)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("simclr:temperature=0", "temperature must be above 0, got 0"),
        ("simclr:layers=1", "at least 2 layers, got 1"),
        ("byol:momentum=1.5", "momentum is a share: expected 0 to 1, got 1.5"),
        ("dino:warmup=30", "warmup is a share: expected 0 to 1, got 30"),
        ("dino:teacher_start=0", "teacher_start must be above 0, got 0"),
    ],
)
def test_options_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(spec)
