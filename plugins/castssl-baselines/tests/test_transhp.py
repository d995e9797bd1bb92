from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl import create
from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.models.blocks import Stage
from castssl.testing import Check, objectives, samples
from castssl.types import Batch, Hierarchy, Tokens, View
from castssl_baselines.prompting import prompted
from castssl_baselines.transhp import TransHP, prompting_blocks

DEEP = LabelTree((2, 3, 5), ((0, 0, 1), (0, 0, 1, 1, 2)))
SIDE = 32


def made(model: str = "nano_vit", **options: Any) -> TransHP:
    torch.manual_seed(0)
    sizes = {"nano_vit": (16, 16, 16), "nano": (64, 8, 4)}[model]
    return TransHP(create(model, image_size=SIDE, sizes=sizes), DEEP, **options)


def view(batch: int = 4, seed: int = 0) -> View:
    """The sample images on a grid of 16 cells, which fits all models here."""
    return samples.view(batch, seed=seed)


def batch(seed: int = 0) -> Batch:
    return Batch([view(6, seed)], samples.batch(1, DEEP, 6, seed=seed).target)


class Attending(samples.SampleEncoder):
    """The samples' encoder with a block of attention after each stage, which the next one builds on."""

    def __init__(self, *depths: int) -> None:
        super().__init__()
        self.attend(depths or (1, 1, 1))

    def attend(self, depths: tuple[int, ...]) -> None:
        self.blocks = nn.ModuleList(Stage(self.dim, 2, (0.0,) * depth) for depth in depths)

    def forward(self, view: View) -> Hierarchy:
        found, stages = super().forward(view), list[Tokens]()
        for tokens, block in zip(found.stages, self.blocks, strict=True):
            before = stages[-1].cls if stages else 0
            stages.append(block(tokens._replace(cls=tokens.cls + before)))
        return found._replace(stages=tuple(stages))


def on_attending(encoder: Encoder, labels: LabelTree) -> TransHP:
    """The objective on the encoder of the checks, which gets attention."""
    if not isinstance(encoder, samples.SampleEncoder):
        raise ConfigError("the blocks of these tests have one width")
    encoder.__class__ = Attending
    cast(Attending, encoder).attend((1, 1, 1))
    return TransHP(encoder, labels)


@pytest.mark.parametrize("check", [c for c in objectives.checks if "ranks" not in c.__name__])
def test_the_contract_holds(check: Check) -> None:
    check(on_attending)


@pytest.mark.parametrize("model", ["nano_vit", "nano"])
def test_it_learns_one_batch_on_vit_and_cast(model: str) -> None:
    objective = made(model, mixup=0, cutmix=0, smoothing=0)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(15):
        loss = objective(batch()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
    found = objective.eval().predict(view(2))
    assert {name: tuple(logits.shape) for name, logits in found.items()} == {
        "level0": (2, 2),
        "level1": (2, 3),
        "level2": (2, 5),
    }


def test_the_loss_is_the_weighted_sum_of_cross_entropies() -> None:
    objective = made(weight=0.3).eval()
    outcome = objective(batch())
    found = objective.predict(view(6))
    each = [F.cross_entropy(logits, batch().target[:, at]) for at, logits in enumerate(found.values())]
    torch.testing.assert_close(outcome.loss, each[2] + 0.3 * (each[0] + each[1]))
    torch.testing.assert_close(outcome.logs["prompting"], (each[0] + each[1]).detach())


def test_each_prompt_is_compared_with_its_own_prototype() -> None:
    objective = made().eval()
    encoder = cast(nn.Module, objective.encoder)
    promptings = cast(Any, objective.model.promptings)
    with torch.no_grad():
        with prompted(encoder, promptings):
            encoder(view())
            both = [prompting.after for prompting in promptings]
        for level, after in enumerate(both):
            logits = objective.predict(view())[f"level{level}"]
            for number, prototype in enumerate(promptings[level].prototypes):
                torch.testing.assert_close(logits[:, number], after[:, number] @ prototype)


def test_other_names_for_the_coarse_classes_change_nothing_else() -> None:
    objective, order = made().eval(), [2, 0, 1]
    with torch.no_grad():
        before = objective.predict(view())
        for parameter in objective.model.promptings[1].parameters():
            parameter.copy_(parameter[order].clone())
        after = objective.predict(view())
    torch.testing.assert_close(after["level0"], before["level0"])
    torch.testing.assert_close(after["level1"], before["level1"][:, order])
    torch.testing.assert_close(after["level2"], before["level2"])
    assert not torch.allclose(before["level1"], before["level1"][:, order])


def gradients(objective: TransHP, of: str) -> list[Tensor | None]:
    tokens = [prompting.tokens for prompting in cast(Any, objective.model.promptings)]
    total = objective.predict(view())[of].square().sum()
    return list(torch.autograd.grad(total, tokens, allow_unused=True))


def test_what_follows_a_prompting_block_has_absorbed_its_prompts() -> None:
    objective = made().eval()
    reached = {f"level{at}": gradients(objective, f"level{at}") for at in range(3)}
    assert all(grad is not None and grad.any() for grad in reached["level2"])
    assert all(grad is not None and grad.any() for grad in reached["level1"])
    first, second = reached["level0"]
    assert first is not None
    assert first.any()
    assert second is None


def test_prototypes_tell_the_class_and_nothing_else() -> None:
    objective = made().eval()
    with torch.no_grad():
        before = objective.predict(view())
        for prompting in cast(Any, objective.model.promptings):
            prompting.prototypes.mul_(-2)
        after = objective.predict(view())
    torch.testing.assert_close(after["level0"], -2 * before["level0"])
    torch.testing.assert_close(after["level1"], -2 * before["level1"])
    torch.testing.assert_close(after["level2"], before["level2"])


def test_the_target_takes_no_part_in_what_is_predicted() -> None:
    objective = made(mixup=0, cutmix=0).train()
    seen: list[Tensor] = []
    objective.model.head.register_forward_hook(lambda *now: seen.append(now[2]))
    objective(batch())
    objective(batch()._replace(target=torch.zeros(6, 3, dtype=torch.int64)))
    assert torch.equal(*seen)


def test_a_missing_label_leaves_that_level_out() -> None:
    objective, given = made().eval(), batch()
    path = given.target.clone()
    path[:, 1:] = -1
    found = objective.predict(given.views[0])
    expected = F.cross_entropy(found["level0"], path[:, 0])
    torch.testing.assert_close(objective(given._replace(target=path)).loss, expected)


def test_the_average_has_prompts_of_its_own() -> None:
    objective = made(ema=0.5).eval()
    torch.testing.assert_close(objective.predict(view(), "ema"), objective.predict(view()))
    with torch.no_grad():
        objective.model.promptings[0].get_parameter("prototypes").zero_()
    assert objective.predict(view(), "ema")["level0"].any()
    assert set(objective.heads()) == {
        *(f"promptings.{level}.{name}" for level in (0, 1) for name in ("tokens", "prototypes")),
        *("head.weight", "head.bias"),
    }


@pytest.mark.parametrize(
    ("levels", "given", "expected"),
    [
        (2, None, (10,)),
        (3, None, (9, 10)),
        (4, None, (8, 9, 10)),
        (3, (5, 8), (5, 8)),
        (3, (-7, -1), (5, 11)),
    ],
)
def test_the_blocks_before_the_last_prompt(levels: int, given: Any, expected: tuple[int, ...]) -> None:
    assert prompting_blocks(Attending(3, 9), levels, given) == expected


@pytest.mark.parametrize(
    ("levels", "given", "output"),
    [
        (1, None, "1 label level"),
        (14, None, "13 prompting blocks"),
        (3, (8,), r"2 prompting blocks .* \(8,\) of the encoder's 12"),
        (3, (8, 5), "rising order"),
        (3, (5, 5), "rising order"),
        (2, (12,), "1 prompting blocks"),
        (2, (-13,), "1 prompting blocks"),
    ],
)
def test_blocks_that_cannot_prompt(levels: int, given: Any, output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        prompting_blocks(Attending(3, 9), levels, given)


def test_an_encoder_that_takes_no_prompts_is_refused() -> None:
    encoder: Any = create("timm:test_resnet", image_size=SIDE)
    with pytest.raises(ConfigError, match="a TimmEncoder takes none"):
        TransHP(encoder, DEEP)
    with pytest.raises(ConfigError, match="weight"):
        made(weight=-1)
