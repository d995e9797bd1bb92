"""Evaluation: one pass over held-out images, decoded and segmented once, feeds every evaluator.

A recipe lists its evaluators, and runs those that are due::

    evaluation = Evaluation(train, held_out, superpixels, CenterView(224), [Accuracy(), Knn()], device)
    untrained = evaluation(Subject(encoder, predict))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from castssl import distributed
from castssl.contracts import Encoder, Superpixels
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.views import Augment, CroppedView
from castssl.datasets.images import Images, Plan
from castssl.datasets.stream import Stream
from castssl.evaluation.features import Device, Features, tracked
from castssl.labels import LabelTree
from castssl.modes import evaluating
from castssl.types import Hierarchy, View


class Subject(NamedTuple):
    """What is evaluated."""

    encoder: Encoder
    predict: Callable[[View], Mapping[str, Tensor]] | None = None
    """Logits (B, C) by level name, such as ``partial(objective.predict, branch="ema")``; None: no classes."""
    module: nn.Module | None = None
    """The module behind the others, which is in evaluation mode meanwhile; by default the encoder."""
    embed: Callable[[Tensor], Tensor] | None = None
    """What the loss compares, of features (B, D), such as a projector; None: nothing else than features."""


class ImageBatch(NamedTuple):
    """A batch of images of this process, on the device."""

    views: list[View]
    target: Tensor
    """int64 (B, L), label paths, coarse to fine, or multi-hot float32 (B, C); -1 is unknown."""
    positions: Tensor
    """int64 (B,), on the CPU: places in the data set; -1 for the images of a stream."""

    def readable(self, images: Images, among: Container[int]) -> list[int]:
        """The rows of some of the images, where these were read and not replaced by others."""
        return [
            row
            for row, index in enumerate(self.positions.tolist())
            if index in among and images.source.path(int(images.rows[index])) not in images.bad
        ]


class Forward:
    """The outputs of a subject for the views of a batch; each view passes the encoder once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._cache: list[tuple[View, Hierarchy]] = []
        self._logits: list[tuple[View, list[Tensor]]] = []

    def hierarchy(self, view: View) -> Hierarchy:
        """The output of the encoder."""
        cached = next((hierarchy for cached, hierarchy in self._cache if cached is view), None)
        if cached is None:
            cached = self.subject.encoder(view)
            self._cache.append((view, cached))
        return cached

    def segmentation(self, view: View) -> Hierarchy:
        """The hierarchy of all stages: an encoder that classifies may stop before the last one."""
        return self.subject.encoder.segment(view)

    def feature(self, view: View) -> Tensor:
        """The class token of the encoder's last stage: float32 (B, D)."""
        return self.hierarchy(view).stages[-1].cls.squeeze(1).float()

    def embedding(self, view: View) -> Tensor:
        """What the loss compares, by the subject's projector; without one, the feature: float32 (B, E)."""
        feature = self.feature(view)
        return feature if self.subject.embed is None else self.subject.embed(feature).float()

    def logits(self, view: View) -> list[Tensor]:
        """float32 (B, C) of each level that the subject predicts, coarse to fine; computed once per view."""
        if (cached := next((logits for seen, logits in self._logits if seen is view), None)) is not None:
            return cached
        assert self.subject.predict is not None, "this evaluator needs a subject that predicts classes"
        encoder = self.subject.encoder
        # A compiled module may keep a hook of an earlier call, so its second forward pass is not saved.
        compiled = encoder._compiled_call_impl is not None
        hook = None if compiled else encoder.register_forward_hook(self._keep(view), with_kwargs=True)
        try:
            self._logits.append((view, [scores.float() for scores in self.subject.predict(view).values()]))
        finally:
            if hook is not None:
                hook.remove()
        return self._logits[-1][1]

    def _keep(self, view: View) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], out: Hierarchy) -> None:
            if len(args) == 1 and args[0] is view and not options:
                self._cache.append((view, out))

        return keep


def indexed(images: Images | Stream | None) -> Images:
    """The images themselves, for an evaluator ``by_index``, which is never due on a stream.

    Raises:
        TypeError: if they are a stream, or None.
    """
    if not isinstance(images, Images):
        raise TypeError(f"expected images by index, got {type(images).__name__}")
    return images


@dataclass(eq=False)
class Evaluator:
    """Measures one thing; results, chance level and majority are numbers by name.

    Subclasses override what they need.  Every process calls the same methods in the same order.

    Attributes:
        by_index: True if it needs images by index, so nothing is measured on a stream.
        title: its name in messages.

    Args:
        every: epochs between two evaluations during training; 0 = none.
        views: the views that it needs of each image; None: the evaluation's center view.
    """

    by_index: ClassVar[bool] = True
    title: ClassVar[str] = ""
    every: int = field(default=0, kw_only=True)
    views: Augment | None = field(default=None, kw_only=True)
    _data: Evaluation = field(init=False, repr=False)
    _rows: Features = field(init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Keep the data; called once."""
        self._data = data

    def images(self) -> Sequence[int] | None:
        """The positions of the held-out images that it needs; None: all.

        With the views that other evaluators need, too, :meth:`add` also gets their images.
        """
        return None

    def begin(self, subject: Subject) -> None:
        """Start a new evaluation, without rows of an earlier one."""
        self._rows = Features(self._data.device)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Count a batch of held-out images, with the views of :attr:`views`."""

    def result(self, subject: Subject) -> dict[str, float]:
        """The results over all processes; a result that no image decides is left out."""
        raise NotImplementedError

    def chance(self) -> dict[str, float]:
        """The results of a subject that guesses."""
        return {}

    def majority(self) -> dict[str, float]:
        """The results of the most frequent held-out class as a constant answer, where labels are known."""
        return {}

    def baselines(self) -> dict[str, dict[str, float]]:
        """The results without learning, by the columns of the final table; called after an evaluation."""
        return {"majority": self.majority(), "chance": self.chance()}


@dataclass
class Evaluation:
    """Held-out images and the evaluators that measure on them; every process calls it.

    Without held-out images there are no evaluators left, and all results are empty.  Results do not depend on
    the number of processes.

    Args:
        train: the training images.
        held_out: with labels by the classes of ``train``, as :func:`castssl.data.splits.open_splits` gives
            them; None: nothing is measured.
        superpixels: what the encoder builds on.
        view: the view of each image, for evaluators without views of their own.
        evaluators: in the order of their results; those that read logits come before those that read
            features of the same view, so that the encoder runs once.
        device: where the subject is.
        batch_size: images at a time and process.
        workers: data-loading processes of each process.
        seed: of random views, of the images that are drawn and of random merging.

    Raises:
        DataError: if an evaluator cannot read its data.
    """

    train: Images | Stream
    held_out: Images | Stream | None
    superpixels: Superpixels
    view: CenterView
    evaluators: Sequence[Evaluator]
    device: Device = "cpu"
    batch_size: int = 64
    workers: int = 0
    seed: int = 0
    _latest: dict[Evaluator, dict[str, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.held_out is None:
            self.evaluators = []
        elif isinstance(self.train, Stream) or isinstance(self.held_out, Stream):
            if skipped := [one.title for one in self.evaluators if one.by_index]:
                note(f"streams have no images by index: {', '.join(skipped)} are not measured")
            self.evaluators = [one for one in self.evaluators if not one.by_index]
        for evaluator in self.evaluators:
            evaluator.prepare(self)

    @property
    def tree(self) -> LabelTree:
        """The tree of the held-out images' label paths; without levels if they have none."""
        return self.held_out.tree if self.held_out and self.held_out.tree.exclusive else LabelTree.none()

    def labels(self) -> Tensor:
        """Held-out label paths int64 (n, L) if they are known before the images are read; else (0, L)."""
        images = self.held_out
        if isinstance(images, Images) and images.tree.exclusive and images.targets is not None:
            return images.targets
        return torch.empty(0, self.tree.levels, dtype=torch.int64)

    def __call__(self, subject: Subject, due: Sequence[Evaluator] | None = None) -> dict[str, float]:
        """The results of all evaluators, or of those that are due, in one pass."""
        return _merged(self._measure(subject, self.evaluators if due is None else due))

    def due(self, every: Callable[[int], bool]) -> list[Evaluator]:
        """The evaluators that are due, by :meth:`castssl.training.run.Run.every`."""
        return [one for one in self.evaluators if every(one.every)]

    def update(self, subject: Subject, due: Sequence[Evaluator]) -> dict[str, float]:
        """The results of the evaluators that are due, kept for :meth:`finish`."""
        self._latest |= (results := self._measure(subject, due))
        return _merged(results)

    @property
    def latest(self) -> dict[str, float]:
        """The results of the latest :meth:`update` of each evaluator."""
        return _merged(self._latest)

    def finish(self, subject: Subject) -> dict[str, float]:
        """The latest results of all evaluators; what :meth:`update` has not measured is measured now."""
        self._latest |= self._measure(subject, [one for one in self.evaluators if not self._latest.get(one)])
        return _merged({one: self._latest[one] for one in self.evaluators})

    def baselines(self) -> dict[str, dict[str, float]]:
        """The results without learning, by the columns of the final table; every process calls this."""
        results: dict[str, dict[str, float]] = {"majority": {}, "chance": {}}
        for one in self.evaluators:
            for heading, values in one.baselines().items():
                results.setdefault(heading, {}).update(values)
        return results

    def _measure(self, subject: Subject, due: Sequence[Evaluator]) -> dict[Evaluator, dict[str, float]]:
        """The results of some evaluators, in one pass."""
        module = subject.encoder if subject.module is None else subject.module
        with evaluating(module), torch.no_grad():
            for evaluator in due:
                evaluator.begin(subject)
            for images, augments in self._groups(due):
                self._pass(images, augments, due, subject)
            return {evaluator: evaluator.result(subject) for evaluator in due}

    def _groups(self, due: Sequence[Evaluator]) -> Iterator[tuple[Sequence[int] | None, tuple[Augment, ...]]]:
        """Held-out images by the augmentations that they need, each image in one group; None: all images."""
        needed = [(one.views or self.view, one.images()) for one in due]
        if all(images is None for _, images in needed):
            yield from [(None, tuple(dict.fromkeys(augment for augment, _ in needed)))] * bool(needed)
            return
        sets = [(augment, None if images is None else set(images)) for augment, images in needed]
        groups: dict[tuple[Augment, ...], list[int]] = {}
        for image in range(len(indexed(self.held_out))):
            augments = (augment for augment, images in sets if images is None or image in images)
            groups.setdefault(tuple(dict.fromkeys(augments)), []).append(image)
        yield from ((images, augments) for augments, images in groups.items() if augments)

    def _pass(
        self,
        images: Sequence[int] | None,
        augments: Sequence[Augment],
        due: Sequence[Evaluator],
        subject: Subject,
    ) -> None:
        """Feed some held-out images to the evaluators that need one of their views."""
        assert self.held_out is not None
        first = {augment: sum(a.views for a in augments[:place]) for place, augment in enumerate(augments)}
        data = self.held_out if images is None else indexed(self.held_out).take(images)
        for batch in self.batches(data, augments, "held-out images"):
            forward = Forward(subject)
            positions = batch.positions if images is None else torch.tensor(images)[batch.positions]
            for one in due:
                augment = one.views or self.view
                if augment in first:
                    views = batch.views[first[augment] :][: augment.views]
                    one.add(ImageBatch(views, batch.target, positions), forward)

    def batches(self, images: Images | Stream, views: Sequence[Augment], what: str) -> Iterator[ImageBatch]:
        """The share of this process of some images, each decoded once, on the device.

        Args:
            images: any images.
            views: a batch has the views of all of these, in this order.
            what: the name of the images in the progress on stderr.
        """
        loader = load(
            images,
            views=views[0] if len(views) == 1 else Together(views),
            superpixels=self.superpixels,
            batch_size=self.batch_size * distributed.world(),
            workers=self.workers,
            seed=self.seed,
            train=False,
        )
        indices = repeat(None) if loader.batches is None else iter(loader.batches)
        total = None if loader.batches is None else sum(1 for _ in loader.batches)
        for raw, index in zip(tracked(loader, total, what), indices, strict=False):
            batch = to_views(raw, self.superpixels, self.device)
            positions = torch.full((len(batch.target),), -1) if index is None else torch.tensor(index)
            yield ImageBatch(list(batch.views), batch.target, positions)


class Together(Augment):
    """The views of several augmentations of one image, which is decoded once, at full size."""

    def __init__(self, parts: Sequence[Augment]) -> None:
        self.parts = parts
        self.views = sum(part.views for part in parts)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """The views of all parts in order."""
        return [view for part in self.parts for view in part.crop(image)]


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` of ``count`` numbers, evenly spread (folders are sorted by class)."""
    number = min(count, limit)
    return [place * count // number for place in range(number)]


def note(text: str) -> None:
    """Print a line on stderr, in the main process only."""
    if distributed.is_main():
        print(text, file=sys.stderr)


def _merged(results: Mapping[Evaluator, Mapping[str, float]]) -> dict[str, float]:
    return {name: value for values in results.values() for name, value in values.items()}
