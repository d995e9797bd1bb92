"""The contract of poolings (:class:`castssl.contracts.Pooling`) as checks.

Each check takes a registry spec or a factory ``factory(dim) -> Pooling`` and raises ContractError with what
the author should change.  The samples hold two images: the first is full, the second has padding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from castssl.contracts import Need, Pooling
from castssl.testing import claims
from castssl.testing.claims import (
    Check,
    Subject,
    checks_of,
    claim,
    claim_equal,
    claim_inherits,
    claim_refused,
    claim_trained,
    claim_untouched,
    deep_copy,
    make,
    promised,
    seed_all,
)
from castssl.testing.fake_device import fake_device, fields_on_device, move
from castssl.testing.samples import COUNT, DIM, tokens
from castssl.testing.ties import Ties
from castssl.types import Pooled, Tokens

SIZE = 7
"""K of most checks; N is not a multiple of it."""
IMAGES = 7
"""Of the largest batch."""


def make_pooling(subject: Subject, seed: int = 0, *, train: bool = False) -> Pooling:
    """The subject at the samples' width, with weights drawn from ``seed``, by default in evaluation mode."""
    pooling: Pooling = make("pooling", subject, DIM, seed=seed)
    claim_inherits(pooling, Pooling)
    pooling.train(train)
    return pooling


def _prepared(subject: Subject, *, train: bool = False, **options: Any) -> tuple[Pooling, Tokens]:
    """The subject, and sample tokens with the recordings that it needs."""
    pooling = make_pooling(subject, train=train)
    return pooling, tokens(pooling.needs, **options)


def pool(pooling: Callable[[Tokens, int], Pooled], sample: Tokens, size: int = SIZE) -> Pooled:
    """Pool with torch's global generator at a fixed seed."""
    torch.manual_seed(1)
    return pooling(sample, size)


def _with_gradient(sample: Tokens) -> Tokens:
    """The same tokens as leaves that collect gradient."""
    return sample._replace(x=sample.x.clone().requires_grad_(), cls=sample.cls.clone().requires_grad_())


def _backward(out: Pooled) -> None:
    """Gradient through all that the next stage reads; random weights, as a plain sum may cancel out."""
    draw = torch.Generator().manual_seed(2)
    rows = torch.cat([out.cls, out.x], 1).float()
    (rows * torch.randn(rows.shape, generator=draw)).sum().backward()


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def _claim_sound(out: Pooled, sample: Tokens, size: int, case: str) -> None:
    """Shapes, dtypes, finite values and row sums of one result."""
    images, count, dim = sample.x.shape
    shapes: dict[str, tuple[int, ...]] = {"x": (images, size, dim), "cls": (images, 1, dim)}
    shapes |= {"assign": (images, count, size), "bias": (images, size)}
    for name, value in _tensors(out).items():
        shape = shapes[name]
        claim(value.shape == shape, f"{case}: {name} has shape {tuple(value.shape)}, not {shape}")
        claim(bool(value.isfinite().all()), f"{case}: {name} is not finite; divide by nothing that may be 0")
    if out.bias is not None:
        claim(out.bias.dtype == torch.float32, f"{case}: return bias in float32, got {out.bias.dtype}")
    _claim_rows(out.assign, sample, case)


def _tensors(out: Pooled) -> dict[str, Tensor]:
    """The fields of a result that are not None."""
    return {name: value for name, value in out._asdict().items() if value is not None}


def _claim_rows(assign: Tensor, sample: Tokens, case: str) -> None:
    """Rows are shares: not below 0, summing to 1 for a token and to 0 for padding."""
    claim(bool((assign >= 0).all()), f"{case}: assign has entries below 0; they are shares of a token")
    sums, valid = assign.sum(-1), sample.mass > 0
    fault = f"{case}: rows of assign must sum to 1, or mass is lost; normalize over the last dimension"
    claim_equal(sums[valid], torch.ones_like(sums[valid]), fault, tolerance=1e-3)
    claim(bool((assign[~valid] == 0).all()), f"{case}: rows of padding must be 0; multiply by (mass > 0)")


def _repeated(sample: Tokens, distinct: int) -> Tokens:
    """The tokens with only ``distinct`` different rows; masses stay."""
    rows = torch.arange(COUNT) % distinct
    keys, received = (None if row is None else row[:, rows] for row in (sample.keys, sample.received))
    return sample._replace(x=sample.x[:, rows], keys=keys, received=received)


def _even(sample: Tokens) -> Tokens:
    """The tokens, all of them with equal masses, and equal attention where it is recorded."""
    mass = (sample.mass > 0).float() * 4
    return sample._replace(mass=mass, received=None if sample.received is None else mass)


def _claim_same(a: Pooled, b: Pooled, message: str, *, tolerance: float = 1e-5) -> None:
    claims.claim_same(_tensors(a), _tensors(b), message, tolerance=tolerance)


def check_conforms(subject: Subject) -> None:
    """It is a Pooling that declares which recordings it needs."""
    needs, names = make_pooling(subject).needs, get_args(Need)
    valid = isinstance(needs, frozenset) and needs <= set(names)
    claim(valid, f"set needs to a frozenset of some of {names}, got {needs!r}")


def check_shapes_and_dtypes(subject: Subject) -> None:
    """Results for K = 1, some K, and K = N."""
    pooling, sample = _prepared(subject)
    for size in (1, SIZE, COUNT):
        out = pool(pooling, sample, size)
        claim(isinstance(out, Pooled), f"return castssl.types.Pooled, got {type(out).__name__}")
        _claim_sound(out, sample, size, f"size {size}")
        for name, dtype in (("x", sample.x.dtype), ("cls", sample.cls.dtype), ("assign", torch.float32)):
            actual = getattr(out, name).dtype
            claim(actual == dtype, f"return {name} in {str(dtype)[6:]}, got {actual}")


def check_conserves_mass(subject: Subject) -> None:
    """No token gets lost or counts twice, in training too."""
    pooling, sample = _prepared(subject, train=True)
    out = pool(pooling, sample)
    _claim_rows(out.assign, sample, "in training")
    mass = (out.assign.transpose(1, 2) @ sample.mass[..., None]).squeeze(-1)
    fault = "clusters must have the mass of their tokens: no dropout on what is returned as assign"
    claim_equal(mass.sum(1), sample.mass.sum(1), fault, tolerance=1e-3)


def check_refuses_impossible_sizes(subject: Subject) -> None:
    """Unless 1 <= size <= N: a ValueError with both numbers."""
    pooling, sample = _prepared(subject)
    for size in (0, COUNT + 1):
        call = partial(pool, pooling, sample, size)
        claim_refused(call, f"size {size} of {COUNT} tokens", (str(size), str(COUNT)))


def check_padding_changes_nothing(subject: Subject) -> None:
    """The contents of padded rows have no influence on any result."""
    pooling, sample = _prepared(subject)
    padded = sample.mass <= 0
    masks = {"x": padded[..., None], "keys": padded[..., None], "received": padded}
    fields = sample._asdict()
    other = {name: fields[name].masked_fill(m, 50.0) for name, m in masks.items() if fields[name] is not None}
    message = "rows of mass 0 must not change {}: mask them"
    _claim_same(pool(pooling, sample), pool(pooling, sample._replace(**other)), message)


def check_padding_gets_no_gradient(subject: Subject) -> None:
    """No gradient reaches padded rows."""
    pooling, plain = _prepared(subject)
    sample = _with_gradient(plain)
    _backward(pool(pooling, sample))
    if sample.x.grad is not None:
        claim(bool((sample.x.grad[sample.mass <= 0] == 0).all()), "rows of mass 0 get gradient: mask them")


def check_images_are_independent(subject: Subject) -> None:
    """An image's result does not depend on the other images of the batch."""
    pooling, sample = _prepared(subject)
    others = tokens(pooling.needs, seed=7, padded=2)
    pairs = zip(sample, others, strict=True)
    mixed = Tokens(*(None if a is None or b is None else torch.cat([a[:1], b[1:]]) for a, b in pairs))  # type: ignore[arg-type]
    alone, among = (
        {name: value[:1] for name, value in _tensors(pool(pooling, batch)).items()}
        for batch in (sample, mixed)
    )
    fault = "another image of the batch changes {}: no statistic may run over the batch"
    claims.claim_same(alone, among, fault)
    even = _even(tokens(pooling.needs, images=IMAGES))
    whole = _tensors(pool(pooling, even))
    for size in (1, 2):
        some = pool(pooling, Tokens(*(None if field is None else field[:size] for field in even)))  # type: ignore[arg-type]
        fault = f"{{}} of an image is another in a batch of {size} and of {IMAGES}: settle ties by the index"
        claims.claim_same(_tensors(some), {name: value[:size] for name, value in whole.items()}, fault)


def check_ties_are_settled(subject: Subject) -> None:
    """Of equal masses, recordings or tokens, the order is the pooling's own, not that of torch.topk."""
    pooling, sample = _prepared(subject)
    advice = "sort with stable=True, as castssl.pooling.arithmetic.highest does: torch.topk and plain sorts"
    fault = f"equal values in another order give another {{}}; {advice} promise no order of equal values"
    for case in (_even(sample), _repeated(sample, 3)):
        with Ties(last=False):
            first = pool(pooling, case)
        with Ties(last=True):
            _claim_same(first, pool(pooling, case), fault)


def check_few_distinct_tokens(subject: Subject) -> None:
    """Fewer distinct tokens than K, as in an image of three colors."""
    pooling, sample = _prepared(subject)
    few = _repeated(sample, 3)
    _claim_sound(pool(pooling, few), few, SIZE, "with 3 distinct tokens")


def check_blank_image(subject: Subject) -> None:
    """Identical tokens, as in an image of one color; its gradient is finite too."""
    pooling, sample = _prepared(subject)
    blank = _with_gradient(_repeated(sample, 1))
    out = pool(pooling, blank)
    _claim_sound(out, blank, SIZE, "with identical tokens")
    _backward(out)
    claim(_finite(blank.x.grad), "identical tokens get a gradient that is not finite")


def check_few_valid_tokens(subject: Subject) -> None:
    """Fewer tokens than K: empty columns are padding."""
    pooling, sample = _prepared(subject, padded=COUNT - 2)
    _claim_sound(pool(pooling, sample), sample, SIZE, "with 2 tokens that are not padding")


def check_pools_again(subject: Subject) -> None:
    """The next stage's tokens, which carry the bias that it returned, are pooled as well."""
    pooling, sample = _prepared(subject)
    first = pool(pooling, sample, 2 * SIZE)
    mass = (first.assign * sample.mass[..., None]).sum(1)
    new = tokens(pooling.needs, seed=3)
    keys, received = (None if rows is None else rows[:, : 2 * SIZE] for rows in (new.keys, new.received))
    coarser = Tokens(first.x, first.cls, mass, keys, received, first.bias)
    _claim_sound(pool(pooling, coarser), coarser, SIZE, "pooled again")


def check_randomness_is_torchs(subject: Subject) -> None:
    """Only torch's global generator decides."""
    pooling, sample = _prepared(subject, train=True)
    results = []
    for seed in (0, 1):
        seed_all(seed)  # `pool` sets torch's generator again.
        results.append(pool(pooling, sample))
    fault = "the same torch seed gives another {}: draw from torch's global generator, keep no state"
    _claim_same(results[0], results[1], fault)


def check_every_parameter_gets_gradient(subject: Subject) -> None:
    """DDP runs without find_unused_parameters."""
    pooling, sample = _prepared(subject, train=True)
    _backward(pool(pooling, _with_gradient(sample)))
    claim_trained(pooling)


def check_tokens_get_gradient(subject: Subject) -> None:
    """Gradient passes through to the tokens, and is finite."""
    pooling, plain = _prepared(subject, train=True)
    sample = _with_gradient(plain)
    _backward(pool(pooling, sample))
    for name, grad in (("x", sample.x.grad), ("cls", sample.cls.grad)):
        claim(grad is not None and bool(grad.any()), f"no gradient reaches tokens.{name}: do not detach it")
        claim(_finite(grad), f"the gradient of tokens.{name} is not finite")


def check_leaves_input_alone(subject: Subject) -> None:
    """The tokens are not written to."""
    pooling, sample = _prepared(subject)
    before = copy.deepcopy(sample)
    pool(pooling, sample)
    claim_untouched("tokens", before, sample)


def check_deep_copies(subject: Subject) -> None:
    """A copy made after a training step works alike, and shares nothing: it becomes a momentum encoder."""
    pooling, sample = _prepared(subject)
    _backward(pool(pooling, _with_gradient(sample)))
    copied = deep_copy(pooling)
    _claim_same(pool(pooling, sample), pool(copied, sample), "a deep copy gives another {}")


def check_state_round_trips(subject: Subject) -> None:
    """A fresh pooling that loads the state gives the same results."""
    pooling, sample = _prepared(subject)
    fresh = make_pooling(subject, seed=9)
    fresh.load_state_dict(pooling.state_dict())
    fault = "a fresh pooling with the loaded state gives another {}: keep weights as parameters or buffers"
    _claim_same(pool(pooling, sample), pool(fresh, sample), fault)


def check_bfloat16(subject: Subject) -> None:
    """Under autocast, for float32 and bfloat16 tokens: dtypes, row sums and gradients hold."""
    pooling, plain = _prepared(subject, train=True)
    for dtype in (torch.float32, torch.bfloat16):
        sample = _with_gradient(plain._replace(x=plain.x.to(dtype), cls=plain.cls.to(dtype)))
        with torch.autocast("cpu", torch.bfloat16):
            out = pool(pooling, sample)
        case = f"autocast with {dtype} tokens"
        claim(out.x.dtype == dtype, f"{case}: return x in the input's dtype, got {out.x.dtype}")
        claim(out.assign.dtype == torch.float32, f"{case}: return assign in float32, got {out.assign.dtype}")
        _claim_sound(out, sample, SIZE, case)
        _backward(out)
        claim(_finite(sample.x.grad), f"{case}: the gradient is not finite")


def check_reads_nothing_back(subject: Subject) -> None:
    """Runs on a device without data: no tensor of the CPU meets its tokens, and no value is read back."""
    pooling, sample = _prepared(subject)
    advice = "use no .item(), bool(), int() or boolean indexing in forward, and take shapes from size"
    with promised(f"on tensors without data: {{}}; {advice}"), fake_device():
        move(pooling)
        out = pooling(fields_on_device(sample), SIZE)
    claim(out.x.shape == (*sample.x.shape[:1], SIZE, DIM), f"x has shape {tuple(out.x.shape)} without data")


def check_compiles(subject: Subject) -> None:
    """torch.compile takes it in one graph, with the same result."""
    pooling, sample = _prepared(subject)
    torch._dynamo.reset()
    compiled = torch.compile(pooling, fullgraph=True, backend="eager")
    try:
        with promised("torch.compile(fullgraph=True) fails: {}; keep Python out of the data's way"):
            out = pool(compiled, sample)
    finally:
        torch._dynamo.reset()
    _claim_same(pool(pooling, sample), out, "compiled, it gives another {}", tolerance=1e-4)


checks: list[Check] = checks_of(globals())
"""All checks of poolings."""
