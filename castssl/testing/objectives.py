"""The contract of objectives (:class:`castssl.contracts.Objective`) as checks.

Each check takes a registry spec or a factory ``factory(encoder, labels) -> Objective`` and raises
ContractError with what the author should change.  The encoder is the samples'; the label tree is the first of
the samples' that fits the objective's target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from castssl import distributed
from castssl.contracts import Model, Objective, Target
from castssl.errors import CastError, ConfigError, ContractError
from castssl.labels import LabelTree
from castssl.testing import samples
from castssl.testing.claims import (
    Check,
    Subject,
    checks_of,
    claim,
    claim_equal,
    claim_inherits,
    claim_refused,
    claim_trained,
    make,
    promised,
    seed_all,
)
from castssl.testing.fake_device import READ, fake_device, fields_on_device, move
from castssl.testing.processes import together
from castssl.types import Batch, Hierarchy, LabelAttention, Outcome, View

STEPS = 40
"""Optimizer steps in which one batch must be learned."""
LEARNED = 0.8
"""Share of the first loss that the last ones must stay below."""


class Built(NamedTuple):
    """An objective, and the label tree that it was built for."""

    objective: Objective
    tree: LabelTree

    def batch(self, size: int = 4, *, seed: int = 0) -> Batch:
        """A batch that fits."""
        made, width = self.objective, self.objective.text_dim
        return samples.batch(made.views, self.tree, size, seed=seed, target=made.target, text_dim=width)


def build(subject: Subject, *, seed: int = 0) -> Built:
    """The subject around a sample encoder, with a label tree that fits its target.

    Raises:
        ContractError: if no sample tree fits.
        CastError, ValueError: as the factory raises them for the last tree.
    """
    refusal: Exception | None = None
    for tree in samples.TREES:
        try:
            torch.manual_seed(seed)
            objective: Objective = make("objectives", subject, samples.SampleEncoder(), tree, seed=seed)
        except (CastError, ValueError) as cause:
            refusal = cause
            continue
        if _suits(objective.target, tree):
            return Built(objective, tree)
    if refusal is not None:
        raise refusal
    raise ContractError(
        "no sample label tree fits its target: set target to 'none', 'path', 'multihot' or 'map'"
    )


def _suits(target: Target, tree: LabelTree) -> bool:
    if target in ("path", "map"):
        return tree.levels > 0 and tree.exclusive
    return tree.levels == 0 if target == "none" else not tree.exclusive


def take_step(built: Built, optimizer: torch.optim.Optimizer, batch: Batch, progress: float) -> float:
    """One optimizer step and its hook; the loss before it."""
    loss = built.objective(batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    built.objective.after_step(progress)
    return float(loss.detach())


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters."""
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)


def trained(subject: Subject) -> Built:
    """The subject in training mode after two steps, so that every part of its state has moved."""
    built = build(subject)
    built.objective.train()
    optimizer = adamw(built.objective)
    for step in range(2):
        take_step(built, optimizer, built.batch(seed=step), (step + 1) / 8)
    return built


def check_conforms(subject: Subject) -> None:
    """It is an Objective that declares views and target, and trains one model around the given encoder."""
    encoder = samples.SampleEncoder()
    objective = make("objectives", subject, encoder, build(subject).tree)
    claim_inherits(objective, Objective)
    views, target = objective.views, objective.target
    claim(type(views) is int and views > 0, f"set views to the number of views of each image, got {views!r}")
    claim(target in get_args(Target), f"set target to one of {get_args(Target)}, got {target!r}")
    width = objective.text_dim
    claim(type(width) is int and width >= 0, f"set text_dim to a width, or 0 for no texts, got {width!r}")
    claim(isinstance(getattr(objective, "model", None), Model), "set self.model to a castssl.contracts.Model")
    model: Model = objective.model
    claim(model.encoder is encoder, "build self.model around the encoder that the factory was given")
    inside = set(model.parameters())
    beside = [name for name, p in objective.named_parameters() if p.requires_grad and p not in inside]
    claim(not beside, f"{', '.join(beside)} is trained beside self.model: move it there, or freeze it")
    branches = objective.branches()
    claim(branches.get("base") is model, "branches() has the model itself as 'base'")
    wrong = [name for name, branch in branches.items() if not isinstance(branch, Model)]
    claim(not wrong, f"the branches {', '.join(wrong)} are not a castssl.contracts.Model")


def check_outcome(subject: Subject) -> None:
    """A finite float32 scalar with gradient, and logs of detached float scalars."""
    built = build(subject)
    built.objective.train()
    outcome = built.objective(built.batch())
    claim(isinstance(outcome, Outcome), f"return castssl.types.Outcome, got {type(outcome).__name__}")
    _claim_loss(outcome.loss, "in training")
    claim(outcome.loss.requires_grad, "the loss has no gradient: do not detach it")
    for name, value in outcome.logs.items():
        scalar = isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
        claim(scalar, f"logs[{name!r}] must be a float scalar tensor, got {value!r}")
        claim(not value.requires_grad, f"logs[{name!r}] holds the graph: detach it")


def _claim_loss(loss: Tensor, case: str) -> None:
    claim(loss.ndim == 0, f"{case}: the loss must be a scalar, got shape {tuple(loss.shape)}")
    claim(loss.dtype == torch.float32, f"{case}: compute the loss in float32, got {loss.dtype}")
    claim(bool(loss.isfinite()), f"{case}: the loss of a plain batch is {float(loss.detach())}")


def check_gradients(subject: Subject) -> None:
    """Every trainable parameter gets a gradient, no frozen one does."""
    built = build(subject)
    built.objective.train()
    built.objective(built.batch()).loss.backward()
    claim_trained(built.objective)


def check_fits_one_batch(subject: Subject) -> None:
    """Forty steps on one batch bring the loss down."""
    built = build(subject)
    built.objective.train()
    optimizer, batch = adamw(built.objective), built.batch(8)
    losses = [take_step(built, optimizer, batch, (step + 1) / STEPS) for step in range(STEPS)]
    last = sum(losses[-5:]) / 5
    claim(
        last < LEARNED * losses[0],
        f"one batch is not learned: its loss went from {losses[0]:.3g} to {last:.3g} in {STEPS} steps",
    )


def check_refuses_wrong_batches(subject: Subject) -> None:
    """A wrong number of views, or a target or texts of wrong dtype or width, is a ValueError with both."""
    built = build(subject)
    built.objective.train()
    batch, views, target = built.batch(), built.objective.views, built.objective.target
    more = batch._replace(views=[*batch.views, batch.views[0]])
    cases: list[tuple[str, Batch, tuple[object, ...]]] = [(f"{views + 1} views", more, (views, views + 1))]
    if target != "none":
        other = batch.target.long() if target == "multihot" else batch.target.float()
        dtypes, width = [str(value.dtype)[6:] for value in (batch.target, other)], batch.target.shape[1]
        cases.append((f"a target of {other.dtype}", batch._replace(target=other), tuple(dtypes)))
        if target == "map":
            shape = tuple(batch.target[:, 0, :1].shape)
            paths = batch._replace(target=batch.target[:, 0, :1])
            cases.append((f"label paths of shape {shape} in place of maps", paths, (shape,)))
        else:
            wide = batch._replace(target=torch.cat([batch.target] * 3, 1))
            cases.append((f"a target of width {3 * width}", wide, (width, 3 * width)))
    if batch.text is not None:
        dim = built.objective.text_dim
        wide = batch._replace(text=torch.cat([batch.text] * 2, 1))
        cases.append(("a batch without texts", batch._replace(text=None), (dim,)))
        cases.append((f"texts of width {2 * dim}", wide, (dim, 2 * dim)))
    for case, wrong, words in cases:
        claim_refused(partial(built.objective, wrong), case, map(str, words))


def check_unknown_labels(subject: Subject) -> None:
    """Of target "map" or "multihot", -1 does not count: if all are -1, loss and gradients are 0."""
    built = build(subject)
    if built.objective.target not in ("map", "multihot"):
        return
    built.objective.train()
    batch = built.batch()
    loss = built.objective(batch._replace(target=torch.full_like(batch.target, -1))).loss
    value = float(loss.detach())
    claim(value == 0, f"targets of -1 (unknown) alone gave a loss of {value:.3g}, expected 0: leave out -1")
    loss.backward()
    moved = [name for name, p in built.objective.named_parameters() if p.grad is not None and p.grad.any()]
    claim(not moved, f"targets of -1 (unknown) alone gave a gradient to {', '.join(moved[:5])}")


def check_missing_texts(subject: Subject) -> None:
    """A batch in which no image has a text, all rows 0, gives a finite loss and finite gradients."""
    built = build(subject)
    if not built.objective.text_dim:
        return
    built.objective.train()
    batch = built.batch()
    assert batch.text is not None
    bare = batch._replace(text=torch.zeros_like(batch.text))
    loss = built.objective(bare).loss
    claim(bool(loss.isfinite()), f"a batch without any text (rows of zeros) gave {float(loss.detach())}")
    loss.backward()
    claim_trained(built.objective)


def check_returns_non_finite_loss(subject: Subject) -> None:
    """A batch that is not finite gives a loss that is not; the run stops then."""
    built = build(subject)
    built.objective.train()
    batch = built.batch()
    broken = [View(torch.full_like(view.image, math.nan), view.segments) for view in batch.views]
    with promised("return a loss that is not finite instead of raising {}"):
        loss = built.objective(batch._replace(views=broken)).loss
    claim(
        not bool(loss.isfinite()), f"images of nan gave a loss of {float(loss.detach()):.3g}: do not hide it"
    )


def check_state_is_complete(subject: Subject) -> None:
    """A fresh objective that loads the state has the same loss, in training and in evaluation."""
    used, fresh = trained(subject), build(subject, seed=9)
    fresh.objective.load_state_dict(used.objective.state_dict())
    batch = used.batch(seed=5)
    for mode in (False, True):
        losses = []
        for built in (used, fresh):
            built.objective.train(mode)
            seed_all(3)
            losses.append(built.objective(batch).loss)
        fault = "a fresh objective with the loaded state has another loss: keep parameters or buffers"
        claim_equal(losses[0], losses[1], fault)


def check_after_step_leaves_weights_alone(subject: Subject) -> None:
    """The hook moves what is frozen, never what the optimizer moves."""
    built = trained(subject)
    named = built.objective.named_parameters()
    trainable = {name: p.detach().clone() for name, p in named if p.requires_grad}
    for progress in (0.5, 1.0):
        built.objective.after_step(progress)
    now = dict(built.objective.named_parameters())
    moved = [name for name, before in trainable.items() if not torch.equal(now[name], before)]
    claim(not moved, f"after_step changed trainable weights: {', '.join(moved)}; leave them to the optimizer")


def check_bfloat16(subject: Subject) -> None:
    """Under autocast the loss is float32 and near that of float32, and gradients are finite."""
    built = build(subject)
    built.objective.train()
    batch = built.batch()
    losses = []
    for enabled in (False, True):
        seed_all(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(built.objective(batch).loss)
    _claim_loss(losses[1], "under bfloat16 autocast")
    claim_equal(losses[1], losses[0], "the loss under bfloat16 autocast is far from float32's", tolerance=0.1)
    losses[1].backward()
    claim_trained(built.objective)


def check_runs_on_a_device(subject: Subject) -> None:
    """No tensor of the CPU meets its weights and its batch, as on a GPU; values may be read."""
    built = build(subject)
    objective, batch = built.objective, built.batch()
    objective.train()
    with suppress(*READ), fake_device():
        move(objective)
        objective.after_step(0.5)
        objective(fields_on_device(batch))


def check_predictions(subject: Subject) -> None:
    """Predictions are finite float logits, (B, C) or of maps (B, C, h, w), the same in each batch."""
    built = build(subject)
    built.objective.eval()
    with torch.no_grad():
        full = built.objective.predict(samples.view(4))
        image, segments = samples.view(4)
        half = built.objective.predict(View(image[:2], segments[:2]))
    predicts = built.objective.target == "none" or bool(full)
    claim(predicts, "an objective with a target predicts: return its logits")
    for name, logits in full.items():
        case, shape = f"predict()[{name!r}]", tuple(logits.shape)
        wanted, axes = ("(4, C, h, w)", 4) if built.objective.target == "map" else ("(4, C)", 2)
        claim(len(shape) == axes and shape[0] == 4, f"{case}: expected {wanted}, got {shape}")
        finite = logits.is_floating_point() and bool(logits.isfinite().all())
        claim(finite, f"{case} is not finite float")
        fault = f"{case} depends on the other images of the batch in eval mode"
        claim_equal(half[name], logits[:2], fault, tolerance=1e-4)


def check_several_widths(subject: Subject) -> None:
    """It learns from an encoder whose stages differ in width, or refuses it by a ConfigError."""
    built = build(subject)
    try:
        wide = make("objectives", subject, samples.SamplePyramid(), built.tree)
    except ConfigError:
        return
    wide.train()
    with promised("an encoder of several widths gives {}; read the width of each stage in stage_dims"):
        loss = wide(built.batch()).loss
    _claim_loss(loss, "with an encoder of several widths")


def check_label_attention(subject: Subject) -> None:
    """What labels attend to at each stage sums to 1, padding has none, and images are independent."""
    built = build(subject)
    built.objective.eval()
    image, segments = samples.view(4)
    # Without the last of the four rows of squares: there is padding at each stage.
    view = View(image, segments.clamp(max=11))
    with torch.no_grad():
        found = built.objective.label_attention(view)
        alone = built.objective.label_attention(View(image[1:2], view.segments[1:2]))
    if found is None or alone is None:
        claim(found is alone, "label_attention() gives None for some batches: for all or none")
        return
    multihot = built.objective.target == "multihot"
    claim(multihot, f'only labels of target "multihot" attend, got {built.objective.target!r}: return None')
    sound = isinstance(found, LabelAttention) and isinstance(found.hierarchy, Hierarchy)
    claim(sound, f"return castssl.types.LabelAttention, got {type(found).__name__}")
    stages, labels = found.hierarchy.stages, sum(built.tree.sizes)
    count = len(found.weights)
    claim(count == len(stages), f"{count} weights for {len(stages)} stages: give a tensor for each")
    for number, (weights, stage, single) in enumerate(zip(found.weights, stages, alone.weights, strict=True)):
        case, shape = f"weights[{number}]", (4, labels, stage.x.shape[1])
        claim(weights.shape == shape, f"{case} has shape {tuple(weights.shape)}, not {shape}: (B, C, N)")
        claim(weights.dtype == torch.float32, f"{case} is {weights.dtype}, not float32")
        claim(bool(weights.isfinite().all()), f"{case} of a plain image is not finite")
        claim(bool((weights >= 0).all()), f"{case} is below 0: a label attends by shares")
        padding = stage.mass[:, None].expand(shape) <= 0
        claim(not bool(weights[padding].any()), f"{case}: tokens of mass 0 have a weight: mask them out")
        sums = weights.sum(-1)
        claim_equal(sums, torch.ones_like(sums), f"{case}: those of a label must sum to 1", tolerance=1e-4)
        fault = f"{case} of an image depend on the other images of the batch"
        claim_equal(single, weights[1:2], fault, tolerance=1e-4)


def check_two_ranks_stay_equal(subject: Subject) -> None:
    """After three steps of DDP on different images, two processes hold the same parameters and buffers."""
    together(_three_steps, subject)


def _three_steps(rank: int, subject: Subject) -> None:
    built = build(subject, seed=rank)
    built.objective.train()
    wrapped = DistributedDataParallel(built.objective)
    optimizer = adamw(built.objective)
    for step in range(3):
        outcome = wrapped(built.batch(seed=10 * step + rank))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        built.objective.after_step((step + 1) / 3)
    apart = [name for name, tensor in _shared(built.objective) if not _equal_on_all_ranks(tensor)]
    fault = (
        f"two ranks differ in {', '.join(apart)}: gather through castssl.distributed, move by what all share"
    )
    claim(not apart, fault)


def _shared(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, less the batch statistics, which each rank keeps until the next step."""
    local = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        for name, _ in part.named_buffers()
    }
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name not in local:
            yield name, tensor


def _equal_on_all_ranks(tensor: Tensor) -> bool:
    both = distributed.gather(tensor.detach()[None])
    return torch.equal(both[0], both[1])


checks: list[Check] = checks_of(globals())
"""All checks of objectives."""
