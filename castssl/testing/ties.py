"""Another order of equal values, wherever torch promises none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Ties(TorchDispatchMode):
    """Inside, operators without a promised order of equal values return them by index, in one direction.

    ``torch.topk`` and sorts that are not stable may take equal values in any order: it depends on the shape,
    on the device, and on the runtime of an exported model.  What differs between the two directions here
    depends on such a choice.  Stable sorts and ``argmax``, which promise the lowest index, stay as they are.

    Args:
        last: begin with the highest index, not with the lowest.
    """

    def __init__(self, *, last: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.last = last

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Sort stably in place of an operator that promises no order."""
        read = READERS.get(func)
        order = read(*args, **(kwargs or {})) if read else None
        return func(*args, **(kwargs or {})) if order is None else self._sort(*order)

    def _sort(self, x: Tensor, k: int | None, dim: int, descending: bool) -> tuple[Tensor, Tensor]:
        order = x.flip(dim) if self.last else x
        values, index = order.sort(dim=dim, descending=descending, stable=True)
        if self.last:
            index = x.shape[dim] - 1 - index
        k = x.shape[dim] if k is None else k
        return values.narrow(dim, 0, k), index.narrow(dim, 0, k)


Order = tuple[Tensor, int | None, int, bool]
"""What is sorted, how many of it are returned (None: all), the axis, and whether the largest come first."""


def _topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Order | None:
    return (x, k, dim, largest) if x.dim() else None


def _sorted(x: Tensor, dim: int = -1, descending: bool = False) -> Order | None:
    return (x, None, dim, descending) if x.dim() else None


def _maybe_stable(x: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> Order | None:
    return None if stable else _sorted(x, dim, descending)


READERS: dict[Any, Callable[..., Order | None]] = {
    torch.ops.aten.topk.default: _topk,
    torch.ops.aten.sort.default: _sorted,
    torch.ops.aten.sort.stable: _maybe_stable,
}
