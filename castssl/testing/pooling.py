"""The contract of poolings (:class:`castssl.contracts.Pooling`) as checks.

Each check takes a registry spec or a factory ``factory(dim) -> Pooling`` and raises ContractError with what
the author should change.  The samples hold two images: the first is full, the second has padding.
"""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from castssl.contracts import Need, Pooling
from castssl.errors import ContractError
from castssl.testing.claims import Check, Subject, claim, claim_equal, claim_inherits, claim_refused, make
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
    fault = f"{case}: rows of assign must sum to 1, or mass is lost; normalize over the last dimension"
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
    module = pooling
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def claim_same(a: Pooled, b: Pooled, message: str, *, tolerance: float = 1e-5) -> None:
    """Two results agree; ``{}`` in the message becomes the field that differs."""
    for name in a._fields:
        claim_equal(getattr(a, name), getattr(b, name), message.format(name), tolerance=tolerance)


def check_conforms(subject: Subject) -> None:
    """It is a Pooling that declares which recordings it needs."""
    pooling = make_pooling(subject)
    claim_inherits(pooling, Pooling)
    needs = pooling.needs
    claim(
        isinstance(needs, frozenset) and needs <= set(get_args(Need)),
        f"set needs to a frozenset of some of {get_args(Need)}, got {needs!r}",
    )


def check_shapes_and_dtypes(subject: Subject) -> None:
    """Results for K = 1, some K, and K = N."""
    pooling, given = evaluated(subject)
    for size in (1, SIZE, COUNT):
        out = pool(pooling, given, size)
        claim(isinstance(out, Pooled), f"return castssl.types.Pooled, got {type(out).__name__}")
        claim_sound(out, given, size, f"size {size}")
        claim(out.x.dtype == given.x.dtype, f"return x in the input's {given.x.dtype}, got {out.x.dtype}")
        claim(out.cls.dtype == given.cls.dtype, f"return cls in {given.cls.dtype}, got {out.cls.dtype}")
        claim(out.assign.dtype == torch.float32, f"return assign in float32, got {out.assign.dtype}")


def check_conserves_mass(subject: Subject) -> None:
    """No token gets lost or counts twice, in training too."""
    pooling = make_pooling(subject)
    pooling.train()
    given = tokens(pooling.needs)
    out = pool(pooling, given)
    claim_rows(out.assign, given, "in training")
    mass = (out.assign.transpose(1, 2) @ given.mass[..., None]).squeeze(-1)
    fault = "clusters must have the mass of their tokens: no dropout on what is returned as assign"
    claim_equal(mass.sum(1), given.mass.sum(1), fault, tolerance=1e-3)


def check_refuses_impossible_sizes(subject: Subject) -> None:
    """Unless 1 <= size <= N: a ValueError with both numbers."""
    pooling, given = evaluated(subject)
    for size in (0, COUNT + 1):
        call = partial(pool, pooling, given, size)
        claim_refused(call, f"size {size} of {COUNT} tokens", (str(size), str(COUNT)))


def check_padding_changes_nothing(subject: Subject) -> None:
    """What padded rows hold has no influence on any result."""
    pooling, given = evaluated(subject)
    padded = given.mass <= 0
    other = given._replace(x=given.x.masked_fill(padded[..., None], 50.0))
    if given.keys is not None:
        other = other._replace(keys=given.keys.masked_fill(padded[..., None], 50.0))
    if given.received is not None:
        other = other._replace(received=given.received.masked_fill(padded, 50.0))
    claim_same(pool(pooling, given), pool(pooling, other), "rows of mass 0 must not change {}: mask them")


def check_padding_gets_no_gradient(subject: Subject) -> None:
    """No gradient reaches padded rows."""
    pooling, plain = evaluated(subject)
    given = with_gradient(plain)
    backward(pool(pooling, given))
    grad = given.x.grad
    if grad is not None:
        claim(bool((grad[given.mass <= 0] == 0).all()), "rows of mass 0 get gradient: mask them")


def check_images_are_independent(subject: Subject) -> None:
    """An image's result does not depend on the other images of the batch."""
    pooling, given = evaluated(subject)
    strangers = tokens(pooling.needs, seed=7, padded=2)
    ours, theirs = pool(pooling, given), pool(pooling, mixed(given, strangers))
    first = [Pooled(*(field[:1] for field in out)) for out in (ours, theirs)]
    claim_same(
        first[0], first[1], "another image of the batch changes {}: no statistic may run over the batch"
    )


def check_few_distinct_tokens(subject: Subject) -> None:
    """Fewer distinct tokens than K, as in an image of three colors."""
    pooling, given = evaluated(subject)
    few = repeated(given, 3)
    claim_sound(pool(pooling, few), few, SIZE, "with 3 distinct tokens")


def check_blank_image(subject: Subject) -> None:
    """Identical tokens, as in an image of one color; its gradient is finite too."""
    pooling, given = evaluated(subject)
    blank = with_gradient(repeated(given, 1))
    out = pool(pooling, blank)
    claim_sound(out, blank, SIZE, "with identical tokens")
    backward(out)
    grad = blank.x.grad
    claim(grad is None or bool(grad.isfinite().all()), "identical tokens get a gradient that is not finite")


def check_few_valid_tokens(subject: Subject) -> None:
    """Fewer tokens than K: the columns that nobody joins are padding."""
    pooling = make_pooling(subject)
    pooling.eval()
    given = tokens(pooling.needs, padded=COUNT - 2)
    claim_sound(pool(pooling, given), given, SIZE, "with 2 tokens that are not padding")


def check_randomness_is_torchs(subject: Subject) -> None:
    """Torch's global generator decides, and nothing else."""
    pooling = make_pooling(subject)
    pooling.train()
    given = tokens(pooling.needs)
    results = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the legacy generator is what a plugin may use by mistake
        results.append(pool(pooling, given))
    fault = "the same torch seed gives another {}: draw from torch's global generator, keep no state"
    claim_same(results[0], results[1], fault)


def check_every_parameter_gets_gradient(subject: Subject) -> None:
    """DDP runs without find_unused_parameters."""
    pooling = make_pooling(subject)
    pooling.train()
    backward(pool(pooling, with_gradient(tokens(pooling.needs))))
    named = pooling.named_parameters()
    idle = [name for name, p in named if p.requires_grad and p.grad is None]
    claim(not idle, f"no gradient reaches {', '.join(idle)}: use them for x or cls, or freeze them")


def check_tokens_get_gradient(subject: Subject) -> None:
    """Gradient passes through to the tokens, and is finite."""
    pooling = make_pooling(subject)
    pooling.train()
    given = with_gradient(tokens(pooling.needs))
    backward(pool(pooling, given))
    for name, grad in (("x", given.x.grad), ("cls", given.cls.grad)):
        claim(grad is not None and bool(grad.any()), f"no gradient reaches tokens.{name}: do not detach it")
        claim(grad is None or bool(grad.isfinite().all()), f"the gradient of tokens.{name} is not finite")


def check_leaves_input_alone(subject: Subject) -> None:
    """The tokens are not written to."""
    pooling, given = evaluated(subject)
    before = copy.deepcopy(given)
    pool(pooling, given)
    for name, old, new in zip(given._fields, before, given, strict=True):
        claim(
            old is None or new is None or torch.equal(old, new),
            f"tokens.{name} was changed in place: work on a copy",
        )


def check_deep_copies(subject: Subject) -> None:
    """A copy made after a training step works alike, and shares nothing: objectives keep momentum copies."""
    pooling, given = evaluated(subject)
    backward(pool(pooling, with_gradient(given)))
    try:
        copied = copy.deepcopy(pooling)
    except Exception as fault:
        raise ContractError(f"deepcopy fails after a step: {fault}; store no result on self") from fault
    claim_same(pool(pooling, given), pool(copied, given), "a deep copy gives another {}")
    with torch.no_grad():
        for tensor in copied.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1.0)
    theirs = copied.state_dict()
    shared = [name for name, t in pooling.state_dict().items() if t.data_ptr() == theirs[name].data_ptr()]
    claim(not shared, f"a deep copy shares {', '.join(shared)}: keep tensors as parameters or buffers")


def check_state_round_trips(subject: Subject) -> None:
    """A fresh pooling that loads the state gives the same results."""
    pooling, given = evaluated(subject)
    fresh = make_pooling(subject, seed=9)
    fresh.eval()
    fresh.load_state_dict(pooling.state_dict())
    fault = "a fresh pooling with the loaded state gives another {}: keep weights as parameters or buffers"
    claim_same(pool(pooling, given), pool(fresh, given), fault)


def check_bfloat16(subject: Subject) -> None:
    """Under autocast, for float32 and bfloat16 tokens: dtypes, row sums and gradients hold."""
    pooling = make_pooling(subject)
    pooling.train()
    for dtype in (torch.float32, torch.bfloat16):
        plain = tokens(pooling.needs)
        given = with_gradient(plain._replace(x=plain.x.to(dtype), cls=plain.cls.to(dtype)))
        with torch.autocast("cpu", torch.bfloat16):
            out = pool(pooling, given)
        case = f"autocast with {dtype} tokens"
        claim(out.x.dtype == dtype, f"{case}: return x in the input's dtype, got {out.x.dtype}")
        claim(out.assign.dtype == torch.float32, f"{case}: return assign in float32, got {out.assign.dtype}")
        claim_sound(out, given, SIZE, case)
        backward(out)
        claim(
            given.x.grad is None or bool(given.x.grad.isfinite().all()), f"{case}: the gradient is not finite"
        )


def check_reads_nothing_back(subject: Subject) -> None:
    """Runs on tensors without data: no value is read back to the host, and no shape depends on one."""
    pooling, given = evaluated(subject)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = Tokens(*(None if field is None else mode.from_tensor(field) for field in given))  # type: ignore[arg-type]
        state: dict[str, Tensor] = {name: mode.from_tensor(t) for name, t in tensors(pooling).items()}
        try:
            out = functional_call(pooling, state, (fake, SIZE))
        except Exception as fault:
            raise ContractError(
                f"on tensors without data: {type(fault).__name__}: {fault}; use no .item(), bool(tensor), "
                "int(tensor) or boolean indexing in forward, and take shapes from size"
            ) from fault
    claim(out.x.shape == (*given.x.shape[:1], SIZE, DIM), f"x has shape {tuple(out.x.shape)} without data")


def check_compiles(subject: Subject) -> None:
    """torch.compile takes it in one graph, with the same result."""
    pooling, given = evaluated(subject)
    torch._dynamo.reset()
    compiled = torch.compile(pooling, fullgraph=True, backend="eager")
    try:
        out: Pooled = pool(cast(Pooling, compiled), given)
    except Exception as fault:
        raise ContractError(
            f"torch.compile(fullgraph=True) fails: {fault}; keep Python out of the data's way"
        ) from fault
    finally:
        torch._dynamo.reset()
    claim_same(pool(pooling, given), out, "compiled, it gives another {}", tolerance=1e-4)


checks: list[Check] = [
    check_conforms,
    check_shapes_and_dtypes,
    check_conserves_mass,
    check_refuses_impossible_sizes,
    check_padding_changes_nothing,
    check_padding_gets_no_gradient,
    check_images_are_independent,
    check_few_distinct_tokens,
    check_blank_image,
    check_few_valid_tokens,
    check_randomness_is_torchs,
    check_every_parameter_gets_gradient,
    check_tokens_get_gradient,
    check_leaves_input_alone,
    check_deep_copies,
    check_state_round_trips,
    check_bfloat16,
    check_reads_nothing_back,
    check_compiles,
]
"""All checks of this room."""
