"""Random numbers of one sample, the same after any other samples and in any worker."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import get_worker_info


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Python's, numpy's and torch's (CPU) global generators, seeded by ``key`` inside and restored after.

    In a loader's worker they are not restored: nothing else draws there, and restoring numpy's state takes a
    tenth of a millisecond.

    Args:
        key: non-negative integers, such as (seed, epoch, index); different keys give unrelated streams.
    """
    restored = get_worker_info() is None
    before = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if restored else None  # noqa: NPY002
    words = [int(word) for word in np.random.SeedSequence(key).generate_state(3, np.uint64)]
    random.seed(words[0])
    np.random.seed(words[1] % 2**32)  # noqa: NPY002  (lightly's transforms draw from it)
    # torch.manual_seed would seed the GPUs, too.
    torch.default_generator.manual_seed(words[2] % 2**63)
    try:
        yield
    finally:
        if before is not None:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_rng_state(before[2])
