"""Optimizers, which weights decay, and the learning rate that fits a batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from lightly.utils.lars import LARS
from torch import nn
from torch.optim import Optimizer

from castssl.errors import ConfigError
from castssl.training.caffe_sgd import CaffeSGD
from castssl.training.rate_multiples import SAME_RATE, RateMultiples, by_rate, is_bias, multiples_of

Name = Literal["adamw", "lars", "sgd", "sgd-nesterov", "sgd-caffe"]
Decay = Literal["all", "matrices", "weights", "no-biases"]
TABLES = ("cls_token", "positions")
"""Parameters, by the last part of their names, that are learned tokens and not weights."""


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
    rates = multiples_of(module, multiples, summands)
    groups = [part for group in _groups(module, weight_decay, decay) for part in by_rate(group, lr, rates)]
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
        biases = {part for name, part in module.named_parameters() if is_bias(name)}
        parts = [[part for part in trained if (part in biases) == spared] for spared in (False, True)]
        decays = zip(parts, (weight_decay, 0.0), strict=True)
        return [{"params": part, "weight_decay": by} for part, by in decays if part]
    # Imported late: timm takes seconds.
    from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]

    names = [name for name, _ in module.named_parameters() if name.rpartition(".")[2] in TABLES]
    spared = names if decay == "weights" else []
    groups = param_groups_weight_decay(module, weight_decay, no_weight_decay_list=spared)
    return cast("list[dict[str, Any]]", groups)


def set_rate(optimizer: Optimizer, scale: float) -> None:
    """Set each group's learning rate to ``scale`` times what it was built with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * scale
