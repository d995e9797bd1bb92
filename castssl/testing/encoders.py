"""The contract of encoders (:class:`castssl.contracts.Encoder`) as checks.

Each check takes a spec ``KIND:NAME`` of a registered encoder, or a factory ``factory(config) -> Encoder``,
and raises ContractError with what the author should change.  The views have the image size of the encoder's
config and, as superpixels, a grid that leaves one token of the first stage without a pixel.
"""

from __future__ import annotations

import copy
import math
import random
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from castssl.contracts import Encoder, Visit
from castssl.encoder_config import EncoderConfig, plugin_config
from castssl.errors import CastError, ContractError
from castssl.modes import kept_random_state
from castssl.registry import build
from castssl.testing import claims, samples
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
    seed_all,
)
from castssl.testing.fake_device import READ, fake_device, fields_on_device, move
from castssl.types import DenseTokens, Hierarchy, Tokens, View

SIDE = 64
"""Pixels per side in the factory's config."""


def _config(subject: Subject) -> EncoderConfig:
    """The config of the spec ``KIND:NAME``; a plugin may be named without NAME."""
    kind, _, name = subject.partition(":") if isinstance(subject, str) else ("check", "", "")
    return plugin_config(f"{kind}:{name}", image_size=SIDE)


def _build(subject: Subject, config: EncoderConfig) -> Encoder:
    """The encoder of a factory, or of the plugin that the spec ``KIND:NAME`` begins with."""
    encoder: Encoder
    if isinstance(subject, str):
        encoder = build("encoders", subject.partition(":")[0], config)
    else:
        encoder = subject(config)
    claim_inherits(encoder, Encoder)
    return encoder


def _make(subject: Subject, config: EncoderConfig | None = None, *, seed: int = 0) -> tuple[Encoder, View]:
    """The encoder, with weights drawn from ``seed``, and a view for it."""
    seed_all(seed)
    encoder = _build(subject, config or _config(subject))
    return encoder, _view(encoder)


def _view(encoder: Encoder, batch: int = 3, *, seed: int = 0) -> View:
    """Images of the encoder's size; their segments are cells, of which the last belongs to the one before."""
    side, cells = encoder.config.image_size, max(math.isqrt(encoder.sizes[0]), 1)
    draw = torch.Generator().manual_seed(seed)
    image = samples.pixels(batch, side, side, seed=seed).float() / 127.5 - 1
    image = image + 0.1 * torch.randn(image.shape, generator=draw)
    cell = torch.arange(side) * cells // side
    grid = (cell[:, None] * cells + cell).int().clamp(max=max(cells * cells - 2, 0))
    return View(image, grid.expand(batch, -1, -1).contiguous())


def _run(encoder: Encoder, view: View) -> Hierarchy:
    """The hierarchy in evaluation mode, without gradient."""
    encoder.eval()
    with torch.no_grad():
        return encoder(view)


def _tensors(hierarchy: Hierarchy) -> dict[str, Tensor]:
    """All tensors of a hierarchy that have a row for each image, by name."""
    tensors = {"segments": hierarchy.segments}
    for number, stage in enumerate(hierarchy.stages):
        fields = {"x": stage.x, "cls": stage.cls, "mass": stage.mass}
        tensors |= {f"stages[{number}].{name}": value for name, value in fields.items()}
    return tensors | {f"assigns[{number}]": assign for number, assign in enumerate(hierarchy.assigns)}


def _claim_same(a: Hierarchy, b: Hierarchy, message: str, *, tolerance: float = 1e-5) -> None:
    claims.claim_same(_tensors(a), _tensors(b), message, tolerance=tolerance)


def _backward(encoder: Encoder, view: View) -> None:
    """Gradient from the last class token in training mode; random weights, as a plain sum may cancel out."""
    encoder.train()
    _backward_from(encoder, encoder(view).stages[-1].cls)


def _backward_from(encoder: Encoder, output: Tensor) -> None:
    draw = torch.Generator().manual_seed(2)
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        (output.float() * torch.randn(output.shape, generator=draw)).sum().backward()


def check_conforms(subject: Subject) -> None:
    """It is an Encoder that declares its width and sizes, which its config has, too."""
    seed_all(0)
    encoder = _build(subject, _config(subject))
    dim, sizes, config = (getattr(encoder, name, None) for name in ("dim", "sizes", "config"))
    claim(type(dim) is int and dim > 0, f"set dim to the width of the class token, got {dim!r}")
    fits = isinstance(sizes, tuple) and bool(sizes) and all(type(size) is int and size > 0 for size in sizes)
    claim(fits, f"set sizes to a tuple of how many tokens each stage has, fine to coarse, got {sizes!r}")
    claim(isinstance(config, EncoderConfig), f"set config to the factory's EncoderConfig, got {config!r}")
    shape = (encoder.config.dim, encoder.config.sizes)
    fault = f"config has dim and sizes {shape}, the encoder has {(dim, sizes)}: use dataclasses.replace"
    claim(shape == (dim, sizes), fault)


def check_stages(subject: Subject) -> None:
    """Stages, class tokens, masses and assignments have the shapes and dtypes that were declared."""
    encoder, view = _make(subject)
    hierarchy = _run(encoder, view)
    claim(isinstance(hierarchy, Hierarchy), f"return castssl.types.Hierarchy, got {type(hierarchy).__name__}")
    segments, stages, assigns = hierarchy
    shape = (len(view.image), *view.image.shape[2:])
    integers = segments.shape == shape and not segments.is_floating_point()
    claim(
        integers, f"segments are whole numbers {shape}, got {segments.dtype} of shape {tuple(segments.shape)}"
    )
    count, declared = len(stages), encoder.stages_with_cls
    claim(count == declared, f"{count} stages, but stages_with_cls declares {declared}")
    claim(0 < count <= len(encoder.sizes), f"{count} stages, but sizes declares {len(encoder.sizes)}")
    claim(len(assigns) == count - 1, f"{count} stages need {count - 1} assigns, got {len(assigns)}")
    for number, (stage, size) in enumerate(zip(stages, encoder.sizes, strict=False)):
        _claim_stage(stage, (len(view.image), size), f"stages[{number}]")
    for number, assign in enumerate(assigns):
        fine, coarse, case = *encoder.sizes[number : number + 2], f"assigns[{number}]"
        kinds = {torch.float32: (len(view.image), fine, coarse), torch.int64: (len(view.image), fine)}
        claim(assign.dtype in kinds, f"{case} is {assign.dtype}, not float32 or int64")
        shape = kinds[assign.dtype]
        claim(assign.shape == shape, f"{case} of {assign.dtype} has shape {tuple(assign.shape)}, not {shape}")
    high = int(segments.max())
    claim(high < encoder.sizes[0], f"segments go up to {high}, but sizes declares {encoder.sizes[0]} tokens")
    with torch.no_grad():
        whole = encoder.segment(view)
    claim(
        isinstance(whole, Hierarchy) and len(whole.stages) == len(encoder.sizes),
        f"segment() returns a Hierarchy of all stages that sizes declares, {len(encoder.sizes)}",
    )


def _claim_stage(stage: Tokens, shape: tuple[int, int], case: str) -> None:
    images, size = shape
    for name, value, expected in (
        ("x", stage.x, (images, size, stage.x.shape[-1])),
        ("cls", stage.cls, (images, 1, stage.cls.shape[-1])),
        ("mass", stage.mass, (images, size)),
    ):
        actual = tuple(value.shape)
        claim(actual == expected, f"{case}.{name} has shape {actual}, not {expected}, as declared")
        claim(bool(value.isfinite().all()), f"{case}.{name} of a plain image is not finite")
    claim(stage.mass.dtype == torch.float32, f"{case}.mass is {stage.mass.dtype}, not float32")


def check_stage_dims(subject: Subject) -> None:
    """The tokens and the class token of each stage have the width that ``stage_dims`` declares."""
    encoder, view = _make(subject)
    dims, sizes = encoder.stage_dims, encoder.sizes
    whole = isinstance(dims, tuple) and all(type(dim) is int for dim in dims) and len(dims) == len(sizes)
    claim(whole, f"stage_dims has a whole number for each of {len(sizes)} stages, got {dims!r}")
    hierarchy = _run(encoder, view)
    with torch.no_grad():
        every = encoder.segment(view).stages
    for number, (stage, dim) in enumerate(zip(every, dims, strict=True)):
        width = stage.x.shape[-1]
        claim(width == dim, f"stages[{number}].x has width {width}, but stage_dims declares {dim}")
    for number, stage in enumerate(hierarchy.stages):
        last = number == len(hierarchy.stages) - 1
        dim, name = (encoder.dim, "dim") if last else (dims[number], "stage_dims")
        width = stage.cls.shape[-1]
        claim(width == dim, f"stages[{number}].cls has width {width}, but {name} declares {dim}")


def check_padding(subject: Subject) -> None:
    """A token of mass 0 is padding: no pixel and no token of the next stage is its; no other loses mass."""
    hierarchy = _run(*_make(subject))
    masses = [stage.mass for stage in hierarchy.stages]
    claim(all(bool((mass >= 0).all()) for mass in masses), "a mass is below 0; it counts stem cells")
    labels = hierarchy.segments.flatten(1).long()
    covered = (masses[0].gather(1, labels.clamp(min=0)) > 0) | (labels < 0)
    fault = "a segment has pixels, but its token has mass 0: mass 0 is padding; label such pixels -1"
    claim(bool(covered.all()), fault)
    for number, given in enumerate(hierarchy.assigns):
        valid, case, count = masses[number] > 0, f"assigns[{number}]", masses[number + 1].shape[1]
        if not given.is_floating_point():
            claim(
                bool((given[~valid] == -1).all()),
                f"{case}: tokens of mass 0 have -1, not the token of another",
            )
            within = bool(((given[valid] >= 0) & (given[valid] < count)).all())
            claim(within, f"{case}: tokens with mass go to one of the {count} of the next stage")
        assign = hierarchy.shares(number)
        sums = assign.sum(-1)
        claim(bool((assign[~valid] == 0).all()), f"{case}: rows of mass 0 must be 0; multiply by (mass > 0)")
        fault = f"{case}: rows of tokens with mass must sum to 1"
        claim_equal(sums[valid], torch.ones_like(sums[valid]), fault, tolerance=1e-3)
        passed_on = (assign * masses[number][..., None]).sum(1)
        fault = f"stages[{number + 1}].mass is not the mass of the tokens that {case} hands to it"
        claim_equal(masses[number + 1], passed_on, fault, tolerance=1e-3)


def check_visits(subject: Subject) -> None:
    """Visits come block by block; where they change nothing, ``visit_blocks`` gives what ``forward`` does."""
    encoder, view = _make(subject)
    expected, visits = _run(encoder, view), encoder.visits
    counts = isinstance(visits, tuple) and all(type(count) is int and count > 0 for count in visits)
    fault = f"visits has the visits of each of {encoder.stages_with_cls} stages, 1 or more, got {visits!r}"
    claim(counts and len(visits) == encoder.stages_with_cls, fault)
    seen: list[tuple[int, Tokens]] = []

    def visit(stage: int, tokens: Tokens) -> Tensor:
        seen.append((stage, tokens))
        return tokens.x

    found = _visit(encoder, view, visit)
    order, declared = [stage for stage, _ in seen], _order(encoder)
    claim(order == declared, f"stages are visited in the order {order}, but visits declares {declared}")
    fault = "visits that change nothing give another {}: do in visit_blocks all that forward does"
    _claim_same(found, expected, fault)
    for number, (tokens, stage) in enumerate(zip(dict(seen).values(), expected.stages, strict=True)):
        pairs = {"x": (tokens.x, stage.x), "mass": (tokens.mass, stage.mass)}
        # The last class token may be visited before it is normed, or replaced by another feature.
        pairs |= {"cls": (tokens.cls, stage.cls)} if number < len(visits) - 1 else {}
        for name, pair in pairs.items():
            claim_equal(*pair, f"the last visit of stage {number} sees another {name} than the stage's")


def check_updates(subject: Subject) -> None:
    """With ``takes_updates`` what a visit returns goes on, and is the stage's x after the last visit of it.

    Without, it changes nothing.
    """
    encoder, view = _make(subject)
    expected, order = _run(encoder, view), _order(encoder)
    claim(type(encoder.takes_updates) is bool, f"takes_updates is a bool, got {encoder.takes_updates!r}")
    for at, stage in enumerate(order):
        change = _Change(at)
        found = _visit(encoder, view, change)
        case = f"visit {at}, of stage {stage}, returns another x"
        if not encoder.takes_updates:
            fault = f"{case}, and {{}} changes; set takes_updates = True"
            _claim_same(found, expected, fault)
            continue
        before, wanted = (
            h._replace(stages=h.stages[:stage], assigns=h.assigns[:stage]) for h in (found, expected)
        )
        _claim_same(before, wanted, f"{case}, and {{}}, which came before, changes")
        for number in range(stage, len(expected.stages)):
            same = torch.equal(found.stages[number].x, expected.stages[number].x)
            fault = f"{case}, but stages[{number}].x is as before: hand it on, or set takes_updates = False"
            claim(not same, fault)
        if at == len(order) - 1 or order[at + 1] != stage:
            fault = f"{case}, but that is not the x of the stage, though it is the last of its visits"
            claim_equal(found.stages[stage].x, change.returned, fault)


class _Change:
    """A visit that adds noise to the tokens once, and keeps what it returned then.

    Args:
        at: the number of the call, from 0.
    """

    returned: Tensor

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, stage: int, tokens: Tokens) -> Tensor:
        """The x of the tokens, or with noise."""
        self.left -= 1
        if self.left != -1:
            return tokens.x
        draw = torch.Generator().manual_seed(3)
        self.returned = tokens.x + torch.randn(tokens.x.shape, generator=draw)
        return self.returned


def _visit(encoder: Encoder, view: View, visit: Visit) -> Hierarchy:
    """The hierarchy with visits, in evaluation mode, without gradient."""
    encoder.eval()
    with torch.no_grad():
        found = encoder.visit_blocks(view, visit)
    claim(isinstance(found, Hierarchy), f"visit_blocks returns a Hierarchy, got {type(found).__name__}")
    return found


def _order(encoder: Encoder) -> list[int]:
    """The stage of each visit, as ``visits`` declares."""
    return [stage for stage, count in enumerate(encoder.visits) for _ in range(count)]


def check_is_deterministic(subject: Subject) -> None:
    """In evaluation mode two calls in a row give the same."""
    encoder, view = _make(subject)
    fault = "in evaluation mode a second call gives another {}: switch dropout off, keep no state"
    _claim_same(_run(encoder, view), _run(encoder, view), fault, tolerance=1e-6)


def check_images_are_independent(subject: Subject) -> None:
    """In evaluation mode an image's result does not depend on its neighbors in the batch."""
    encoder, view = _make(subject)
    others = _view(encoder, seed=7)
    mixed = View(*(torch.cat([a[:1], b[1:]]) for a, b in zip(view, others, strict=True)))
    expected = {name: value[:1] for name, value in _tensors(_run(encoder, view)).items()}
    for case, batch in (("alone", View(*(field[:1] for field in view))), ("among others", mixed)):
        first = {name: value[:1] for name, value in _tensors(_run(encoder, batch)).items()}
        fault = f"an image {case} has another {{}}: no statistic may run over the batch in evaluation"
        claims.claim_same(expected, first, fault, tolerance=1e-4)


def check_config_rebuilds(subject: Subject) -> None:
    """The factory builds an equal encoder of ``encoder.config``, which takes the same state."""
    encoder, view = _make(subject)
    config = encoder.config
    try:
        rebuilt, _ = _make(subject, config, seed=9)
    except CastError as error:
        raise ContractError(f"the factory refuses its encoder's config {config}: {error}") from error
    fault = f"the encoder of {config} has the config {rebuilt.config}; keep what the factory reads in it"
    claim(rebuilt.config == config, fault)
    shapes, rebuilt_shapes = (
        {name: t.shape for name, t in e.state_dict().items()} for e in (encoder, rebuilt)
    )
    other = [name for name in {**shapes, **rebuilt_shapes} if shapes.get(name) != rebuilt_shapes.get(name)]
    claim(not other, f"built again from its config, it has another state: {', '.join(other[:5])}")
    rebuilt.load_state_dict(encoder.state_dict())
    fault = "built again from its config, with equal state, it gives another {}: keep weights in the state"
    _claim_same(_run(encoder, view), _run(rebuilt, view), fault)


def check_deep_copies(subject: Subject) -> None:
    """A copy made after a training step works alike, and shares nothing: it becomes a momentum encoder."""
    encoder, view = _make(subject)
    _backward(encoder, view)
    copied = deep_copy(encoder)
    _claim_same(_run(encoder, view), _run(copied, view), "a deep copy gives another {}")


def check_leaves_random_state_alone(subject: Subject) -> None:
    """Building draws from torch's generator and no other; evaluation leaves all generators alone."""
    with kept_random_state():
        built = []
        for seed in (0, 1):
            seed_all(seed)
            torch.manual_seed(3)
            before = _states()
            built.append(_build(subject, _config(subject)))
            _claim_unmoved(before, "building draws from {}: draw from torch's alone", "torch")
        fault = "the same torch seed gives another {}: draw weights from torch's global generator"
        claims.claim_same(built[0].state_dict(), built[1].state_dict(), fault, tolerance=0)
        view, before = _view(built[0]), _states()
        _run(built[0], view)
        _claim_unmoved(before, "evaluation moves the generator of {}: draw nothing")


def _states() -> dict[str, object]:
    """The states of the global generators, by library."""
    _, keys, position, *_ = np.random.get_state()  # noqa: NPY002 - what a plugin may use by mistake
    numpy = (bytes(np.asarray(keys)), position)
    return {"Python": random.getstate(), "numpy": numpy, "torch": bytes(torch.get_rng_state().numpy())}


def _claim_unmoved(before: dict[str, object], fault: str, allowed: str = "") -> None:
    moved = sorted(name for name, state in _states().items() if state != before[name] and name != allowed)
    claim(not moved, fault.replace("{}", " and ".join(moved)))


def check_gradients(subject: Subject) -> None:
    """From the last class token a gradient reaches every parameter that is trained, and no frozen one.

    With ``dense_dim``, so does a gradient of the dense tokens.
    """
    encoder, view = _make(subject)
    _backward(encoder, view)
    claim_trained(encoder)
    if encoder.dense_dim is not None:
        encoder.zero_grad()
        _backward_from(encoder, encoder.dense(view).x)
        claim_trained(encoder, "of dense tokens ")


def check_half_precision(subject: Subject) -> None:
    """Under autocast to bfloat16 and float16 all values are finite, and masses stay float32."""
    encoder, view = _make(subject)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            hierarchy = _run(encoder, view)
        for name, value in _tensors(hierarchy).items():
            claim(bool(value.isfinite().all()), f"autocast to {dtype}: {name} is not finite")
            narrow = name.endswith(".mass") and value.dtype != torch.float32
            claim(
                not narrow,
                f"autocast to {dtype}: {name[:-5]}.mass is {value.dtype}, not float32: it counts cells",
            )


def check_runs_on_a_device(subject: Subject) -> None:
    """No tensor of the CPU meets its weights and its view, as on a GPU; values may be read."""
    encoder, view = _make(subject)
    with suppress(*READ), fake_device():
        move(encoder)
        encoder(fields_on_device(view))


def check_leaves_input_alone(subject: Subject) -> None:
    """The view is not written to."""
    encoder, view = _make(subject)
    before = copy.deepcopy(view)
    _run(encoder, view)
    claim_untouched("view", before, view)


def check_dense(subject: Subject) -> None:
    """With ``dense_dim``, each pixel has a token of that width, and images are independent."""
    encoder, view = _make(subject)
    if encoder.dense_dim is None:
        return
    encoder.eval()
    with torch.no_grad():
        found = encoder.dense(view)
        alone = encoder.dense(View(view.image[1:2], view.segments[1:2]))
    claim(
        isinstance(found, DenseTokens), f"dense returns castssl.types.DenseTokens, got {type(found).__name__}"
    )
    images, count, *_ = found.x.shape
    shape = (len(view.image), count, encoder.dense_dim)
    claim(found.x.shape == shape, f"dense tokens have shape {tuple(found.x.shape)}, not {shape}, as declared")
    claim(
        found.mass.shape == (images, count) and found.mass.dtype == torch.float32,
        f"dense mass is {found.mass.dtype} {tuple(found.mass.shape)}, not float32 {(images, count)}",
    )
    labels = found.labels
    claim(
        labels.ndim == 3 and len(labels) == images and not labels.is_floating_point(),
        f"dense labels are whole numbers (B, H, W), got {labels.dtype} of shape {tuple(labels.shape)}",
    )
    low, high = int(labels.min()), int(labels.max())
    claim(low >= -1 and high < count, f"dense labels go from {low} to {high}, but there are {count} tokens")
    own = found.mass.gather(1, labels.flatten(1).long().clamp(min=0))
    claim(
        bool(((own > 0) | (labels.flatten(1) < 0)).all()),
        "a pixel's dense token has mass 0: mass 0 is padding; label such pixels -1",
    )
    rows, columns = found.grid or (1, count)
    claim(rows * columns == count, f"a grid of {rows} x {columns} is not that of {count} dense tokens")
    fault = "an image alone has other dense tokens: no statistic may run over the batch in evaluation"
    claim_equal(found.x[1:2], alone.x, fault, tolerance=1e-4)


def check_refuses_what_is_no_view(subject: Subject) -> None:
    """A bare tensor, or an image of bytes, is a ContractError that names the input."""
    encoder, view = _make(subject)
    raw: Any = View(samples.pixels(1, *view.image.shape[-2:]), view.segments[:1])
    bare: Any = view.image
    remedy = "begin forward with castssl.tokens.inputs.check_image(view)"
    for case, value, word in (("a bare image", bare, "tensor"), ("a raw view", raw, "uint8")):
        claim_refused(partial(_run, encoder, value), case, (word,), ContractError, remedy)


checks: list[Check] = checks_of(globals())
"""All checks of encoders."""
