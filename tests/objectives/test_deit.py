from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.modes import gathered
from castssl.objectives.deit import DeiT
from castssl.testing import samples
from castssl.types import Batch, View

FLAT = LabelTree.flat(("ant", "bee", "cat", "dog"))
DEEP = LabelTree((2, 4), ((0, 0, 1, 1),))


def made(tree: LabelTree = FLAT, **options: Any) -> DeiT:
    torch.manual_seed(0)
    return DeiT(samples.SampleEncoder(), tree, **options)


def logits_of(objective: DeiT, image: Tensor, segments: Tensor) -> Tensor:
    logits: Tensor = objective.model.head(objective.encoder(View(image, segments)).stages[-1].cls[:, 0])
    return logits


def seeded(objective: DeiT, batch: Batch, seed: int) -> Tensor:
    np.random.seed(seed)  # noqa: NPY002
    loss: Tensor = objective(batch).loss
    return loss


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_cross_entropy_with_the_mixed_targets(seed: int) -> None:
    objective, batch = made(), samples.batch(1, FLAT, 6)
    np.random.seed(seed)  # noqa: NPY002
    timms = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=4)  # type: ignore[no-untyped-call]
    image, target = timms(batch.views[0].image.clone(), batch.target[:, 0])
    logits = logits_of(objective, image, batch.views[0].segments)
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(seeded(objective, batch, seed), expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_binary_loss_asks_for_every_class_of_the_mixture(seed: int) -> None:
    objective, batch = made(bce=True), samples.batch(1, FLAT, 6)
    np.random.seed(seed)  # noqa: NPY002
    timms = Mixup(0.8, 1.0, label_smoothing=0.0, num_classes=4)  # type: ignore[no-untyped-call]
    image, _ = timms(batch.views[0].image.clone(), batch.target[:, 0])
    logits = logits_of(objective, image, batch.views[0].segments)
    own = F.one_hot(batch.target[:, 0], 4)
    target = (own | own.flip(0)).float()
    expected = F.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(seeded(objective, batch, seed), expected)


def test_in_evaluation_mode_nothing_is_mixed_or_smoothed() -> None:
    objective, batch = made().eval(), samples.batch(1, FLAT, 6)
    outcome = objective(batch)
    logits = logits_of(objective, *batch.views[0])
    torch.testing.assert_close(outcome.loss, F.cross_entropy(logits, batch.target[:, 0]))
    assert outcome.logs["accuracy"] == (logits.argmax(1) == batch.target[:, 0]).float().mean()


@pytest.mark.parametrize(("level", "classes"), [(-1, 4), (0, 2), (1, 4), (-2, 2)])
def test_it_learns_the_level_that_is_asked_for(level: int, classes: int) -> None:
    objective, batch = made(DEEP, level=level).eval(), samples.batch(1, DEEP, 6)
    logits = objective.predict(batch.views[0])["class"]
    assert logits.shape == (6, classes)
    torch.testing.assert_close(objective(batch).loss, F.cross_entropy(logits, batch.target[:, level]))


@pytest.mark.parametrize(
    ("tree", "options", "output"),
    [
        (LabelTree.none(), {}, "no labels"),
        (LabelTree((4,), exclusive=False), {}, "several labels"),
        (FLAT, {"level": 1}, "1 label level"),
        (FLAT, {"ema": 1.0}, r"1\.0"),
    ],
)
def test_what_cannot_be_learned_is_refused(tree: LabelTree, options: dict[str, Any], output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        made(tree, **options)


def step(objective: DeiT, by: float) -> None:
    with torch.no_grad():
        for part in objective.parameters():
            if part.requires_grad:
                part.add_(by)
    objective.after_step(0.5)


def test_the_average_follows_by_its_share() -> None:
    objective = made(ema=0.75)
    before = [part.detach().clone() for part in objective.branch("ema").parameters()]
    step(objective, 1.0)
    step(objective, 2.0)
    # The weights went from w to w + 1 and w + 3: 0.25 of the way each time.
    expected = 0.75 * (0.25 * 1) + 0.25 * 3
    for part, old in zip(objective.branch("ema").parameters(), before, strict=True):
        torch.testing.assert_close(part, old + expected)
        assert not part.requires_grad
    head = objective.heads("ema")["head.bias"]
    torch.testing.assert_close(head, torch.full((4,), expected))


def test_running_statistics_are_averaged_too() -> None:
    encoder = samples.SampleEncoder()
    encoder.register_module("norm", nn.BatchNorm1d(2))
    objective = DeiT(encoder, FLAT, ema=0.5)
    with torch.no_grad():
        objective.get_buffer("model.encoder.norm.running_mean").fill_(4.0)
    objective.after_step(0.5)
    average = dict(objective.branch("ema").named_buffers())
    assert average["norm.running_mean"].tolist() == [2.0, 2.0]


def test_the_average_of_parameters_that_fsdp_has_sharded_is_that_of_whole_ones(tmp_path: Path) -> None:
    """FSDP shards parameters, and leaves the running statistics of a batch norm whole."""
    averages: list[list[Tensor]] = []
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for shard in (False, True):
            torch.manual_seed(0)
            encoder = samples.SampleEncoder()
            encoder.add_module("norm", nn.BatchNorm1d(2))
            objective = DeiT(encoder, FLAT, ema=0.5)
            if shard:
                fully_shard(objective, mesh=init_device_mesh("cpu", (1,)))
            for value in objective.model.state_dict().values():
                value.add_(1)
            objective.after_step(1.0)
            averages.append([gathered(value) for value in objective._model("ema").state_dict().values()])
    finally:
        dist.destroy_process_group()
    for whole, sharded in zip(*averages, strict=True):
        assert torch.equal(whole, sharded)


def test_the_average_predicts_and_stays_in_evaluation_mode() -> None:
    objective, view = made(ema=0.5).train(), samples.view(2)
    assert not objective.branch("ema").training
    assert objective.branch("base").training
    torch.testing.assert_close(objective.predict(view, "ema")["class"], objective.predict(view)["class"])
    step(objective, 0.1)
    assert not torch.allclose(objective.predict(view, "ema")["class"], objective.predict(view)["class"])


def test_the_state_holds_everything_once() -> None:
    state = made(ema=0.5).state_dict()
    assert {name.split(".")[0] for name in state} == {"model", "average"}
    assert len(state) == 2 * len(made().state_dict())


def test_without_an_average_there_is_no_such_branch() -> None:
    with pytest.raises(ConfigError, match="--ema"):
        made().branch("ema")
