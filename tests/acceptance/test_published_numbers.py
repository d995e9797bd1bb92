"""Learning rates, schedules, votes and precision: what published code and plain arithmetic give."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import castssl
from castssl.config import read
from castssl.contracts import Encoder
from castssl.evaluation.knn import knn
from castssl.labels import LabelTree
from castssl.models.cast import CAST
from castssl.objectives.deit import DeiT
from castssl.training import build_optimizer
from castssl.training.hierarchy import HierarchyConfig
from tests.acceptance.conftest import Command
from tests.checkpoints import checkpoints


@pytest.mark.parametrize("temperature", [0.07, 0.01, 1e-4, 1e-30])
def test_a_separable_set_is_classified_at_any_temperature(temperature: float) -> None:
    rows, labels = torch.eye(4).repeat(8, 1), torch.arange(4).repeat(8)
    assert knn(rows, labels, rows, labels, temperature=temperature, classes=4) == 1.0


def test_a_vote_without_temperature_is_refused() -> None:
    rows, labels = torch.eye(4), torch.arange(4)
    with pytest.raises(ValueError, match="temperature above 0"):
        knn(rows, labels, rows, labels, temperature=0.0, classes=4)


class TwoSummands(nn.Module):
    """The released model's class token: a token plus the first row of the position table, both trained."""

    def __init__(self, token: Tensor) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(token.clone() / 3)
        self.pos_embed = nn.Parameter(token - token / 3)


def test_the_class_slot_of_learned_positions_moves_as_the_released_sum_of_two_parameters() -> None:
    encoder = cast(CAST, castssl.create("nano", positions="learned", image_size=32)).double()
    encoder.requires_grad_(False)
    encoder.cls_token.requires_grad_(True)
    published = TwoSummands(encoder.cls_token.detach())
    ours = build_optimizer(encoder, lr=1e-2, weight_decay=0.05, decay="weights")
    theirs = torch.optim.AdamW(published.parameters(), lr=1e-2, weight_decay=0.0)
    goal = torch.randn_like(encoder.cls_token)
    start = encoder.cls_token.detach().clone()
    for _ in range(10):
        for optimizer, token in [
            (ours, encoder.cls_token),
            (theirs, published.cls_token + published.pos_embed),
        ]:
            optimizer.zero_grad()
            torch.autograd.backward(((token - goal) ** 3).sum())
            optimizer.step()
    found, expected = encoder.cls_token.detach(), (published.cls_token + published.pos_embed).detach()
    assert (expected - start).abs().max() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-9)


def rates(encoder: Encoder, *, summands: bool = True) -> dict[str, float]:
    """The learning rate of each parameter, by name."""
    objective = DeiT(encoder, LabelTree(sizes=(3,)))
    optimizer = build_optimizer(objective, lr=1.0, weight_decay=0.05, decay="weights", summands=summands)
    names = {parameter: name for name, parameter in objective.named_parameters()}
    return {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_only_the_class_slot_is_faster_and_a_copy_keeps_it() -> None:
    encoder = copy.deepcopy(castssl.create("nano", positions="learned", image_size=32))
    fast = {name for name, rate in rates(encoder).items() if rate != 1.0}
    assert fast == {"model.encoder.cls_token"}
    assert rates(encoder)["model.encoder.cls_token"] == 2.0
    assert set(rates(encoder, summands=False).values()) == {1.0}


def test_fixed_positions_leave_the_class_token_at_the_common_rate() -> None:
    """The parameter that MoCo's released model adds to its class token is never trained."""
    assert set(rates(castssl.create("nano", image_size=32)).values()) == {1.0}


def hcast(*flags: str) -> HierarchyConfig:
    return read(HierarchyConfig, list(flags))


@pytest.mark.parametrize(
    ("data", "last"),
    [("cub:x", 1.9e-4), ("aircraft:x", 3.8e-4), ("breeds:living17:x", 7.6e-4), ("inat21-mini:x", 7.6e-4)],
)
def test_the_released_h_cast_ends_at_three_quarters_of_its_peak(data: str, last: float) -> None:
    cfg = hcast("--data", data)
    assert cfg.rate(0.9999) * cfg.peak == pytest.approx(last, rel=0.02)
    whole = hcast("--data", data, "--cosine-epochs", "0")
    assert whole.rate(0.9999) * whole.peak < 2e-5


def test_what_the_released_h_cast_does_not_train_has_the_whole_cosine() -> None:
    assert hcast("--data", "cub:x", "--method", "hier-vit").cosine_epochs == 0
    assert hcast("--data", "cub:x", "--schedule", "paper").cosine_epochs == 0
    assert hcast("--data", "demo").cosine_epochs == 0


def wide() -> dict[str, Tensor]:
    """A DeiT checkpoint whose values float32 cannot hold."""
    torch.manual_seed(0)
    return {
        name: value.double() * (1 + 1e-11) if value.is_floating_point() else value
        for name, value in checkpoints.state("cast_deit", 4).items()
    }


def test_a_float64_checkpoint_keeps_its_precision(tmp_path: Path, command: Command) -> None:
    state = wide()
    model = castssl.load_official(state, sizes=checkpoints.SIZES)
    stem = state["patch_embed.proj.0.weight"]
    assert not torch.equal(stem, stem.float().double())
    held = model.encoder.state_dict()
    assert any(torch.equal(value, stem) for value in held.values() if value.shape == stem.shape)
    assert torch.equal(model.head.get_parameter("weight"), state["head.weight"])

    torch.save({"model": state}, tmp_path / "wide.pth")
    out, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    assert command("convert", tmp_path / "wide.pth", out).code == 0
    assert any(torch.equal(value, stem) for value in load_file(out).values() if value.shape == stem.shape)
    assert command("convert", out, back, "--layout", "official").code == 0
    assert torch.equal(torch.load(back, weights_only=True)["model"]["patch_embed.proj.0.weight"], stem)
