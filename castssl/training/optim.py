"""Optimizers, which weights decay, and the learning rate that fits a batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args, runtime_checkable

import torch
from lightly.utils.lars import LARS
from torch import nn
from torch.optim import Optimizer

from castssl.contracts import Encoder
from castssl.errors import ConfigError

Name = Literal["adamw", "lars", "sgd", "sgd-nesterov", "sgd-caffe"]
Decay = Literal["all", "matrices", "weights", "no-biases"]
TABLES = ("cls_token", "positions")
"""Parameters, by the last part of their names, that are learned tokens and not weights."""


class RateMultiples(NamedTuple):
    """Factors of the learning rate by group; that of a bias multiplies that of its group."""

    backbone: float = 1.0
    """Of the parameters of the encoders (:class:`castssl.contracts.Encoder`) within the module."""
    head: float = 1.0
    """Of all other parameters."""
    biases: float = 1.0
    """Of the parameters whose names end in ``bias``."""


SAME_RATE = RateMultiples()


@runtime_checkable
class HasSummands(Protocol):
    """A module with parameters that are the sum of several parameters in the published model.

    Summands of one sum have the same gradient, so an optimizer moves the sum so many times as far.
    """

    summands: Mapping[str, int]
    """How many parameters the published model has in place of one, by the module's own parameter names."""


class CaffeSGD(Optimizer):
    """SGD whose momentum buffer holds gradients times the learning rates of their own steps.

    ``v = momentum v + lr (g + weight_decay w); w = w - v``, as in Caffe and in the VOC code released with
    CAST.  ``torch.optim.SGD`` multiplies its buffer by the present learning rate, which is not the same as
    soon as the rate changes.

    Args:
        params: parameters or groups.
        lr: learning rate.
        momentum: share of the buffer that is kept.
        weight_decay: part of the gradient.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the loss of ``closure`` if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                buffer.mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
                parameter.sub_(buffer)
        return loss


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
    multiples: RateMultiples = SAME_RATE,
) -> Optimizer:
    """An optimizer of the parameters of ``module`` that require a gradient.

    Args:
        module: what is trained; the frozen parameters in it stay out.
        name: ``"adamw"`` (MoCo v3 with vision transformers), ``"lars"`` (large batches,
            https://arxiv.org/abs/1708.03888) or ``"sgd"`` with momentum (linear probes); ``"sgd-nesterov"``
            as in Segmenter; ``"sgd-caffe"`` for the momentum of the VOC code released with CAST
            (:class:`CaffeSGD`).
        lr: learning rate at a schedule's factor of 1, see :func:`set_rate`.
        weight_decay: decoupled for adamw, part of the gradient for the others.
        decay: ``"all"`` parameters as MoCo v3 has it, or the ``"matrices"`` only: no bias, nothing with fewer
            than two axes; or the ``"weights"`` only: nor class token or position table, as in DeiT; or with
            ``"no-biases"`` all whose names do not end in ``bias``, as in the released VOC code.  By default
            ``"all"``; for lars always ``"matrices"``, since the parameters that do not decay are those that
            it moves by plain momentum.
        betas: of adamw.
        momentum: of lars and sgd.
        trust: the trust coefficient of lars.  The ratio is ``|w| / (|g| + weight_decay |w|)``; MoCo v3's own
            code has ``|w| / |g + weight_decay w|``.
        summands: multiply the learning rate of a parameter by the number of parameters that the published
            model has in its place (:class:`HasSummands`), such as 2 for the class token of an encoder with
            learned positions; False leaves the rates as they are.
        multiples: of the learning rate; the released VOC code has 1 for the backbone, 10 for the head, and 2
            for biases, so 20 for the head's biases.

    Raises:
        ConfigError: if nothing requires a gradient, the name is unknown, or lars cannot do what is asked.
    """
    decay = decay or ("matrices" if name == "lars" else "all")
    if name == "lars" and (decay != "matrices" or weight_decay <= 0):
        raise ConfigError(
            f"lars got decay={decay!r}, weight_decay={weight_decay}; expected decay='matrices' and a positive"
            " weight_decay, because it scales only parameters that decay"
        )
    rates = _multiples(module, multiples, summands)
    groups = [part for group in _groups(module, weight_decay, decay) for part in _by_rate(group, lr, rates)]
    makers: dict[str, Callable[[], Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8),
        "lars": lambda: LARS(groups, lr=lr, momentum=momentum, trust_coefficient=trust),
        "sgd": lambda: torch.optim.SGD(groups, lr=lr, momentum=momentum),
        "sgd-nesterov": lambda: torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True),
        "sgd-caffe": lambda: CaffeSGD(groups, lr=lr, momentum=momentum),
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
    if decay not in get_args(Decay):
        raise ConfigError(f"decay: got {decay!r}, expected one of {', '.join(get_args(Decay))}")
    if decay == "no-biases":
        biases = {part for name, part in module.named_parameters() if _is_bias(name)}
        parts = [[part for part in trained if (part in biases) == spared] for spared in (False, True)]
        decays = zip(parts, (weight_decay, 0.0), strict=True)
        return [{"params": part, "weight_decay": by} for part, by in decays if part]
    # Imported late: timm takes seconds.
    from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]

    names = [name for name, _ in module.named_parameters() if name.rpartition(".")[2] in TABLES]
    spared = names if decay == "weights" else []
    groups = param_groups_weight_decay(module, weight_decay, no_weight_decay_list=spared)
    return cast("list[dict[str, Any]]", groups)


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"


def _multiples(module: nn.Module, by: RateMultiples, summands: bool) -> dict[nn.Parameter, float]:
    """The learning-rate multiple of each parameter within a module."""
    encoders = [part for part in module.modules() if isinstance(part, Encoder)]
    backbone = {parameter for encoder in encoders for parameter in encoder.parameters()}
    multiples = {
        parameter: (by.backbone if parameter in backbone else by.head) * (by.biases if _is_bias(name) else 1)
        for name, parameter in module.named_parameters()
    }
    for part in module.modules() if summands else ():
        if isinstance(part, HasSummands):
            for name, count in part.summands.items():
                multiples[part.get_parameter(name)] *= count
    return multiples


def _by_rate(
    group: dict[str, Any], lr: float, multiples: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """A parameter group for each learning-rate multiple that occurs in a group; first that of 1."""
    parameters: dict[float, list[nn.Parameter]] = {1: []}
    for parameter in group["params"]:
        parameters.setdefault(multiples[parameter], []).append(parameter)
    return [group | {"params": some, "lr": lr * count} for count, some in parameters.items() if some]


def set_rate(optimizer: Optimizer, scale: float) -> None:
    """Set each group's learning rate to ``scale`` times what it was built with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * scale
