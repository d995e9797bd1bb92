"""Files in a run's folder: those that no run made, and the settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from castssl import config, step_files
from castssl.errors import ConfigError
from castssl.run_lock import LOCK
from castssl.training import logging

WRITTEN = (config.FILE, logging.FILE, "once.json", "results.json", "encoder.safetensors", "probe.safetensors")
"""Files that a run writes, beside those in folders of its own."""


def foreign(folder: Path) -> list[str]:
    """The files in ``folder`` that a run would replace and no run made; none if a run made the folder.

    The ``config.json`` of a run may lie there alone, for a new run with its settings.
    """
    written = folder / logging.FILE
    # A copied run may lack the lock, as hidden files are easily left out.
    of_run = (folder / LOCK).exists() or step_files.exist(folder / step_files.FOLDER)
    if of_run or (written.is_file() and written.read_bytes()[:8] == b'{"time":'):
        return []
    replaced = [name for name in WRITTEN if os.path.lexists(folder / name)]
    replaced += sorted(path.name for path in folder.glob("diverged*.txt"))
    replaced += ["pictures"] if any((folder / "pictures").glob("step-*")) else []
    return [] if replaced == [config.FILE] and "out" in (settings_of(folder) or {}) else replaced


def settings_of(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None if it has none, or a power cut left the file damaged.

    The checkpoint holds them, too, and they are compared there.
    """
    try:
        return config.load_plain(folder / config.FILE)
    except ConfigError:
        return None
