"""The learning rate falls when a measure stops rising, and training ends when it does not rise for long."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import ReduceLROnPlateau


class Plateau:
    """The state of a schedule that follows a measure; :meth:`castssl.training.run.Run.follow` keeps it.

    The rate falls by the rule of ``torch.optim.lr_scheduler.ReduceLROnPlateau``: more than ``patience`` times
    in a row without a measure that is a ten-thousandth above the best.  The end comes after ``stop_after``
    measures in a row that are not above the best at all, as in the code released with HSVLT
    (https://arxiv.org/abs/2407.16244).

    Attributes:
        stopped: why training ends, as a sentence without a capital; "" if it goes on.

    Args:
        lr: the highest learning rate; torch's rule ends below a change of 1e-8.
        patience: measures without a rise before the rate falls; None never lets it fall.
        factor: of the rate when it falls.
        stop_after: measures without a rise before training ends; 0 never ends it.
        measured_with: the evaluation settings, as :func:`castssl.config.measured_with` returns them.  A
            measure is not compared with those of other settings, which a resumed run may have: the best and
            the count begin anew, while the rate stays.  Training that has ended does not begin again.
    """

    def __init__(
        self,
        lr: float,
        *,
        patience: int | None = None,
        factor: float = 0.1,
        stop_after: int = 0,
        measured_with: str = "",
    ) -> None:
        self.lr, self.stop_after, self.measured_with = lr, stop_after, measured_with
        # torch's rule moves the rate of an optimizer; here that of one that is never used.
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
        self._rule: ReduceLROnPlateau | None = None
        if patience is not None:
            self._rule = ReduceLROnPlateau(self._optimizer, "max", factor, patience)
        self.best, self.bad = -inf, 0
        self.stopped = ""

    @property
    def factor(self) -> float:
        """What the learning rate is multiplied with."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate / self.lr

    def step(self, value: float | None, *, warming: bool = False) -> None:
        """Take a measure into account; all processes call this together, and the main one's value counts.

        Args:
            value: higher is better; None, where nothing is measured, changes nothing.
            warming: the rate still rises, and a fall is given up again, as in the released code.
        """
        value = broadcast_object_list([value])[0]
        if value is None:
            return
        if self._rule is not None:
            self._rule.step(value)
        if warming:
            self._optimizer.param_groups[0]["lr"] = self.lr
        self.bad = 0 if value > self.best else self.bad + 1
        self.best = max(self.best, value)
        if 0 < self.stop_after <= self.bad:
            self.stopped = f"no measure of the last {self.bad} was above {self.best:.4g}"

    def state_dict(self) -> dict[str, Any]:
        """Numbers and text alone."""
        rule = None if self._rule is None else self._rule.state_dict()
        rate = self._optimizer.param_groups[0]["lr"]
        counts = {"rule": rule, "rate": rate, "best": self.best, "bad": self.bad, "stopped": self.stopped}
        return {**counts, "measured_with": self.measured_with}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._optimizer.param_groups[0]["lr"], self.stopped = state["rate"], state["stopped"]
        # Earlier versions did not keep the settings; they may be the same.
        if state.get("measured_with", self.measured_with) != self.measured_with:
            return
        if self._rule is not None and state["rule"] is not None:
            self._rule.load_state_dict(state["rule"])
        self.best, self.bad = state["best"], state["bad"]
