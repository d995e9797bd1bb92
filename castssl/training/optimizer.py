"""Optimizers, which weights decay, and the learning rate that fits a batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from lightly.utils.lars import LARS
from torch import nn
from torch.optim import Optimizer

from castssl.errors import ConfigError

Name = Literal["adamw", "lars", "sgd"]
Decay = Literal["all", "matrices", "weights"]
TABLES = ("cls_token", "positions")
"""Parameters, by the last part of their names, that are learned tokens and not weights."""


@runtime_checkable
class HasSummands(Protocol):
    """A module with parameters that are the sum of several parameters in the published model.

    Summands of one sum have the same gradient, so that an optimizer moves the sum so many times as far.
    """

    summands: Mapping[str, int]
    """How many parameters the published model has in place of one, by the module's own parameter names."""


def scaled_rate(rate: float, images: int, *, per: int = 256) -> float:
    """The learning rate for ``images`` per optimizer step (all ranks, all accumulated batches together).

    ``rate`` is meant for ``per`` images and scales linearly (https://arxiv.org/abs/1706.02677, section 2.1).
    """
    return rate * images / per


def build_optimizer(
    module: nn.Module,
    *,
    name: Name = "adamw",
    lr: float,
    weight_decay: float = 0.1,
    decay: Decay | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    trust: float = 0.001,
    summands: bool = True,
) -> Optimizer:
    """An optimizer of the parameters of ``module`` that require a gradient.

    Args:
        module: what is trained; the frozen parameters in it stay out.
        name: ``"adamw"`` (MoCo v3 with vision transformers), ``"lars"`` (large batches,
            https://arxiv.org/abs/1708.03888) or ``"sgd"`` with momentum (linear probes).
        lr: learning rate at a schedule's factor of 1, see :func:`set_rate`.
        weight_decay: decoupled for adamw, part of the gradient for the others.
        decay: ``"all"`` parameters as MoCo v3 has it, or the ``"matrices"`` only: no bias, nothing with fewer
            than two axes; or the ``"weights"`` only: nor class token or position table, as in DeiT.  By
            default ``"all"``; for lars always ``"matrices"``, since the parameters that do not decay are
            those that it moves by plain momentum.
        betas: of adamw.
        momentum: of lars and sgd.
        trust: the trust coefficient of lars.  The ratio is ``|w| / (|g| + weight_decay |w|)``; MoCo v3's own
            code has ``|w| / |g + weight_decay w|``.
        summands: multiply the learning rate of a parameter by the number of parameters that the published
            model has in its place (:class:`HasSummands`), such as 2 for the class token of an encoder with
            learned positions; False gives all parameters the same rate.

    Raises:
        ConfigError: if nothing requires a gradient, the name is unknown, or lars cannot do what is asked.
    """
    decay = decay or ("matrices" if name == "lars" else "all")
    if name == "lars" and (decay != "matrices" or weight_decay <= 0):
        raise ConfigError(
            f"lars got decay={decay!r}, weight_decay={weight_decay}; expected decay='matrices' and a positive"
            " weight_decay, because it scales only parameters that decay"
        )
    groups = _groups(module, weight_decay, decay)
    if summands:
        groups = [part for group in groups for part in _by_rate(group, lr, _multiples(module))]
    makers: dict[str, Callable[[], Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8),
        "lars": lambda: LARS(groups, lr=lr, momentum=momentum, trust_coefficient=trust),
        "sgd": lambda: torch.optim.SGD(groups, lr=lr, momentum=momentum),
    }
    if name not in makers:
        raise ConfigError(f"optimizer: got {name!r}, expected one of {', '.join(makers)}")
    optimizer = makers[name]()
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _groups(module: nn.Module, weight_decay: float, decay: Decay) -> list[dict[str, Any]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError(f"{type(module).__name__} has no parameter that requires a gradient to optimize")
    if decay == "all":
        return [{"params": trained, "weight_decay": weight_decay}]
    if decay not in {"matrices", "weights"}:
        raise ConfigError(f"decay: got {decay!r}, expected 'all', 'matrices' or 'weights'")
    # Imported late: timm takes seconds.
    from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]

    names = [name for name, _ in module.named_parameters() if name.rpartition(".")[2] in TABLES]
    spared = names if decay == "weights" else []
    groups = param_groups_weight_decay(module, weight_decay, no_weight_decay_list=spared)
    return cast("list[dict[str, Any]]", groups)


def _multiples(module: nn.Module) -> dict[nn.Parameter, int]:
    """The learning-rate multiples other than 1 of the parameters within a module."""
    holders = [part for part in module.modules() if isinstance(part, HasSummands)]
    return {
        part.get_parameter(name): count
        for part in holders
        for name, count in part.summands.items()
        if count != 1
    }


def _by_rate(group: dict[str, Any], lr: float, multiples: Mapping[nn.Parameter, int]) -> list[dict[str, Any]]:
    """A parameter group, and after it one for each learning-rate multiple that occurs in it."""
    found: dict[int, list[nn.Parameter]] = {1: []}
    for parameter in group["params"]:
        found.setdefault(multiples.get(parameter, 1), []).append(parameter)
    return [group | {"params": some, "lr": lr * count} for count, some in found.items() if some]


def set_rate(optimizer: Optimizer, scale: float) -> None:
    """Set each group's learning rate to ``scale`` times what it was built with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * scale
