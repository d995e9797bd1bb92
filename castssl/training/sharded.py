"""Checkpoints under FSDP and DeepSpeed, where no process holds the whole model: each writes its share.

There a checkpoint is a folder, written by ``accelerator.save_state`` beside :data:`STATE`, which holds what
Accelerate does not know.  Those libraries read their own files, with pickle among them: go on only from
folders that you trust.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from castssl.files import aside_of, remove, sync_folder, translate_os_error
from castssl.step_files import STATE, SUMS, path_of, sums_of
from castssl.training.checkpoint import prune, write_state


def save_sharded(
    folder: Path,
    accelerator: Any,
    place: Mapping[str, Any],
    *,
    step: int,
    keep: int,
    damaged: Collection[Path] = (),
) -> Path:
    """Let each process write its share of model and optimizer; every process calls this.

    For the rest see :func:`castssl.training.checkpoint.save`.
    """
    path = path_of(folder, step).with_suffix("")
    aside = aside_of(path)
    if accelerator.is_main_process:
        remove(aside)  # A run of more processes may have been killed here.
    accelerator.wait_for_everyone()
    with translate_os_error(path, "checkpoint"):
        accelerator.save_state(str(aside))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_state(aside / STATE, {**place, SUMS: sums_of(aside)})
            remove(path)
            os.replace(aside, path)
            sync_folder(folder)
            prune(folder, keep, {*damaged} - {path})
    accelerator.wait_for_everyone()
    return path
