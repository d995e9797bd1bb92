"""The Accelerator of a run."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    ProjectConfiguration,
)

from castssl.config import RunConfig
from castssl.errors import ConfigError


def make_accelerator(cfg: RunConfig, folder: Path) -> Accelerator:
    """The Accelerator that the settings ask for; ``ConfigError`` if it is not available here."""
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
        # DeepSpeed requires a number, and computes throughput from it; it does not see the loader.
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    return accelerator
