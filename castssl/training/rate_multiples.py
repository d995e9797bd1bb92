"""Learning rates of groups of parameters: of backbone, head and biases, and of sums of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import nn

from castssl.contracts import Encoder


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


def is_bias(name: str) -> bool:
    """True if a parameter of this name is a bias."""
    return name.rpartition(".")[2] == "bias"


def multiples_of(module: nn.Module, by: RateMultiples, summands: bool) -> dict[nn.Parameter, float]:
    """The learning-rate multiple of each parameter within a module."""
    encoders = [part for part in module.modules() if isinstance(part, Encoder)]
    backbone = {parameter for encoder in encoders for parameter in encoder.parameters()}
    multiples = {
        parameter: (by.backbone if parameter in backbone else by.head) * (by.biases if is_bias(name) else 1)
        for name, parameter in module.named_parameters()
    }
    for part in module.modules() if summands else ():
        if isinstance(part, HasSummands):
            for name, count in part.summands.items():
                multiples[part.get_parameter(name)] *= count
    return multiples


def by_rate(
    group: dict[str, Any], lr: float, multiples: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """A parameter group for each learning-rate multiple that occurs in a group; first that of 1."""
    parameters: dict[float, list[nn.Parameter]] = {1: []}
    for parameter in group["params"]:
        parameters.setdefault(multiples[parameter], []).append(parameter)
    return [group | {"params": some, "lr": lr * count} for count, some in parameters.items() if some]
