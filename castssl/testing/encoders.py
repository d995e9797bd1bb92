"""The contract of encoders (:class:`castssl.contracts.Encoder`) as checks.

Each check takes a spec ``KIND:NAME`` of a registered encoder, or a factory ``factory(config) -> Encoder``,
and raises ContractError with what the author should change.  The views have the image size of the encoder's
config and, as superpixels, a grid that leaves one token of the first stage without a pixel.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from castssl.contracts import Encoder
from castssl.encoder_config import EncoderConfig, plugin_config
from castssl.errors import CastError, ContractError
from castssl.modes import kept_random_state
from castssl.registry import build
from castssl.testing import samples
from castssl.testing.claims import Check, Subject, claim, claim_equal, claim_inherits, seed_all
from castssl.types import Hierarchy, Tokens, View

SIDE = 64
"""Pixels per side that the factory is asked for."""


def _factory(subject: Subject) -> Callable[[EncoderConfig], Encoder]:
    """What is called with a config: the subject, or the plugin that the spec ``KIND:NAME`` begins with."""
    if not isinstance(subject, str):
        return subject
    kind = subject.partition(":")[0]
    return lambda config: build("encoders", kind, config)


def _config(subject: Subject) -> EncoderConfig:
    """The config of the spec ``KIND:NAME``; a plugin may be named without NAME."""
    kind, _, name = subject.partition(":") if isinstance(subject, str) else ("check", "", "")
    return plugin_config(f"{kind}:{name}", image_size=SIDE)


def _make(subject: Subject, config: EncoderConfig | None = None, *, seed: int = 0) -> Encoder:
    """The encoder, with weights drawn from ``seed``."""
    seed_all(seed)
    return _factory(subject)(config or _config(subject))


def _view(encoder: Encoder, batch: int = 3, *, seed: int = 0) -> View:
    """Images of the encoder's size; their segments are cells, of which the last belongs to the one before."""
    side, cells = encoder.config.image_size, max(math.isqrt(encoder.sizes[0]), 1)
    draw = torch.Generator().manual_seed(seed)
    image = samples.pixels(batch, side, side, seed=seed).float() / 127.5 - 1
    image = image + 0.1 * torch.randn(image.shape, generator=draw)
    at = torch.arange(side) * cells // side
    grid = (at[:, None] * cells + at).int().clamp(max=max(cells * cells - 2, 0))
    return View(image, grid.expand(batch, -1, -1).contiguous())


def _run(encoder: Encoder, view: View) -> Hierarchy:
    """The hierarchy in evaluation mode, without gradient."""
    encoder.eval()
    with torch.no_grad():
        return encoder(view)


def _tensors(hierarchy: Hierarchy) -> dict[str, Tensor]:
    """Everything in a hierarchy that has a value for each image, by name."""
    found = {"segments": hierarchy.segments}
    for at, stage in enumerate(hierarchy.stages):
        found |= {f"stages[{at}].{name}": getattr(stage, name) for name in ("x", "cls", "mass")}
    return found | {f"assigns[{at}]": assign for at, assign in enumerate(hierarchy.assigns)}


def _claim_same(a: Hierarchy, b: Hierarchy, message: str, *, tolerance: float = 1e-5) -> None:
    """Two hierarchies agree; ``{}`` in the message becomes the part that differs."""
    ours, theirs = _tensors(a), _tensors(b)
    claim(ours.keys() == theirs.keys(), message.format("number of stages"))
    for name, value in ours.items():
        claim_equal(value, theirs[name], message.format(name), tolerance=tolerance)


def _loss(hierarchy: Hierarchy) -> Tensor:
    """A number that the last class token decides; random weights, as a plain sum may cancel out."""
    cls = hierarchy.stages[-1].cls.float()
    draw = torch.Generator().manual_seed(2)
    return (cls * torch.randn(cls.shape, generator=draw)).sum()


def check_conforms(subject: Subject) -> None:
    """It is an Encoder that declares its width and sizes, which its config has, too."""
    encoder = _make(subject)
    claim_inherits(encoder, Encoder)
    dim, sizes, config = (getattr(encoder, name, None) for name in ("dim", "sizes", "config"))
    claim(type(dim) is int and dim > 0, f"set dim to the width of the class token, got {dim!r}")
    fits = isinstance(sizes, tuple) and bool(sizes) and all(type(size) is int and size > 0 for size in sizes)
    claim(fits, f"set sizes to a tuple of how many tokens each stage has, fine to coarse, got {sizes!r}")
    claim(isinstance(config, EncoderConfig), f"set config to the factory's EncoderConfig, got {config!r}")
    own = (encoder.config.dim, encoder.config.sizes)
    claim(
        own == (dim, sizes),
        f"config has dim and sizes {own}, the encoder has {(dim, sizes)}: use dataclasses.replace",
    )


def check_stages(subject: Subject) -> None:
    """Stages, class tokens, masses and assignments have the shapes and dtypes that were declared."""
    encoder = _make(subject)
    view = _view(encoder)
    found = _run(encoder, view)
    claim(isinstance(found, Hierarchy), f"return castssl.types.Hierarchy, got {type(found).__name__}")
    images, _, height, width = view.image.shape
    segments = found.segments
    claim(
        segments.shape == (images, height, width) and not segments.is_floating_point(),
        f"segments are whole numbers (B, H, W), got {segments.dtype} of shape {tuple(segments.shape)}",
    )
    claim(
        0 < len(found.stages) <= len(encoder.sizes),
        f"{len(found.stages)} stages, but sizes declares {len(encoder.sizes)}",
    )
    claim(
        len(found.assigns) == len(found.stages) - 1,
        f"{len(found.stages)} stages need {len(found.stages) - 1} assigns, got {len(found.assigns)}",
    )
    for at, (stage, size) in enumerate(zip(found.stages, encoder.sizes, strict=False)):
        _claim_stage(stage, (images, size, encoder.dim), f"stages[{at}]")
    for at, assign in enumerate(found.assigns):
        shape = (images, encoder.sizes[at], encoder.sizes[at + 1])
        claim(assign.shape == shape, f"assigns[{at}] has shape {tuple(assign.shape)}, not {shape}")
    high = int(segments.max())
    claim(high < encoder.sizes[0], f"segments go up to {high}, but sizes declares {encoder.sizes[0]} tokens")


def _claim_stage(stage: Tokens, shape: tuple[int, int, int], case: str) -> None:
    images, size, dim = shape
    for name, got, expected in (
        ("x", stage.x.shape[:2], (images, size)),
        ("cls", stage.cls.shape, (images, 1, dim)),
        ("mass", stage.mass.shape, (images, size)),
    ):
        claim(got == expected, f"{case}.{name} has shape {tuple(got)}, not {expected}, as declared")
    claim(stage.mass.dtype == torch.float32, f"{case}.mass is {stage.mass.dtype}, not float32")
    for name, value in (("x", stage.x), ("cls", stage.cls), ("mass", stage.mass)):
        claim(bool(value.isfinite().all()), f"{case}.{name} of a plain image is not finite")


def check_padding(subject: Subject) -> None:
    """A token of mass 0 is padding: no pixel and no token of the next stage is its; no other loses mass."""
    encoder = _make(subject)
    found = _run(encoder, _view(encoder))
    masses = [stage.mass for stage in found.stages]
    claim(all(bool((mass >= 0).all()) for mass in masses), "a mass is below 0; it counts stem cells")
    labels = found.segments.flatten(1).long()
    own = masses[0].gather(1, labels.clamp(min=0))
    claim(
        bool(((own > 0) | (labels < 0)).all()),
        "a segment has pixels, but its token has mass 0: mass 0 is padding; label such pixels -1",
    )
    for at, assign in enumerate(found.assigns):
        sums, valid = assign.sum(-1), masses[at] > 0
        case = f"assigns[{at}]"
        claim(bool((assign[~valid] == 0).all()), f"{case}: rows of mass 0 must be 0; multiply by (mass > 0)")
        fault = f"{case}: rows of tokens with mass must sum to 1"
        claim_equal(sums[valid], torch.ones_like(sums[valid]), fault, tolerance=1e-3)
        handed = (assign * masses[at][..., None]).sum(1)
        fault = f"stages[{at + 1}].mass is not the mass of the tokens that {case} hands to it"
        claim_equal(masses[at + 1], handed, fault, tolerance=1e-3)


def check_is_deterministic(subject: Subject) -> None:
    """In evaluation mode two calls in a row give the same."""
    encoder = _make(subject)
    view = _view(encoder)
    fault = "in evaluation mode a second call gives another {}: switch dropout off, keep no state"
    _claim_same(_run(encoder, view), _run(encoder, view), fault, tolerance=1e-6)


def check_images_are_independent(subject: Subject) -> None:
    """In evaluation mode an image's result does not depend on its neighbors in the batch."""
    encoder = _make(subject)
    ours, theirs = _view(encoder), _view(encoder, seed=7)
    mixed = View(*(torch.cat([a[:1], b[1:]]) for a, b in zip(ours, theirs, strict=True)))
    whole, single = _run(encoder, ours), View(ours.image[:1], ours.segments[:1])
    for case, view in (("alone", single), ("among others", mixed)):
        part = _run(encoder, view)
        first = [{name: t[:1] for name, t in _tensors(found).items()} for found in (whole, part)]
        for name, value in first[0].items():
            fault = f"an image {case} has another {name}: no statistic may run over the batch in evaluation"
            claim_equal(value, first[1][name], fault, tolerance=1e-4)


def check_config_rebuilds(subject: Subject) -> None:
    """The factory builds an equal encoder of ``encoder.config``, which takes the same state."""
    encoder = _make(subject)
    try:
        again = _make(subject, encoder.config, seed=9)
    except CastError as error:
        raise ContractError(f"the factory refuses its encoder's config {encoder.config}: {error}") from error
    claim(
        again.config == encoder.config,
        f"the encoder of {encoder.config} has the config {again.config}; keep what the factory reads in it",
    )
    ours, theirs = ({name: tuple(t.shape) for name, t in e.state_dict().items()} for e in (encoder, again))
    other = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    claim(not other, f"built again from its config, it has another state: {', '.join(other[:5])}")
    again.load_state_dict(encoder.state_dict())
    view = _view(encoder)
    message = "built again from its config, with equal state, it gives another {}: keep weights in the state"
    _claim_same(_run(encoder, view), _run(again, view), message)


def check_deep_copies(subject: Subject) -> None:
    """A copy made after a training step works alike, and shares nothing: it becomes a momentum encoder."""
    encoder = _make(subject)
    view = _view(encoder)
    encoder.train()
    _loss(encoder(view)).backward()  # type: ignore[no-untyped-call]
    try:
        copied = copy.deepcopy(encoder)
    except Exception as fault:
        raise ContractError(f"deepcopy fails after a step: {fault}; store no result on self") from fault
    _claim_same(_run(encoder, view), _run(copied, view), "a deep copy gives another {}")
    theirs = copied.state_dict()
    own = {name: tensor for name, tensor in encoder.state_dict().items() if tensor.numel()}
    shared = [name for name, tensor in own.items() if tensor.data_ptr() == theirs[name].data_ptr()]
    claim(not shared, f"a deep copy shares {', '.join(shared[:5])}: keep tensors as parameters or buffers")


def check_leaves_random_state_alone(subject: Subject) -> None:
    """Building draws from torch's generator and no other; evaluation leaves all generators alone."""
    with kept_random_state():
        built = []
        for seed in (0, 1):
            seed_all(seed)
            torch.manual_seed(3)
            before = _states()
            built.append(_factory(subject)(_config(subject)))
            moved = _moved(before) - {"torch"}
            claim(not moved, f"building draws from {' and '.join(sorted(moved))}: draw from torch's alone")
        theirs = built[1].state_dict()
        for name, value in built[0].state_dict().items():
            fault = f"the same torch seed gives another {name}: draw weights from torch's global generator"
            claim_equal(value, theirs[name], fault, tolerance=0)
        view, before = _view(built[0]), _states()
        _run(built[0], view)
        moved = _moved(before)
        claim(not moved, f"evaluation moves the generator of {' and '.join(sorted(moved))}: draw nothing")


def _states() -> dict[str, object]:
    """The states of the global generators, by library."""
    _, keys, position, *_ = np.random.get_state()  # noqa: NPY002 - what a plugin may use by mistake
    numpy = (bytes(np.asarray(keys)), position)
    return {"Python": random.getstate(), "numpy": numpy, "torch": bytes(torch.get_rng_state().numpy())}


def _moved(before: dict[str, object]) -> set[str]:
    return {name for name, state in _states().items() if state != before[name]}


def check_gradients(subject: Subject) -> None:
    """From the last class token a gradient reaches every parameter that is trained, and no frozen one."""
    encoder = _make(subject)
    encoder.train()
    _loss(encoder(_view(encoder))).backward()  # type: ignore[no-untyped-call]
    named = list(encoder.named_parameters())
    idle = [name for name, p in named if p.requires_grad and p.grad is None]
    claim(not idle, f"no gradient reaches {', '.join(idle[:5])}: DDP would wait for it; use or freeze them")
    broken = [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()]
    claim(not broken, f"the gradient of {', '.join(broken[:5])} is not finite")


def check_half_precision(subject: Subject) -> None:
    """Under autocast to bfloat16 and float16 all values are finite, and masses stay float32."""
    encoder = _make(subject)
    view = _view(encoder)
    encoder.eval()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype), torch.no_grad():
            found = encoder(view)
        for name, value in _tensors(found).items():
            claim(bool(value.isfinite().all()), f"autocast to {dtype}: {name} is not finite")
        for at, stage in enumerate(found.stages):
            claim(
                stage.mass.dtype == torch.float32,
                f"autocast to {dtype}: stages[{at}].mass is {stage.mass.dtype}, not float32: it counts cells",
            )


def check_leaves_input_alone(subject: Subject) -> None:
    """The view is not written to."""
    encoder = _make(subject)
    view = _view(encoder)
    before = copy.deepcopy(view)
    _run(encoder, view)
    for name, old, new in zip(view._fields, before, view, strict=True):
        claim(torch.equal(old, new), f"view.{name} was changed in place: work on a copy")


def check_refuses_what_is_no_view(subject: Subject) -> None:
    """A bare tensor, or an image of bytes, is a ContractError that says what was given."""
    encoder = _make(subject)
    view = _view(encoder)
    raw = View(samples.pixels(1, *view.image.shape[-2:]), view.segments[:1])
    for case, wrong, word in (("a bare image", view.image, "tensor"), ("a raw view", raw, "uint8")):
        _claim_refused(encoder, wrong, case, word)


def _claim_refused(encoder: Encoder, wrong: Any, case: str, word: str) -> None:
    remedy = "begin forward with castssl.tokens.inputs.check_image(view)"
    try:
        _run(encoder, wrong)
    except ContractError as refusal:
        claim(word in str(refusal), f"given {case}, the error should also name {word}: {refusal}")
    except Exception as fault:
        raise ContractError(
            f"given {case}, raise ContractError, not {type(fault).__name__}: {remedy}"
        ) from fault
    else:
        raise ContractError(f"given {case}, raise ContractError: {remedy}")


checks: list[Check] = [
    check_conforms,
    check_stages,
    check_padding,
    check_is_deterministic,
    check_images_are_independent,
    check_config_rebuilds,
    check_deep_copies,
    check_leaves_random_state_alone,
    check_gradients,
    check_half_precision,
    check_leaves_input_alone,
    check_refuses_what_is_no_view,
]
"""All checks of this room."""
