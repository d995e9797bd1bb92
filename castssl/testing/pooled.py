"""How the pooling checks handle a subject: build it, run it, take gradients, compare results."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from castssl.contracts import Pooling
from castssl.testing.claims import Subject, claim, claim_equal, make
from castssl.testing.samples import COUNT, DIM, tokens
from castssl.types import Pooled, Tokens

SIZE = 7
"""K of most checks: it divides nothing."""


def make_pooling(subject: Subject, seed: int = 0) -> Pooling:
    """The subject at the samples' width, with weights drawn from ``seed``."""
    pooling: Pooling = make("pooling", subject, DIM, seed=seed)
    return pooling


def evaluated(subject: Subject) -> tuple[Pooling, Tokens]:
    """The subject in eval mode, and sample tokens with the recordings that it needs."""
    pooling = make_pooling(subject)
    pooling.eval()
    return pooling, tokens(pooling.needs)


def pool(pooling: Pooling, given: Tokens, size: int = SIZE) -> Pooled:
    """What comes of ``given`` with the global generator at a fixed seed."""
    torch.manual_seed(1)
    return pooling(given, size)


def with_gradient(given: Tokens) -> Tokens:
    """The same tokens as leaves that collect gradient."""
    return given._replace(x=given.x.clone().requires_grad_(), cls=given.cls.clone().requires_grad_())


def backward(out: Pooled) -> None:
    """Gradient through all that the next stage reads; random weights, as a plain sum may cancel out."""
    draw = torch.Generator().manual_seed(2)
    rows = torch.cat([out.cls, out.x], 1).float()
    (rows * torch.randn(rows.shape, generator=draw)).sum().backward()  # type: ignore[no-untyped-call]


def claim_sound(out: Pooled, given: Tokens, size: int, case: str) -> None:
    """Shapes, dtypes, finite values and row sums of one result."""
    images, count, dim = given.x.shape
    for name, shape in (("x", (size, dim)), ("cls", (1, dim)), ("assign", (count, size))):
        got = getattr(out, name)
        claim(
            got.shape == (images, *shape),
            f"{case}: {name} has shape {tuple(got.shape)}, not {(images, *shape)}",
        )
        claim(bool(got.isfinite().all()), f"{case}: {name} is not finite; divide by nothing that may be 0")
    claim_rows(out.assign, given, case)


def claim_rows(assign: Tensor, given: Tokens, case: str) -> None:
    """Rows are shares: not below 0, summing to 1 for a token and to 0 for padding."""
    claim(bool((assign >= 0).all()), f"{case}: assign has entries below 0; they are shares of a token")
    sums = assign.sum(-1)
    valid = given.mass > 0
    fault = f"{case}: rows of assign must sum to 1, or mass is lost; normalise over the last dimension"
    claim_equal(sums[valid], torch.ones_like(sums[valid]), fault, tolerance=1e-3)
    claim(bool((assign[~valid] == 0).all()), f"{case}: rows of padding must be 0; multiply by (mass > 0)")


def repeated(given: Tokens, distinct: int) -> Tokens:
    """The tokens with only ``distinct`` different rows; masses stay."""
    rows = torch.arange(COUNT) % distinct
    keys = None if given.keys is None else given.keys[:, rows]
    received = None if given.received is None else given.received[:, rows]
    return given._replace(x=given.x[:, rows], keys=keys, received=received)


def mixed(ours: Tokens, theirs: Tokens) -> Tokens:
    """Our first image, followed by their others."""

    def join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a[:1], b[1:]])

    x, cls, mass = (torch.cat([a[:1], b[1:]]) for a, b in zip(ours[:3], theirs[:3], strict=True))
    return Tokens(x, cls, mass, join(ours.keys, theirs.keys), join(ours.received, theirs.received))


def tensors(pooling: Pooling) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    module = cast(nn.Module, pooling)
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def claim_same(a: Pooled, b: Pooled, message: str, *, tolerance: float = 1e-5) -> None:
    """Two results agree; ``{}`` in the message becomes the field that differs."""
    for name in a._fields:
        claim_equal(getattr(a, name), getattr(b, name), message.format(name), tolerance=tolerance)
