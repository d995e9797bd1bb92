"""The three plugin doors, and the encoder between them.

A Protocol declares both ``forward`` and ``__call__``: ``nn.Module.__call__`` is typed so loosely that
with ``__call__`` alone a type checker would accept every module.
Shape letters: B images, N tokens, K pooled tokens, D channels, H x W pixels, L label levels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from castssl.types import Batch, Hierarchy, Outcome, Pooled, Tokens, View

Kind = Literal["superpixels", "pooling", "objectives"]
KINDS: tuple[Kind, ...] = ("superpixels", "pooling", "objectives")
Need = Literal["keys", "received"]
Target = Literal["none", "path", "multihot"]


class Module(Protocol):
    """The part of :class:`torch.nn.Module` that the framework relies on."""

    training: bool

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def requires_grad_(self, requires_grad: bool = True) -> Any: ...
    def compile(self, *args: Any, **kwargs: Any) -> None: ...


@runtime_checkable
class Superpixels(Protocol):
    """Partition pixels.  No gradient, no state between calls."""

    runs_on: Literal["worker", "device"]

    def capacity(self, height: int, width: int) -> int:
        """A static upper bound of the number of labels for this image size."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) RGB -> int32 (B, H, W), labels in [0, capacity(H, W))."""
        ...


@runtime_checkable
class Pooling(Module, Protocol):
    """Turn N tokens into at most K."""

    needs: frozenset[Need]

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool ``tokens`` into ``size`` rows; ``ValueError`` unless 1 <= size <= N."""
        ...

    def __call__(self, tokens: Tokens, size: int) -> Pooled: ...


@runtime_checkable
class Encoder(Module, Protocol):
    """Turn a view into a hierarchy of tokens."""

    dim: int
    sizes: tuple[int, ...]
    """Token budget per stage."""

    def forward(self, view: View) -> Hierarchy: ...
    def __call__(self, view: View) -> Hierarchy: ...


@runtime_checkable
class Objective(Module, Protocol):
    """Own everything beyond the encoder, and turn a batch into a loss."""

    views: int
    target: Target
    encoder: Encoder

    def forward(self, batch: Batch) -> Outcome: ...
    def __call__(self, batch: Batch) -> Outcome: ...

    def after_step(self, progress: float) -> None:
        """Runs once per optimizer step with the share of steps done, in (0, 1]."""
        ...

    def predict(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) by name; {} if it predicts nothing."""
        ...
