from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from castssl.errors import ConfigError
from castssl.training.optim import Decay, build_optimizer, scaled_rate, set_rate


def _module() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False), nn.Linear(2, 2))
    module[3].requires_grad_(False)
    module.register_parameter("token", nn.Parameter(torch.ones(1, 1, 4)))
    return module


def _step(optimizer: torch.optim.Optimizer, module: nn.Module, gradient: float) -> dict[str, Tensor]:
    before = {name: part.detach().clone() for name, part in module.named_parameters()}
    for part in module.parameters():
        part.grad = torch.full_like(part, gradient) if part.requires_grad else None
    optimizer.step()
    return {name: part.detach() - before[name] for name, part in module.named_parameters()}


def test_all_parameters_decay_by_default_as_in_moco() -> None:
    module = _module()
    start = {name: part.detach().clone() for name, part in module.named_parameters()}
    moved = _step(build_optimizer(module, lr=0.1, weight_decay=0.5), module, 0.0)
    for name, part in module.named_parameters():
        expected = -0.1 * 0.5 * start[name] if part.requires_grad else torch.zeros_like(part)
        torch.testing.assert_close(moved[name], expected)


def test_matrices_spares_biases_and_all_with_one_axis() -> None:
    module = _module()
    moved = _step(build_optimizer(module, lr=0.1, weight_decay=0.5, decay="matrices"), module, 0.0)
    assert {name for name, by in moved.items() if by.any()} == {"0.weight", "2.weight", "token"}


def test_weights_spares_class_token_and_positions_too() -> None:
    module = _module()
    module.register_parameter("cls_token", nn.Parameter(torch.ones(1, 1, 4)))
    module.add_module("inner", nn.ParameterDict({"positions": nn.Parameter(torch.ones(1, 4, 2, 2))}))
    moved = _step(build_optimizer(module, lr=0.1, weight_decay=0.5, decay="weights"), module, 0.0)
    assert {name for name, by in moved.items() if by.any()} == {"0.weight", "2.weight", "token"}


def test_adamw_takes_the_given_betas_and_a_first_step_of_the_rate() -> None:
    module = _module()
    optimizer = build_optimizer(module, lr=0.1, weight_decay=0.0, betas=(0.8, 0.95))
    moved = _step(optimizer, module, 3.0)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)
    torch.testing.assert_close(moved["0.bias"], torch.full((4,), -0.1))


def test_lars_scales_matrices_and_moves_the_rest_by_plain_momentum() -> None:
    module = _module()
    weight = module.get_parameter("0.weight").detach().clone()
    moved = _step(build_optimizer(module, name="lars", lr=0.1, weight_decay=0.01, trust=0.02), module, 3.0)
    gradient = torch.full_like(weight, 3.0)
    trust = 0.02 * weight.norm() / (gradient.norm() + 0.01 * weight.norm())
    torch.testing.assert_close(moved["0.weight"], -0.1 * trust * (gradient + 0.01 * weight))
    torch.testing.assert_close(moved["0.bias"], torch.full((4,), -0.3))


def test_sgd_has_momentum() -> None:
    module = _module()
    optimizer = build_optimizer(module, name="sgd", lr=0.1, weight_decay=0.0, momentum=0.5)
    torch.testing.assert_close(_step(optimizer, module, 1.0)["0.bias"], torch.full((4,), -0.1))
    torch.testing.assert_close(_step(optimizer, module, 1.0)["0.bias"], torch.full((4,), -0.15))


@pytest.mark.parametrize("decay", ["all", "matrices", "weights", "no-biases"])
def test_the_rate_is_a_multiple_of_the_first_one_however_often_it_is_set(decay: Decay) -> None:
    optimizer = build_optimizer(_module(), lr=0.2, decay=decay)
    for scale in (0.5, 0.0, 0.25):
        set_rate(optimizer, scale)
        assert {group["lr"] for group in optimizer.param_groups} == {0.2 * scale}


def test_the_rate_scales_with_the_batch() -> None:
    assert scaled_rate(1.5e-4, 256) == pytest.approx(1.5e-4)
    assert scaled_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)
    assert scaled_rate(5e-4, 1024, per=512) == pytest.approx(1e-3)


def test_what_cannot_be_built_is_told() -> None:
    with pytest.raises(ConfigError, match="expected one of adamw, lars, sgd"):
        build_optimizer(_module(), name="adam", lr=0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="all, matrices, weights, no-biases"):
        build_optimizer(_module(), lr=0.1, decay="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"lars.*matrices"):
        build_optimizer(_module(), name="lars", lr=0.1, decay="all")
    with pytest.raises(ConfigError, match=r"lars.*positive"):
        build_optimizer(_module(), name="lars", lr=0.1, weight_decay=0.0)
    with pytest.raises(ConfigError, match="no parameter"):
        build_optimizer(_module().requires_grad_(False), lr=0.1)


def test_scales_of_norms_decay_unless_biases_do() -> None:
    module = _module()
    moved = _step(build_optimizer(module, name="sgd", lr=0.1, decay="no-biases"), module, 0.0)
    assert {name for name, by in moved.items() if by.any()} == {"0.weight", "1.weight", "2.weight", "token"}


def test_nesterov_looks_ahead() -> None:
    module = _module()
    optimizer = build_optimizer(module, name="sgd-nesterov", lr=0.1, weight_decay=0.0, momentum=0.5)
    torch.testing.assert_close(_step(optimizer, module, 1.0)["0.bias"], torch.full((4,), -0.15))


def test_caffes_momentum_is_state() -> None:
    modules = [_module(), _module()]
    first, second = (build_optimizer(module, name="sgd-caffe", lr=0.1) for module in modules)
    _step(first, modules[0], 1.0)
    modules[1].load_state_dict(modules[0].state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))
    one, other = _step(first, modules[0], 2.0), _step(second, modules[1], 2.0)
    assert all(torch.equal(one[name], other[name]) for name in one)
    fresh = _step(build_optimizer(modules[1], name="sgd-caffe", lr=0.1), modules[1], 2.0)
    assert not torch.equal(one["0.weight"], fresh["0.weight"])
