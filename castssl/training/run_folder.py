"""A run's folder: its name, its lock, and the comparison of its settings."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import IO, Any

from castssl import config, fresh_folders, step_files
from castssl.config import RunConfig
from castssl.errors import ConfigError
from castssl.run_lock import LOCK, hold
from castssl.training import logging
from castssl.training.foreign import foreign, settings_of
from castssl.training.once import ONCE

STATE = {config.FILE, logging.FILE, "once.json", "results.json"}
"""Files that a run writes and also reads."""


def folder_of(cfg: RunConfig, recipe: str | None = None) -> Path:
    """``--out``, or ``runs/RECIPE-DATA-SEED`` by the file that defines the config and its field ``data``."""
    if cfg.out:
        return Path(cfg.out)
    if recipe is None:
        recipe = Path(inspect.getfile(type(cfg))).stem
    place = str(config.plain(cfg).get("data", "")).rpartition(":")[2]
    data = re.sub(r"[^\w.-]+", "-", Path(place).resolve().name if place else "")
    return Path("runs") / "-".join(filter(None, [recipe, data, str(cfg.seed)]))


def claim(folder: Path, cfg: RunConfig) -> IO[Any]:
    """Make or enter a run's folder and write ``config.json``; the folder is locked while the result is open.

    A folder that this makes is removed by :func:`castssl.fresh_folders.discard` until the log has a line.

    Raises:
        ConfigError: if another process writes in it, it holds a run with other settings, or without
            ``cfg.overwrite`` files of another origin that the run would replace, or the folder is not
            writable.
    """
    replaced = foreign(folder)
    if replaced and not cfg.overwrite:
        raise ConfigError(
            f"--out: {folder} holds {', '.join(replaced)}, which no run of castssl made and this one would"
            " replace; choose another --out, or give --overwrite"
        )
    try:
        fresh_folders.make(folder, written=(config.FILE, logging.FILE, LOCK), empty=[logging.FILE])
        lock = hold(folder)
        try:
            for name in STATE & set(replaced):  # Else the run would take them for its own.
                (folder / name).unlink()
            saved = settings_of(folder)
            if _has_work(folder):
                if saved is not None:
                    check_same(saved, cfg, folder)
            elif saved is None or config.differences(saved, cfg):
                (folder / ONCE).unlink(missing_ok=True)  # Of other settings, such as other weights.
            config.save(cfg, folder / config.FILE)
        except BaseException:
            lock.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"--out: cannot write into {folder} ({error.strerror}); choose another one"
        ) from error
    return lock


def check_same(saved: dict[str, Any], cfg: RunConfig, folder: Path) -> None:
    """Nothing, if a run with the ``saved`` settings may go on with ``cfg``.

    Raises:
        ConfigError: naming every setting that differs.
    """
    differing = config.differences(saved, cfg)
    if differing:
        message = "\n  ".join([f"{folder} holds a run with other settings:", *differing])
        raise ConfigError(f"{message}\nuse its settings to go on with it, or another --out to start anew")


def _has_work(folder: Path) -> bool:
    """True if something would be lost: a checkpoint, a report in the log, or the results of the end."""
    written = folder / logging.FILE
    if step_files.exist(folder / step_files.FOLDER) or (folder / "results.json").is_file():
        return True
    return written.is_file() and '"step"' in written.read_text(encoding="utf-8", errors="replace")
