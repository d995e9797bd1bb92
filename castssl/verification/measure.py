"""What is measured at the first optimizer step of a recipe: on its objective, with its batch, as it is then.

Everything is computed in evaluation mode, where batch norm and dropout do not depend on the other images, on
the processor and in float32.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch._dynamo.utils import counters
from torch.optim import Optimizer

from castssl import distributed
from castssl.checkpoints import export
from castssl.checkpoints.agreement import BATCHES, IMAGES, TOLERANCE
from castssl.contracts import Encoder, Objective
from castssl.errors import CastError, ConfigError, ContractError
from castssl.modes import kept_random_state
from castssl.objectives.segmentation import SegmentationModel
from castssl.types import Batch, Outcome, View
from castssl.verification.job import FINDING, GRADIENTS, Job

VALUES = TOLERANCE
"""The largest difference of numbers that are to agree, absolute or relative to the largest of them."""
LOSS = 1e-4
"""The largest relative difference of losses that are to agree."""
GRADIENT = 1e-3
"""The largest norm of a difference of gradients that are to agree, relative to their norm."""
RANDOM = 1e-6
"""The relative difference of the losses of one batch from which on a loss is random."""
Tensors = dict[str, Tensor]


class Inapplicable(Exception):
    """A check that cannot be made of this recipe, with the reason."""


class Gradients(NamedTuple):
    """The first optimizer step of a recipe."""

    losses: list[float]
    """Of each of its batches; a mean over the processes."""
    gradients: Tensors
    """By parameter."""
    images: list[str]
    """A hash of each image, of all processes."""
    random: float
    """The relative difference of the losses of one batch with two seeds."""
    resumable: bool
    """False for a stream."""


class Measurement:
    """Takes the place of the first optimizer step; the process ends there.

    Args:
        job: names the measurement.
        objective: what the recipe trains, before it is wrapped.
        optimizer: of the recipe.
        losses: those of the batches of the step; filled by the run.
        images: a hash of each image of the step; likewise.
    """

    resumable = True

    def __init__(
        self, job: Job, objective: nn.Module, optimizer: Optimizer, losses: list[float], images: list[str]
    ) -> None:
        self._job, self._objective, self._losses, self._images = job, objective, losses, images
        self._batch: Batch | None = None
        self._state: Tensors = {}
        objective.register_forward_pre_hook(self._before)
        optimizer.register_step_pre_hook(self._at_step)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        module.eval()
        if self._batch is None and args and isinstance(args[0], Batch):
            self._batch = args[0]
            self._state = {name: value.clone() for name, value in module.state_dict().items()}

    def _at_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._job.purpose == "gradients":
            self._write_gradients()
        else:
            self._write_finding()
        raise SystemExit(0)

    def _write_gradients(self) -> None:
        losses = distributed.mean(torch.tensor(self._losses, dtype=torch.float64)).tolist()
        images = self._images
        if distributed.world() > 1:
            parts: list[list[str]] = [[] for _ in range(distributed.world())]
            dist.all_gather_object(parts, images)
            images = [name for part in parts for name in part]
        if distributed.is_main():
            found = Gradients(losses, gradients_of(self._objective), images, self._random(), self.resumable)
            torch.save(found._asdict(), Path(self._job.folder) / GRADIENTS)

    def _random(self) -> float:
        """How far the losses of the first batch with two seeds are apart; 0 where no loss can be computed."""
        if distributed.world() > 1 or self._batch is None:
            return 0.0
        losses = []
        for seed in (1, 2):
            with kept_random_state(), torch.no_grad():
                torch.manual_seed(seed)
                outcome = self._again()
            if not isinstance(outcome, Outcome):
                return 0.0
            losses.append(float(outcome.loss))
        return relative(*losses)

    def _again(self) -> object:
        """The objective's answer to its first batch, with the state that it had then."""
        self._objective.load_state_dict(self._state)
        outcome: object = self._objective(self._batch)
        return outcome

    def _write_finding(self) -> None:
        measures: Mapping[str, Callable[[], str]] = {
            "batches": self._batches,
            "compiled": self._compiled,
            "torch-export": partial(self._exported, "torch-export"),
            "onnx": partial(self._exported, "onnx"),
        }
        try:
            finding = {"verdict": "passed", "text": measures[self._job.purpose]()}
        except Inapplicable as reason:
            finding = {"verdict": "not applicable", "text": str(reason)}
        except ContractError as fault:
            finding = {"verdict": "failed", "text": str(fault)}
        (Path(self._job.folder) / FINDING).write_text(json.dumps(finding))

    def _parts(self) -> tuple[Objective, Batch]:
        """The objective and its batch.

        Raises:
            Inapplicable: if it is not a :class:`castssl.contracts.Objective`, or takes no batch.
        """
        if not isinstance(self._objective, Objective) or self._batch is None:
            name = type(self._objective).__name__
            raise Inapplicable(f"{name} is not a castssl.contracts.Objective that is called with a Batch")
        return self._objective, self._batch

    def _batches(self) -> str:
        objective, batch = self._parts()
        view = several(batch.views[0], min(IMAGES, len(batch.target)))
        if len(view.image) < 2:
            raise Inapplicable("a batch has 1 image; give --batch-size 2 or more")
        flat = export.Flat(objective.encoder).eval()

        def run(part: View) -> Tensors:
            with torch.no_grad():
                return {**flat(*part), **objective.predict(part)}

        return independent(run, view)

    def _compiled(self) -> str:
        objective, _ = self._parts()
        names = ("c++", "g++", "clang++", "cl")
        if not any(map(shutil.which, names)):
            raise Inapplicable(f"torch.compile needs a C++ compiler, and none of {', '.join(names)} is here")
        eager = self._gradients()._replace(random=self._random())
        return agree(eager, self._compile(objective), "the compiled encoder", "the eager one")

    def _compile(self, objective: Objective) -> Gradients:
        torch.compiler.set_stance("default")
        torch.compiler.reset()
        counters.clear()
        for module in objective.modules():
            if isinstance(module, Encoder):
                module.compile()
        try:
            found = self._gradients()
        except Exception as fault:
            raise ContractError(f"torch.compile fails on the encoder: {brief(fault)}") from fault
        if not counters["stats"]["unique_graphs"]:
            raise Inapplicable(
                "torch.compile compiled nothing: this check compiles encoders, and the objective calls none"
                " but for dense() or visit_blocks(), which stay as they are; or the environment switches"
                " torch.compile off, then unset TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE"
            )
        return found

    def _gradients(self) -> Gradients:
        """Loss and gradients of the first batch alone."""
        self._objective.zero_grad()
        torch.manual_seed(0)
        outcome = self._again()
        if not isinstance(outcome, Outcome):
            raise Inapplicable("the objective returns no castssl.types.Outcome")
        torch.autograd.backward(outcome.loss)
        loss = float(outcome.loss.detach())
        return Gradients([loss], gradients_of(self._objective), self._images, 0.0, self.resumable)

    def _exported(self, to: export.To) -> str:
        objective, batch = self._parts()
        try:
            export.require(to)
        except CastError as missing:
            raise Inapplicable(str(missing)) from missing
        model = objective.model
        flat: export.Exportable = export.Flat(model.encoder)
        if isinstance(model, SegmentationModel):
            flat = export.FlatSegmenter(model)
        flat.eval()
        view = several(batch.views[0], IMAGES)
        height, width = view.image.shape[-2:]
        if height != width:
            raise Inapplicable(
                f"castssl export takes square images, and these have {height} x {width} pixels"
            )
        path = Path(self._job.folder) / f"model{export.SUFFIXES[to]}"
        traced = trace(flat, height)
        try:
            export.export(traced, path, to=to)
        except ConfigError as lacking:
            raise Inapplicable(str(lacking)) from lacking
        return same_file(flat, export.load(path), view)


def trace(flat: export.Exportable, side: int) -> export.Traced:
    """The graph of a model for any number of images.

    Raises:
        ContractError: if it can be traced for one batch size only.
        Inapplicable: if it cannot be traced at all.
    """
    try:
        return export.trace(flat, side)
    except Exception as fault:
        try:
            with torch.no_grad():
                torch.export.export(flat, export.example(flat, side), strict=False)
        except Exception as again:
            raise Inapplicable(f"torch.export cannot trace this model: {brief(again)}") from again
        raise ContractError(
            f"the exported graph has a frozen batch size: the model can be traced for one number of images,"
            f" but not for any: {brief(fault.__cause__ or fault)}; let no Python branch depend on the length"
            " of a batch"
        ) from fault


def same_file(flat: export.Exportable, run: export.Run, view: View) -> str:
    """An exported model computes what the model does, of 1, 2 and 7 images.

    Raises:
        ContractError: naming the batch and the output that differs.
    """
    most = 0.0
    for size in BATCHES:
        part = View(*(field[:size] for field in view))
        with torch.no_grad():
            expected = flat(*part)
        try:
            found = run(*part)
        except Exception as fault:
            raise ContractError(
                f"the exported model fails on a batch of {size}: {brief(fault)}; it was traced with 2 images,"
                " and the number of images must stay free"
            ) from fault
        most = max(most, claim_close(found, expected, f"on a batch of {size} the exported model has another"))
    return f"batches of {', '.join(map(str, BATCHES))}: numbers within {most:.1e} (tolerance {VALUES:.0e})"


def independent(run: Callable[[View], Tensors], view: View) -> str:
    """An image has the same result alone, among all images, and among them in another order.

    Raises:
        ContractError: naming the output that differs.
    """
    whole, size, most = run(view), len(view.image), 0.0
    remedy = "in evaluation mode nothing may depend on the other images of the batch"
    for i in (0, size - 1):
        alone = run(View(*(field[i : i + 1] for field in view)))
        expected = {name: value[i : i + 1] for name, value in whole.items()}
        fault = f"image {i} of {size} alone has another"
        most = max(most, claim_close(alone, expected, fault, remedy))
    back = {name: value.flip(0) for name, value in run(View(*(field.flip(0) for field in view))).items()}
    fault = f"among {size} images in another order an image has another"
    most = max(most, claim_close(back, whole, fault, remedy))
    return f"alone and among {size} images: numbers within {most:.1e} (tolerance {VALUES:.0e})"


def claim_close(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], fault: str, *remedy: str
) -> float:
    """Tensors agree: whole numbers exactly, others within :data:`VALUES`; the largest difference.

    Raises:
        ContractError: ``fault``, the name of one that differs, by how much, and ``remedy``.
    """
    if found.keys() != expected.keys():
        differing = ", ".join(sorted(found.keys() ^ expected.keys()))
        raise ContractError(f"{fault} set of outputs: {differing}")
    most = 0.0
    for name, value in expected.items():
        other, end = found[name], "".join(f"; {text}" for text in remedy)
        if other.shape != value.shape:
            shapes = f"{tuple(other.shape)}, expected {tuple(value.shape)}"
            raise ContractError(f"{fault} shape of {name}: {shapes}{end}")
        if not value.is_floating_point():
            apart = float((other != value).float().mean())
            if apart:
                raise ContractError(f"{fault} {name}: {apart:.2%} of its numbers differ{end}")
            continue
        # Scores of what is masked out are infinite: such values must be equal, and set no scale.
        finite = value.isfinite() & other.isfinite()
        strange = int((~finite & ~((other == value) | (other.isnan() & value.isnan()))).sum())
        if strange:
            raise ContractError(
                f"{fault} {name}: {strange} of {value.numel()} numbers are infinite or not a number on one"
                f" side alone{end}"
            )
        largest = _largest(other[finite].double() - value[finite].double())
        scale = max(1.0, _largest(value[finite]))
        if not largest <= VALUES * scale:
            raise ContractError(f"{fault} {name}: the largest difference is {largest:.2g}{end}")
        most = max(most, largest / scale)
    return most


def _largest(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0


def agree(expected: Gradients, found: Gradients, who: str, other: str) -> str:
    """Two measurements have the same loss and gradients; a sentence with the differences.

    Args:
        expected: the reference.
        found: what is compared with it.
        who: names ``found``.
        other: names ``expected``.

    Raises:
        ContractError: naming what differs and by how much, or is not finite.
        Inapplicable: if the loss is random, or there is no loss or gradient.
    """
    _claim_comparable(expected, found, who, other)
    if not expected.random <= RANDOM:
        raise Inapplicable(
            f"the loss draws random numbers in evaluation mode: of one batch it differs by"
            f" {expected.random:.1e} (relative) from seed to seed, so {who} cannot be compared"
        )
    for number, pair in zip(count(), zip(expected.losses, found.losses, strict=True)):
        if not relative(*pair) <= LOSS:
            raise ContractError(
                f"{who} has the loss {pair[1]:.6g} and {other} {pair[0]:.6g} (batch {number}):"
                f" {relative(*pair):.1e} apart, tolerance {LOSS:.0e}"
            )
    if missing := expected.gradients.keys() ^ found.gradients.keys():
        raise ContractError(
            f"{who} has a gradient of other parameters than {other}: {', '.join(sorted(missing)[:5])}"
        )
    norm = _norm(expected.gradients.values())
    if not norm > 0:
        raise Inapplicable("all gradients of the first step are 0, so none can be compared")
    apart = {name: found.gradients[name] - value for name, value in expected.gradients.items()}
    share = _norm(apart.values()) / norm
    if not share <= GRADIENT:
        worst = max(apart, key=lambda name: float(apart[name].norm()))
        raise ContractError(
            f"{who} has the loss of {other}, but another gradient: {share:.1e} apart (norm of the difference"
            f" by the norm), tolerance {GRADIENT:.0e}; most in {worst}"
        )
    loss = max(relative(*pair) for pair in zip(expected.losses, found.losses, strict=True))
    return f"loss within {loss:.1e} (tolerance {LOSS:.0e}), gradients within {share:.1e} ({GRADIENT:.0e})"


def _claim_comparable(expected: Gradients, found: Gradients, who: str, other: str) -> None:
    if not expected.losses:
        raise Inapplicable("the recipe reports no loss; call castssl.training.Run.finite with each loss")
    if len(expected.losses) != len(found.losses):
        counts = f"{len(found.losses)} in the first step, and {other} {len(expected.losses)}"
        raise ContractError(f"{who} has another number of losses: {counts}")
    if not all(map(math.isfinite, expected.losses)):
        raise ContractError(f"{other} has the losses {expected.losses}, expected finite numbers")
    strange = [name for name, value in expected.gradients.items() if not value.isfinite().all()]
    if strange:
        raise ContractError(f"{other} has a gradient that is not finite: {', '.join(strange[:5])}")


def _norm(tensors: Any) -> float:
    return float(torch.stack([tensor.double().norm() for tensor in tensors] or [torch.zeros(())]).norm())


def gradients_of(module: nn.Module) -> Tensors:
    """A copy of each gradient, by parameter."""
    return {name: p.grad.detach().clone() for name, p in module.named_parameters() if p.grad is not None}


def relative(a: float, b: float) -> float:
    """The difference of two numbers relative to the larger one; NaN if one is not finite."""
    return abs(a - b) / max(abs(a), abs(b), sys.float_info.min)


def several(view: View, images: int) -> View:
    """The first images of a view, repeated where it has fewer; with one segment where it has none."""
    index = torch.arange(images) % len(view.image)
    segments = (
        view.segments if view.segments.numel() else torch.zeros_like(view.image[:, 0], dtype=torch.int32)
    )
    return View(view.image[index], segments[index])


def brief(fault: BaseException) -> str:
    """An error as its kind and the first lines of its message."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return f"{type(fault).__name__}: {' '.join(lines[:3])[:400]}"
