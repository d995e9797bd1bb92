"""When to stop: a loss that is not finite, a signal, a launcher that is gone; on all ranks at the same step.

Nothing here makes the host wait for the device: what a step found is looked at two steps later.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from castssl import ranks
from castssl.errors import Diverged

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
NEXT = "finishing this step and saving; Ctrl-C again ends at once"
APART = 1.0
"""Seconds between two Ctrl-C that were both meant; a terminal and a launcher pass on the same one."""
LAG = 2
"""How many steps the host may run ahead of a GPU before it looks at the loss."""


def launched() -> bool:
    """True if ``accelerate launch`` started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ


class _Look(NamedTuple):
    step: int
    value: Tensor
    """(2,) on the host: the loss summed over ranks and batches, and how many ranks were told to stop."""
    batches: int
    done: torch.cuda.Event | None


class Watch:
    """Collects losses and signals, and agrees on them between ranks once per optimizer step."""

    def __init__(self, device: torch.device) -> None:
        self.reason = ""
        """Why this process was told to stop; empty while nothing did."""
        self._since = 0.0
        self._device = device
        self._losses: list[Tensor] = []
        self._looks: deque[_Look] = deque()
        self._last: deque[tuple[int, float]] = deque(maxlen=5)
        self._launcher = os.getppid() if launched() else None
        self._process = os.getpid()

    def add(self, loss: Tensor) -> None:
        """Take note of a batch's loss, a scalar on the device."""
        self._losses.append(loss.detach().float())

    def step(self, step: int) -> bool:
        """Close optimizer step ``step``: True if all ranks shall stop now.  Called by all ranks.

        Raises:
            Diverged: if a loss of this or an earlier step was not finite, on whichever rank.
        """
        if self._launcher is not None and os.getppid() != self._launcher:
            self.reason = self.reason or "the end of its launcher"
        stopping = self._push(step)
        told = self._drain(LAG if self._device.type == "cuda" else 0)
        return stopping if ranks.world() == 1 else told

    def settle(self) -> None:
        """Wait for the device and look at every loss so far.

        Raises:
            Diverged: as :meth:`step`.
        """
        self._drain(0)

    def _push(self, step: int) -> bool:
        stopping = bool(self.reason)
        losses = self._losses or [torch.zeros((), device=self._device)]
        value = torch.stack([torch.stack(losses).sum(), losses[0].new_full((), float(stopping))])
        if ranks.world() > 1:
            distributed.all_reduce(value)
        done = None
        if value.is_cuda:
            value = torch.empty(2, pin_memory=True).copy_(value, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self._looks.append(_Look(step, value, len(losses) * ranks.world(), done))
        self._losses = []
        return stopping

    def _drain(self, left: int) -> bool:
        told = False
        while len(self._looks) > left:
            look = self._looks.popleft()
            if look.done is not None:
                look.done.synchronize()
            total, stopping = look.value.tolist()
            if not math.isfinite(total):
                raise Diverged(self._story(look.step, total))
            self._last.append((look.step, total / look.batches))
            told |= stopping > 0
        return told

    def _story(self, step: int, value: float) -> str:
        before = ", ".join(f"{loss:.4g} (step {at})" for at, loss in self._last) or "none"
        return (
            f"the loss of step {step} is {value}, expected a finite number; the losses before: {before}."
            " The checkpoints hold no trace of it: lower --lr, lengthen --warmup-epochs, or use --precision"
            " bf16 or fp32 in a new --out"
        )

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within this context SIGTERM, SIGINT and SIGUSR1 ask to stop; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._told) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # A forked data worker: it ends with this process.
        if self.reason and number == signal.SIGINT and time.monotonic() - self._since > APART:
            raise KeyboardInterrupt
        if not self.reason:
            self._since = time.monotonic()
            with suppress(OSError):  # Nobody may be listening any more.
                os.write(2, f"\n{signal.Signals(number).name}: {NEXT}\n".encode())
        self.reason = signal.Signals(number).name
        if hasattr(signal, "SIGCHLD"):
            # A signal to the whole process group ends the data workers, too; the loader's own handler would
            # raise in the middle of the step that is to be finished.
            signal.signal(signal.SIGCHLD, lambda *_: None)
