"""Where a run stands in its data, and how that, model and optimizer get into a checkpoint and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object, set_seed
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from castssl import config, distributed, step_files
from castssl.config import RunConfig
from castssl.data.inventory import Inventory, differences
from castssl.errors import CastError, ConfigError, DataError, Diverged
from castssl.training import checkpoint
from castssl.training.logging import Log
from castssl.training.protocols import Follows, Loader, Trained
from castssl.training.random_state import random_state, set_random_state
from castssl.training.run_folder import check_same
from castssl.training.sharded import save_sharded

T = TypeVar("T")
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class TrainState:
    """Counts steps and batches, and saves and restores everything that a run's future depends on."""

    def __init__(self, cfg: RunConfig, folder: Path, accelerator: Accelerator, log: Log) -> None:
        self.step = 0
        """Optimizer steps done."""
        self.batch = 0
        """Batches done on this rank, over all epochs."""
        self._cfg, self._folder, self._accelerator, self._log = cfg, folder, accelerator, log
        self._batches = 0
        self._ended = False
        self._random: Mapping[str, Any] | None = None
        self._started = False
        self._model: nn.Module | None = None
        self._optimizer: Any = None
        self._damaged: dict[Path, str] = {}
        self._images: Inventory | None = None
        self.followed: Follows | None = None
        """What is saved and restored beside model and optimizer."""
        self.weights: Trained | None = None
        """What the run leaves in the end, saved for those who use a checkpoint of it before."""
        self.notes: list[str] = []
        """Notes for the user on how the run continues."""

    @property
    def epoch(self) -> tuple[int, int]:
        """The epoch that the next batch belongs to, and its place in it, both from 0."""
        return divmod(self.batch, self._batches)

    @property
    def epoch_after(self) -> tuple[int, int]:
        """What :attr:`epoch` will be after the current batch."""
        return divmod(self.batch + 1, self._batches)

    @property
    def rate(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def plan(self, loader: Loader) -> int:
        """The optimizer steps of all epochs; all ranks call this together.

        Raises:
            DataError: if the loader has no batch.
            ConfigError: if an epoch had another length before, the images are not those that the run began
                with, or an optimizer step takes all epochs.
        """
        batches = len(loader)
        if self._model is None:
            raise ConfigError("run.steps came before run.prepare(objective, optimizer); call that first")
        if not batches:
            raise DataError("the loader has no batch: it has fewer images than a batch; lower --batch-size")
        inventory = self._on_main(loader.inventory)
        other = [] if self._images is None else differences(self._images, inventory)
        if self._batches not in (0, batches):
            changes = "\n  ".join(["", *other, ""]) if other else " "
            raise ConfigError(
                f"{self._folder} has a run with {self._batches} batches per epoch, now there are {batches}:"
                f" the images or --batch-size changed;{changes}restore them"
                " or choose another --out"
            )
        if other and not self._cfg.other_images:
            listed = "\n  ".join([f"{self._folder} has a run that began with other images:", *other])
            raise ConfigError(
                f"{listed}\nrestore them, choose another --out, or continue with these: --other-images"
            )
        self.notes += [f"continues with other images: {'; '.join(other)}"] if other else []
        self._batches, self._images = batches, inventory
        total = self._cfg.total_steps(batches)
        if not total and (every := self._cfg.epochs * batches):
            raise ConfigError(
                f"--accumulate: got {self._cfg.accumulate}, expected at most all {every} batches"
            )
        return total

    def advance(self, sync: bool) -> bool:
        """Count a batch, and with ``sync`` a step: True for the first step from an epoch's end on."""
        self.batch += 1
        self.step += sync
        self._ended |= self.batch % self._batches == 0
        ended = self._ended and sync
        self._ended &= not sync
        return ended

    def restore_random(self) -> None:
        """Before the first batch: go on with the checkpoint's random streams, or give each rank its own."""
        if self._random is not None:
            set_random_state(self._random, self._accelerator.device)
        elif not self._started:
            seeds = np.random.SeedSequence([self._cfg.seed, distributed.rank(), self.step])
            set_seed(int(seeds.generate_state(1)[0]))
        self._random, self._started = None, True

    def save(self, describe_batch: Callable[[Sequence[int]], str] = lambda _: "") -> Path:
        """Write a checkpoint; all ranks call this together.  ``describe_batch`` is as in ``LossMonitor``."""
        self._check_weights(describe_batch)
        place = {
            "castssl": version("castssl"),
            "config": json.dumps(config.plain(self._cfg)),
            "step": self.step,
            # Between optimizer steps, so nothing of a half accumulated one is taken for done.
            "batch": self.step * self._cfg.accumulate,
            "batches": self._batches,
            "images": self._images,
            "followed": None if self.followed is None else dict(self.followed.state_dict()),
            "log": self._log.position(),
            "random": gather_object([random_state(self._accelerator.device)]),
        }
        folder = self._folder / step_files.FOLDER
        how: dict[str, Any] = {"step": self.step, "keep": self._cfg.keep, "damaged": self._damaged}
        self._damaged = {}  # From here on a file of that name is a new one.
        if self._accelerator.distributed_type in SHARDED:
            return save_sharded(folder, self._accelerator, place, **how)
        if self._accelerator.is_main_process:
            checkpoint.save(folder, {**place, **self._weights()}, **how)
        self._accelerator.wait_for_everyone()
        return step_files.path_of(folder, self.step)

    def resume(self, model: nn.Module, optimizer: Optimizer) -> bool:
        """Take the prepared pair, filled from the last checkpoint if there is one: True if there was."""
        self._model, self._optimizer = model, optimizer
        latest = self._on_main(lambda: step_files.latest(self._folder / step_files.FOLDER))
        path, self._damaged = latest
        self.notes += latest.story()
        if path is None:
            return False
        state = step_files.read(path)
        check_same(json.loads(state["config"]), self._cfg, self._folder)
        self._images = state.get("images")
        if path.is_dir() != (self._accelerator.distributed_type in SHARDED):
            how = "by" if path.is_dir() else "without"
            raise ConfigError(f"{path} was written {how} FSDP or DeepSpeed; go on with the same launch file")
        if path.is_dir():
            self._accelerator.load_state(str(path))
        else:
            self._fill(state, path)
        self.step, self.batch, self._batches = state["step"], state["batch"], state["batches"]
        if distributed.rank() < len(state["random"]):
            self._random = state["random"][distributed.rank()]
        self._log.rewind(state["log"])
        if self.followed is not None and state.get("followed") is not None:
            self.followed.load_state_dict(state["followed"])
        return True

    def _on_main(self, call: Callable[[], T]) -> T:
        """What ``make`` returns or raises on the main process, on all processes."""
        result: T | CastError | None = None
        if self._accelerator.is_main_process:
            try:
                result = call()
            except CastError as error:
                result = error
        result = broadcast_object_list([result])[0]
        if isinstance(result, CastError):
            raise result
        return cast(T, result)

    def _weights(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {
            "module": self._bare().state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "weights": None if self.weights is None else dict(self.weights.state_dict()),
        }

    def _fill(self, state: Mapping[str, Any], path: Path) -> None:
        checkpoint.load_module(self._bare(), state["module"], path)
        try:
            self._optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ConfigError(
                f"the optimizer in {path} does not fit this run ({error}); a run that was begun before the"
                " class token learned at twice the rate goes on with --no-cls-token-twice"
            ) from error
        if self._accelerator.scaler is not None and state["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def _bare(self) -> nn.Module:
        module: nn.Module = self._accelerator.unwrap_model(self._model, keep_torch_compile=False)
        return module

    def _check_weights(self, describe_batch: Callable[[Sequence[int]], str]) -> None:
        """A loss can be finite and its gradient not; then the weights are not."""
        local = [part.to_local() if isinstance(part, DTensor) else part for part in self._bare().parameters()]
        if not torch.stack([part.isfinite().all() for part in local]).all():
            last = range(max(0, self.batch - self._cfg.accumulate), self.batch)
            raise Diverged(
                f"the weights are not finite after step {self.step}, so no checkpoint was written; the one"
                f" before is whole. {describe_batch(last)} Lower --lr, lengthen --warmup-epochs, or use"
                " --precision bf16 or fp32 in a new --out"
            )
