"""SGD with momentum as Caffe has it, of the VOC code released with CAST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


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
