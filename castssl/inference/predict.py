"""A photograph's label path, how sure each level is, and which segments spoke for it.

H-CAST (Visually Consistent Hierarchical Image Classification, ICLR 2025) reads each level from the segments
of a stage of its own; here is shown what it read there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from castssl.checkpoints.classifier import Classifier
from castssl.contracts import Superpixels
from castssl.data.evaluation_views import CenterView
from castssl.data.to_view import view_of
from castssl.errors import ConfigError
from castssl.inference.photos import Photo, read_photo
from castssl.models.cast import CAST
from castssl.models.sizes import sizes_for
from castssl.modes import evaluating
from castssl.objectives.classification import Supervised
from castssl.registry import build, build_superpixels
from castssl.superpixel_labels import three_channels
from castssl.types import Hierarchy, View


class Evidence(NamedTuple):
    """How much each segment of a stage moved a logit."""

    labels: Tensor
    """Which segment each pixel is in: int64 (H, W), -1 for none."""
    moved: Tensor
    """float32 (K,), in units of the logit; below 0 spoke against the class."""


class Level(NamedTuple):
    """The answer of one label level."""

    level: int
    """From 0, the coarsest of the label tree."""
    number: int
    """Of the class within its level."""
    name: str
    probability: float
    """The class's share of the level's softmax, 0 to 1."""
    agrees: bool | None
    """Whether all coarser levels' classes are this one's ancestors; None if its parents are not known."""
    sure: bool
    """Whether the probability is high enough."""


class Prediction(NamedTuple):
    """What is known of one image."""

    seen: Tensor
    """What the encoder saw, uint8 (3, S, S): RGB, or the three channels of its superpixels."""
    path: tuple[Level, ...]
    """The likeliest class of each level that was learned, coarse to fine, each by itself."""
    answer: int
    """How many levels of the path, from the coarsest, are given as the answer; 0 is none."""
    evidence: tuple[Evidence, ...]
    """Of each level's class, on the segments that the level reads; empty if it was not asked for."""

    @property
    def consistent(self) -> bool | None:
        """Whether the path is one of the label tree's; None if the parents are not known."""
        return self.path[-1].agrees


def predict(
    image: Photo,
    classifier: Classifier,
    *,
    min_confidence: float | None = None,
    explain: bool = True,
    device: torch.device | str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Prediction:
    """The label path of one image, which is cropped as in an evaluation: its center, 224 of 256 parts.

    With ``min_confidence`` the answer backs off to a parent: it ends at the finest level whose probability
    reaches that and whose coarser levels are its ancestors.  Without, all levels are the answer, also where
    they contradict each other.

    Args:
        image: a PIL image, an array uint8 (H, W, 3), or a file's path.
        classifier: from :func:`castssl.checkpoints.classifier.load_classifier`.
        min_confidence: 0 to 1; 0 backs off from contradictions alone.
        explain: also find the evidence, at the cost of a backward pass for each level.
        device: where to run; by default where the encoder is.
        value_range: as in :func:`castssl.inference.segment.segment`.

    Raises:
        DataError: if the image cannot be read.
        ConfigError: if ``min_confidence`` is not a share, or the superpixels do not fit the encoder.
    """
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence is a probability from 0 to 1, got {min_confidence}")
    objective = classifier.objective.to(device) if device is not None else classifier.objective
    config = objective.encoder.config
    photo = read_photo(image, value_range, config.channels)
    seen = CenterView(classifier.image_size, interpolation=classifier.interpolation)(photo)[0]
    backend = build_superpixels(config, classifier.superpixels)
    _check_room(objective, backend, classifier)
    view = view_of(seen[None], backend, next(iter(objective.parameters())).device)
    logits, evidence = explained(objective, view) if explain else (_logits(objective, view), ())
    path = label_path(classifier, logits, min_confidence)
    kept = [i for i, level in enumerate(path, start=1) if level.sure and level.agrees is not False]
    answer = len(path) if min_confidence is None else max(kept, default=0)
    return Prediction(three_channels(seen, backend.channels), path, answer, tuple(evidence))


def with_superpixels(classifier: Classifier, spec: str) -> Classifier:
    """The same classifier on other superpixels; its encoder's first size becomes what they need."""
    side = classifier.image_size
    room = build("superpixels", spec).capacity(side, side)
    for encoder in classifier.objective.encoders():
        if isinstance(encoder, CAST):
            encoder.sizes = sizes_for(encoder, room)
    return classifier._replace(superpixels=spec)


def explained(
    objective: Supervised, view: View, *, stage: int | None = None
) -> tuple[list[Tensor], list[Evidence]]:
    """Each level's logits (1, C) and the evidence for its likeliest class; one backward pass per level.

    A segment's share is the gradient of the class's logit at its tokens times the tokens, as what they have
    more than the image's mean token: to first order, the change of the logit if the finest segments in it
    looked like the image's average.  (Gradient times input, https://arxiv.org/abs/1605.01713, with the mean
    as its reference: the layer norm that comes first does not see how long a token is, so the token
    itself times its gradient hardly predicts the logit without it.)  The finest tokens are those before the
    first block; their shares are added up over the segments of the stage that the level reads.  Attention of
    the class token shows where it looked in one block, and not the effect on the class.

    Encoders that do not take superpixels have no such tokens: there it is the gradient at the pixels, and
    their difference from the mean color.

    Args:
        objective: in any mode; used in evaluation mode, and left as it was, without gradients.
        view: of one image.
        stage: whose segments the evidence is of; by default those that each level reads.
    """
    image = view.image.detach().clone().requires_grad_()
    with evaluating(objective), torch.enable_grad(), _watched(objective) as runs:
        logits = list(objective.predict(view._replace(image=image)).values())
    evidence = []
    traced = [(run.tokens, run.hierarchy) for run in runs if run.tokens is not None]
    leaves = [tokens for tokens, _ in traced] or [image]
    for logit, own in zip(logits, objective.stages, strict=True):
        at = own if stage is None else stage
        top = logit[0].max()
        grads = torch.autograd.grad(top, leaves, retain_graph=True, allow_unused=True)
        if leaves[0] is image:
            evidence.append(_of_pixels(image, grads[0], runs[-1].hierarchy.labels(at)[0]))
            continue
        # Only one encoder, where there are several, has a part in this level's logit.
        (tokens, hierarchy), grad = next(
            (run, grad) for run, grad in zip(traced, grads, strict=True) if grad is not None
        )
        evidence.append(_of_tokens(tokens, grad, hierarchy, at))
    return [logit.detach() for logit in logits], evidence


class _Run(NamedTuple):
    tokens: Tensor | None
    """float (1, N, D) before the first block; None if there are no such tokens."""
    hierarchy: Hierarchy


@contextmanager
def _watched(objective: Supervised) -> Iterator[list[_Run]]:
    """What each encoder's forward passes take and return, in order; tokens are cut off what made them."""
    leaves: list[Tensor] = []
    runs: list[_Run] = []

    def detach_tokens(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        leaves.append(args[0].x.detach().requires_grad_())
        return (args[0]._replace(x=leaves[-1]), *args[1:])

    def note(module: nn.Module, _: Any, hierarchy: Hierarchy) -> None:
        runs.append(_Run(leaves.pop() if isinstance(module, CAST) else None, hierarchy))

    hooks = []
    for encoder in objective.encoders():
        hooks.append(encoder.register_forward_hook(note))
        if isinstance(encoder, CAST):
            hooks.append(encoder.stages[0].register_forward_pre_hook(detach_tokens))
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


def _of_tokens(tokens: Tensor, grad: Tensor, hierarchy: Hierarchy, stage: int) -> Evidence:
    mass = hierarchy.stages[0].mass[0]
    mean = (tokens[0] * mass[:, None]).sum(0) / mass.sum()
    contributions = (grad[0] * (tokens[0] - mean)).sum(-1) * (mass > 0)
    parents = hierarchy.parents(stage % len(hierarchy.stages))[0]
    moved = contributions.new_zeros(hierarchy.stages[stage].x.shape[1]).index_add(0, parents, contributions)
    return Evidence(hierarchy.labels(stage)[0], moved.detach().float())


def _of_pixels(image: Tensor, grad: Tensor, labels: Tensor) -> Evidence:
    contributions = (grad * (image - image.mean((2, 3), keepdim=True))).sum(1)[0]
    moved = contributions.new_zeros(int(labels.max()) + 1).index_add(
        0, labels[labels >= 0], contributions[labels >= 0]
    )
    return Evidence(labels, moved.detach().float())


def _logits(objective: Supervised, view: View) -> list[Tensor]:
    with evaluating(objective), torch.no_grad():
        return list(objective.predict(view).values())


def label_path(
    classifier: Classifier, logits: Sequence[Tensor], min_confidence: float | None = None
) -> tuple[Level, ...]:
    """The likeliest class of each level, from its logits float (1, C), coarse to fine."""
    labels, path = classifier.labels, torch.full((1, classifier.labels.levels), -1)
    levels = []
    for column, logit in zip(classifier.objective.columns, logits, strict=True):
        share, number = logit.float().softmax(1)[0].max(0)
        path[0, column] = int(number)
        agrees = bool(labels.valid(path)[0]) if classifier.known else None
        name = labels.names[column][int(number)] if labels.names else str(int(number))
        sure = float(share) >= (min_confidence or 0)
        levels.append(Level(column, int(number), name, float(share), agrees, sure))
    return tuple(levels)


def _check_room(objective: Supervised, backend: Superpixels, classifier: Classifier) -> None:
    most = backend.capacity(classifier.image_size, classifier.image_size)
    for encoder in objective.encoders():
        if isinstance(encoder, CAST) and most > encoder.sizes[0]:
            raise ConfigError(
                f"up to {most} superpixels of {classifier.superpixels}, but the encoder has room for"
                f" {encoder.sizes[0]}; castssl.inference.predict.with_superpixels makes room"
            )
