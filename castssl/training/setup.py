"""The first line of a recipe: claim the run's folder, seed everything, set up Accelerate."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    ProjectConfiguration,
    set_seed,
)

from castssl import config
from castssl.config import RunConfig
from castssl.errors import ConfigError
from castssl.training.logging import check_tracker, start_trackers
from castssl.training.run import Run
from castssl.training.run_folder import claim, folder_of


def start(cfg: RunConfig, *, name: str | None = None) -> tuple[Run, Accelerator]:
    """The run that ``cfg`` asks for, and the Accelerator to train with.

    All processes begin with the same seed, so that they build the same model; from the first batch on each
    has random streams of its own.

    Args:
        cfg: the recipe's settings.
        name: the recipe's name in the folder's default; by default that of the file that defines ``cfg``.

    Raises:
        ConfigError: before any work, if the folder, the tracker or the precision cannot be had.
    """
    check_tracker(cfg.track)
    if cfg.start_method != "auto":
        # Of every loader, those of evaluations included.
        multiprocessing.set_start_method(cfg.start_method, force=True)
    folder = folder_of(cfg, name)
    accelerator = _accelerator(cfg, folder)
    lock = claim(folder, cfg) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    set_seed(cfg.seed)
    if cfg.track != "none":
        start_trackers(accelerator, folder.name, config.plain(cfg))
    return Run(cfg, folder, accelerator, lock), accelerator


def _accelerator(cfg: RunConfig, folder: Path) -> Accelerator:
    accumulation = GradientAccumulationPlugin(num_steps=cfg.accumulate, sync_with_dataloader=False)
    try:
        accelerator = Accelerator(
            # Otherwise several processes on a machine without a GPU would not know of each other.
            cpu=not torch.accelerator.is_available(),
            mixed_precision="no" if cfg.precision == "fp32" else cfg.precision,
            gradient_accumulation_plugin=accumulation,
            log_with=None if cfg.track == "none" else cfg.track,
            project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "track")),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
        )
    except ValueError as error:
        raise ConfigError(f"--precision {cfg.precision} on this machine: {error}") from error
    if cfg.precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("--precision fp16 needs a GPU and this run has none; take bf16 or fp32")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed insists on a number and reckons throughput with it; the loader is not shown to it.
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    return accelerator
