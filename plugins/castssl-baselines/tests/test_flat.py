from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from castssl import build
from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import Supervised
from castssl.testing import Check, objectives, samples
from castssl.types import Batch
from castssl_baselines.flat import Flat

DEEP = LabelTree((2, 3, 5), ((0, 0, 1), (0, 0, 1, 1, 2)))


def made(tree: LabelTree = DEEP, **options: Any) -> Flat:
    torch.manual_seed(0)
    return Flat(samples.SampleEncoder(), tree, **options)


def of_several_levels(encoder: Encoder, labels: LabelTree) -> Flat:
    """For the checks, whose first tree has one level."""
    if labels.levels < 2:
        raise ConfigError("only trees with several levels here")
    return Flat(encoder, labels, ema=0.9)


@pytest.mark.parametrize("check", [c for c in objectives.checks if "ranks" not in c.__name__])
def test_the_contract_holds_with_several_levels(check: Check) -> None:
    check(of_several_levels)


def alone(flat: Flat, level: int) -> Any:
    """The level's model as DeiT trains it by itself."""
    single: Any = build("objectives", "deit", samples.SampleEncoder(), DEEP, level=level)
    encoders = [*flat.model.coarser, cast(nn.Module, flat.encoder)]
    single.encoder.load_state_dict(encoders[level].state_dict())
    single.model.head.load_state_dict(flat.model.level_heads[level].state_dict())
    return single


def steps(objective: Supervised) -> None:
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    np.random.seed(0)  # noqa: NPY002
    for step in range(3):
        optimizer.zero_grad()
        loss = objective(samples.batch(1, DEEP, 6, seed=step)).loss
        loss.backward()
        optimizer.step()


def test_each_model_learns_what_it_would_learn_alone() -> None:
    flat = made()
    singles = [alone(flat, level) for level in range(3)]
    for objective in (flat, *singles):
        steps(objective)
    view = samples.view(4, seed=9)
    found = flat.eval().predict(view)
    assert list(found) == ["level0", "level1", "level2"]
    for logits, single in zip(found.values(), singles, strict=True):
        torch.testing.assert_close(logits, single.eval().predict(view)["class"])


def test_the_loss_is_the_sum_of_what_each_would_have() -> None:
    flat, batch = made().eval(), samples.batch(1, DEEP, 6)
    losses = [alone(flat, level).eval()(batch).loss for level in range(3)]
    torch.testing.assert_close(flat(batch).loss, sum(losses))


@pytest.mark.parametrize("level", range(3))
def test_a_level_sends_no_gradient_to_the_others_model(level: int) -> None:
    flat = made()
    total = flat.predict(samples.view(2))[f"level{level}"].sum()
    total.backward()
    for at, encoder in enumerate([*flat.model.coarser, cast(nn.Module, flat.encoder)]):
        assert all((p.grad is not None) == (at == level) for p in encoder.parameters())
        assert all((p.grad is not None) == (at == level) for p in flat.model.level_heads[at].parameters())


def test_a_missing_label_leaves_its_model_alone() -> None:
    flat, batch = made(mixup=0, cutmix=0), samples.batch(1, DEEP, 4)
    path = batch.target.clone()
    path[:, 2] = -1
    flat(Batch(batch.views, path)).loss.backward()
    assert not any(p.grad.any() for p in flat.encoder.parameters() if p.grad is not None)
    assert any(p.grad.any() for p in flat.model.coarser[1].parameters() if p.grad is not None)


def test_the_models_begin_alike_and_share_nothing() -> None:
    flat = made(ema=0.5)
    own, copied = cast(nn.Module, flat.encoder).state_dict(), flat.model.coarser[0].state_dict()
    assert all(torch.equal(value, copied[name]) for name, value in own.items())
    places = [value.data_ptr() for value in flat.state_dict().values() if value.numel()]
    assert len(set(places)) == len(places)


def test_the_average_is_of_all_models() -> None:
    flat, view = made(ema=0.5), samples.view(2)
    with torch.no_grad():
        for parameter in flat.model.coarser.parameters():
            parameter.mul_(3)
    now = flat.predict(view, "ema")
    flat.after_step(0.5)
    later = flat.predict(view, "ema")
    changed = [not torch.allclose(now[name], later[name]) for name in now]
    assert changed == [True, True, False]
    assert flat.heads("ema").keys() == flat.heads().keys()
    assert {name.partition(".")[0] for name in flat.heads()} == {"coarser", "level_heads"}


def test_an_unlabeled_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="no labels"):
        made(LabelTree.none())
