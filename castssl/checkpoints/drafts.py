"""The draft of an objective: do a stranger's settings ask for more memory than the file's tensors?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import nn
from torch.nn.modules import module

from castssl.checkpoints.checkpoint import Checkpoint
from castssl.errors import DataError
from castssl.objectives.averaged import Averaged

BESIDE = 2**29
"""The most bytes that an objective may have beside the tensors in the file: those of its training."""
_PARTS = 10, 1000
"""The most parts of an objective: so many for each tensor in the file, and so many more."""


@contextmanager
def few_parts(checkpoint: Checkpoint) -> Iterator[None]:
    """Refuse to build an objective of far more modules than the file has tensors for; each takes memory.

    Raises:
        DataError: once there are too many modules and parameters.
    """
    each, more = _PARTS
    left = most = each * (len(checkpoint.encoder) + len(checkpoint.heads)) + more

    def count(owner: nn.Module, name: str, part: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise DataError(
                f"the settings in {checkpoint.source} describe a model of more than {most} modules and"
                f" parameters, expected about as many as its {len(checkpoint.encoder)} tensors of the encoder"
                f" and {len(checkpoint.heads)} beside it need; copy them again, or take others"
            )

    hooks = (
        module.register_module_module_registration_hook(count),
        module.register_module_parameter_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_beside(draft: Averaged[Any], source: str) -> None:
    """Refuse an objective that needs much memory for what the file does not hold, such as queues.

    Args:
        draft: of the settings, on the device ``meta``; its encoder and heads have the shapes of the file's.
        source: for messages.

    Raises:
        DataError: if there are more than :data:`BESIDE` bytes.
    """
    held = chain(draft.branch("base").state_dict().values(), draft.heads().values())
    made = chain(draft.parameters(), draft.buffers())
    beside = sum(value.nbytes for value in made) - sum(value.nbytes for value in held)
    if beside > BESIDE:
        raise DataError(
            f"the settings in {source} describe a {type(draft).__name__} that takes {beside / 2**20:,.0f} MiB"
            f" beside the tensors in the file, expected at most {BESIDE / 2**20:,.0f}; take weights that you"
            " trust, or save them again with options of usual size"
        )
