"""What is checked before a run and on its first batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from castssl.errors import ConfigError, ContractError
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3
from castssl.superpixels.grid import Grid
from castssl.training.checks import FirstBatch, check_hierarchy, fits
from castssl.types import Batch, Hierarchy, Tokens, View


def nano() -> MoCoV3:
    return MoCoV3(create("nano", image_size=32, sizes=(16, 8, 4)), hidden=16, out=8)


def batch(top: int = 15) -> Batch:
    segments = torch.arange(32 * 32).view(1, 32, 32).remainder(top + 1).int().expand(3, -1, -1)
    return Batch([View(torch.randn(3, 3, 32, 32), segments)] * 2, torch.zeros(3, 0, dtype=torch.long))


def test_superpixels_must_fit_the_first_stage() -> None:
    fits(Grid(8), nano().encoder, 32)
    with pytest.raises(ConfigError, match=r"may give 64 segments .* room for 16"):
        fits(Grid(4), nano().encoder, 32)


def test_a_single_stage_must_have_room_too_unless_it_makes_its_own_cells() -> None:
    with pytest.raises(ConfigError, match="room for 196"):
        fits(Grid(8), create("vit_small"), 224)
    fits(Grid(8), create("timm:resnet10t"), 224)


def test_a_sound_objective_passes_and_keeps_its_modes() -> None:
    objective = nano()
    FirstBatch(objective)(batch())
    assert objective.encoder.training


def test_only_the_first_batch_is_looked_at() -> None:
    objective = nano()
    check = FirstBatch(objective)
    check(batch())
    nn.init.constant_(objective.encoder.get_parameter("cls_token"), float("nan"))
    check(batch())
    with pytest.raises(ContractError, match="stage 0: tokens are not finite"):
        FirstBatch(objective)(batch())


def hierarchy(segments: int = 3, share: float = 1.0) -> Hierarchy:
    tokens = Tokens(torch.zeros(1, 4, 2), torch.zeros(1, 1, 2), torch.tensor([[1.0, 1, 1, 0]]))
    assign = torch.zeros(1, 4, 2)
    assign[:, :3, 0] = share
    stages = (tokens, Tokens(torch.zeros(1, 2, 2), torch.zeros(1, 1, 2), torch.tensor([[3.0, 0]])))
    return Hierarchy(torch.full((1, 2, 2), segments), stages, (assign,))


def test_each_broken_promise_is_named() -> None:
    check_hierarchy(hierarchy())
    with pytest.raises(ContractError, match="labels from 4 to 4, expected 0 to 3"):
        check_hierarchy(hierarchy(segments=4))
    with pytest.raises(ContractError, match="after stage 0: expected a float32 assign"):
        check_hierarchy(hierarchy(share=0.5))


def test_numbers_of_the_next_tokens_are_checked_too() -> None:
    plain = hierarchy()
    check_hierarchy(plain._replace(assigns=(torch.tensor([[0, 1, 0, -1]]),)))
    for broken in ([0, 1, 0, 0], [0, -1, 0, -1], [0, 2, 0, -1]):
        with pytest.raises(ContractError, match=r"or int64 tokens of the next stage .* got torch\.int64"):
            check_hierarchy(plain._replace(assigns=(torch.tensor([broken]),)))
    with pytest.raises(ContractError, match=r"got torch\.int32"):
        check_hierarchy(plain._replace(assigns=(torch.tensor([[0, 1, 0, -1]], dtype=torch.int32),)))
