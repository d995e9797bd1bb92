"""When to stop: a loss that is not finite, a signal, a launcher that is gone; on all ranks at the same step.

Nothing here makes the host wait for the device: the values of a step are read two steps later.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from castssl import distributed
from castssl.errors import ContractError, Diverged
from castssl.superpixel_labels import ADVICE, take_strays

SIGNALS = (signal.SIGTERM, signal.SIGINT, *((signal.SIGUSR1,) if sys.platform != "win32" else ()))
REQUEUE = "SIGUSR1"
"""The signal by which a cluster announces the end of a job that is to be requeued."""
NEXT = "finishing this step and saving; Ctrl-C again ends at once"
APART = 1.0
"""Seconds between two Ctrl-C that were both meant; a terminal and a launcher pass on the same one."""
TIMEOUT = 60.0
"""Seconds to wait for SLURM's controller."""
LAG = 2
"""How many steps the host may run ahead of a GPU before it reads the loss."""


def launched() -> bool:
    """True if ``accelerate launch`` or ``torchrun`` started this process."""
    return not {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}.isdisjoint(os.environ)


class _StepRecord(NamedTuple):
    step: int
    value: Tensor
    """(4 + n,) on the host: the loss summed over ranks and batches, how many ranks are to stop,
    how many of them by :data:`REQUEUE`, how many pixels have labels out of range, and the n losses here."""
    batches: tuple[int, ...]
    done: torch.cuda.Event | None


class LossMonitor:
    """Collects losses and signals, and agrees on them between ranks once per optimizer step.

    Args:
        device: where losses are.
        describe_batch: a sentence on the images of such batches of this rank.
    """

    def __init__(
        self, device: torch.device, describe_batch: Callable[[Sequence[int]], str] = lambda _: ""
    ) -> None:
        self.reason = ""
        """Why this process is to stop; empty as long as it is not."""
        self._since = 0.0
        self._device, self._describe_batch = device, describe_batch
        self._losses: list[tuple[int, Tensor]] = []
        self._records: deque[_StepRecord] = deque()
        self._last: deque[tuple[int, float]] = deque(maxlen=5)
        self._launcher = os.getppid() if launched() else None
        self._process = os.getpid()

    def add(self, loss: Tensor, batch: int = 0) -> None:
        """Take note of the loss, a scalar on the device, of this rank's batch, counted over all epochs."""
        self._losses.append((batch, loss.detach().float()))

    def step(self, step: int) -> bool:
        """Close optimizer step ``step``: True if all ranks shall stop now.  Called by all ranks.

        Raises:
            ContractError: if a segment of this or an earlier step was out of range on a device.
            Diverged: if a loss of this or an earlier step was not finite, on whichever rank.
        """
        if self._launcher is not None and os.getppid() != self._launcher:
            self.reason = self.reason or "the end of its launcher"
        stopping = self._push(step)
        any_stopping = self._drain(LAG if self._device.type == "cuda" else 0)
        return stopping if distributed.world() == 1 else any_stopping

    def settle(self) -> None:
        """Wait for the device and check every loss so far.

        Raises:
            Diverged: as :meth:`step`.
        """
        self._drain(0)

    def _push(self, step: int) -> bool:
        stopping = bool(self.reason)
        losses = torch.stack([loss for _, loss in self._losses] or [torch.zeros((), device=self._device)])
        requeue = self.reason == REQUEUE
        flags = (losses.new_full((), float(flag)) for flag in (stopping, requeue))
        value = torch.stack([losses.sum(), *flags, take_strays(self._device)])
        if distributed.world() > 1:
            dist.all_reduce(value)
        value, done = torch.cat([value, losses]), None
        if value.is_cuda:
            value = torch.empty(len(value), pin_memory=True).copy_(value, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        self._records.append(_StepRecord(step, value, tuple(batch for batch, _ in self._losses), done))
        self._losses = []
        return stopping

    def _drain(self, left: int) -> bool:
        stop = False
        while len(self._records) > left:
            record = self._records.popleft()
            if record.done is not None:
                record.done.synchronize()
            total, stopping, requeue, strays, *losses = record.value.tolist()
            if strays:
                raise ContractError(
                    f"{strays:.0f} pixels of the images of step {record.step} have segments beyond the"
                    f" capacity of the superpixels, or of the model, and joined no token; {ADVICE}"
                )
            if not math.isfinite(total):
                pairs = zip(record.batches, losses, strict=False)
                bad = [batch for batch, loss in pairs if not math.isfinite(loss)]
                raise Diverged(self._story(record.step, total, bad))
            self._last.append((record.step, total / max(1, len(record.batches) * distributed.world())))
            stop |= stopping > 0
            if requeue:
                self.reason = REQUEUE
            elif stopping:
                self.reason = self.reason or "another rank"
        return stop

    def _story(self, step: int, value: float, bad: Sequence[int]) -> str:
        before = ", ".join(f"{loss:.4g} (step {number})" for number, loss in self._last) or "none"
        images = self._describe_batch(bad) if bad else "Another process had this loss and names its images."
        return (
            f"the loss of step {step} is {value}, expected a finite number; the losses before: {before}."
            f" {images} The checkpoints hold no trace of it: lower --lr, lengthen --warmup-epochs, or use"
            " --precision bf16 or fp32 in a new --out"
        )

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within this context SIGTERM, SIGINT and SIGUSR1 ask to stop; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # A forked data worker: it ends with this process.
        if self.reason and number == signal.SIGINT and time.monotonic() - self._since > APART:
            raise KeyboardInterrupt
        if not self.reason:
            self._since = time.monotonic()
            with suppress(OSError):  # The terminal may be closed.
                os.write(2, f"\n{signal.Signals(number).name}: {NEXT}\n".encode())
        self.reason = self.reason or signal.Signals(number).name
        if sys.platform != "win32":
            # A signal to the whole process group ends the data workers, too; the loader's own handler would
            # raise in the middle of the step that is to be finished.
            signal.signal(signal.SIGCHLD, lambda *_: None)


def resume_command(config: Path, typed: Sequence[str] = ()) -> str:
    """The command that continues the run with the settings in ``config``, from the same working folder.

    Args:
        config: the run's ``config.json``.
        typed: the flags that ``config`` does not keep.

    It has the launcher, and the launcher's options, of the command that started this run.
    """
    return shlex.join([*_launcher_command(), sys.argv[0], "--config", str(config), *typed])


def requeue() -> str:
    """Put this SLURM job back into the queue: the result, in words.

    ``scontrol`` ends the job at once, so this is the last thing that a run does.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return ""
    try:
        result = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} could not be requeued ({error}); submit it again"
    if result.returncode:
        return f"job {job} could not be requeued ({result.stderr.strip()}); submit it again"
    return f"job {job} is requeued and goes on from there"


def _launcher_command() -> list[str]:
    if not launched():
        return ["python" if shutil.which("python") == sys.executable else sys.executable]
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return parent[: parent.index(sys.argv[0])]
    except (OSError, ValueError):  # No /proc, the launcher has ended, or names the recipe in another way.
        return ["accelerate", "launch"]
