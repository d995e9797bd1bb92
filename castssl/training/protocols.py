"""What a run needs of a data loader, and of what is saved beside the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from castssl.data.inventory import Inventory
from castssl.types import Batch


class Loader(Protocol):
    """What a run needs of a data loader."""

    waited: float
    """Seconds that the loop has waited for batches so far."""

    @property
    def resumable(self) -> bool:
        """True if an epoch always has the same batches; False for a stream, which may end early or late."""
        ...

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next iteration yields the batches of ``epoch`` from its ``start``-th one on."""
        ...

    def names(self, epoch: int, batch: int) -> list[str]:
        """What the images of that batch are called; empty if they are not known."""
        ...

    def inventory(self) -> Inventory:
        """Which images there are."""
        ...


class Follows(Protocol):
    """What a run depends on beside model and optimizer, such as a schedule that follows a measure."""

    stopped: str
    """Why training ends before all epochs are done; "" if it does not."""

    def state_dict(self) -> Mapping[str, Any]:
        """Numbers, text and tensors, alone and in containers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> object:
        """Continue from :meth:`state_dict`."""
        ...


class Trained(Protocol):
    """The weights that a run leaves in the end, as they are now."""

    def state_dict(self) -> Mapping[str, Any]:
        """Text, and tensors of the model itself, which take no further place in a checkpoint."""
        ...
