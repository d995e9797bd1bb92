"""Runs: optimizers, schedules, checkpoints, logs, and the loop's surroundings.  There is no trainer class."""

from castssl.training.batch_norm import check_batch
from castssl.training.checks import FirstBatch, fits
from castssl.training.epoch_schedule import epoch_cosine
from castssl.training.labels import check_labels
from castssl.training.optim import build_optimizer, scaled_rate, set_rate
from castssl.training.run import STOPPED, Run, start
from castssl.training.schedule import warmup_cosine

__all__ = [
    "STOPPED",
    "FirstBatch",
    "Run",
    "build_optimizer",
    "check_batch",
    "check_labels",
    "epoch_cosine",
    "fits",
    "scaled_rate",
    "set_rate",
    "start",
    "warmup_cosine",
]
