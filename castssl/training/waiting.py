"""Whether a run waits too much for its data, and the flag that would help."""

from __future__ import annotations

import os
import sys

from castssl import distributed, registry
from castssl.config import RunConfig, plain

LIMIT = 0.1
"""The share of a run's time that it may wait for data without a word."""


class WaitingMonitor:
    """Adds up how long a run waits, and speaks once if that is more than :data:`LIMIT` of its time.

    What comes before the first report does not count: workers start then, and their first batch is not ready.
    """

    def __init__(self, cfg: RunConfig) -> None:
        self._cfg = cfg
        self._began = self._spoke = False
        self._seconds = self._waited = 0.0

    @property
    def share(self) -> float:
        """The share of the time since the first report that was spent waiting, 0 to 1."""
        return self._waited / self._seconds if self._seconds else 0.0

    def note(self, seconds: float, waiting: float) -> str:
        """Take note of a report's time and of the share that was waiting: what to say now, mostly ``""``."""
        if not self._began:
            self._began = True
            return ""
        self._seconds += seconds
        self._waited += seconds * waiting
        if self._spoke or self.share <= LIMIT:
            return ""
        self._spoke = True
        return f"{self.share:.0%} of the time goes into waiting for data: {advice(self._cfg, free_cores())}"


def free_cores() -> int:
    """Cores that each training process of this machine has beside the one that it runs on."""
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(0, here // int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world())) - 1)


def advice(cfg: RunConfig, free: int) -> str:
    """The flag of a recipe that lets a run wait less.

    Args:
        cfg: its settings; one that does not have ``workers`` gets no flag.
        free: cores that each process can give to its workers.
    """
    settings = plain(cfg)
    workers: int | None = settings.get("workers")
    if workers == 0:
        return f"--workers {max(1, free)} loads beside training, not in turn with it"
    if workers is not None and workers < free:
        return f"--workers {free} uses the cores that are left"
    own, _, options = cfg.backend().partition(":")
    if own not in ("", "grid") and settings.get("superpixel_cache") is None:
        known = [entry.name for entry in registry.names("superpixels")]
        if own == "seeds" and "bins" not in options and "seeds-fast" in known:
            return "no core is left; --superpixels seeds-fast, in a new run, takes a fraction of SEEDS' time"
        # RandAugment shears and turns views, which cached superpixels cannot follow: load refuses both.
        if settings.get("augment") != "randaugment":
            return "no core is left; --superpixel-cache DIR, in a new run, computes superpixels only once"
    return "no core is left; it needs smaller image files, a faster disk, or more cores"
