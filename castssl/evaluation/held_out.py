"""Evaluation: one pass over held-out images, decoded and segmented once, feeds every evaluator.

A recipe lists its evaluators, and runs those that are due::

    evaluation = Evaluation(train, held_out, superpixels, CenterView(224), [Accuracy(), Knn()], device)
    untrained = evaluation(Subject(encoder, predict))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, ClassVar, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn

from castssl import ranks
from castssl.contracts import Encoder, Superpixels
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.views import Augment, CenterView, CroppedView, Views
from castssl.datasets.images import Images, Plan
from castssl.datasets.stream import Stream
from castssl.evaluation.features import Device, tracked
from castssl.modes import evaluating
from castssl.types import Hierarchy, LabelTree, View


class Subject(NamedTuple):
    """What is evaluated."""

    encoder: Encoder
    predict: Callable[[View], Mapping[str, Tensor]] | None = None
    """Logits (B, C) by level name, such as ``partial(objective.predict, branch="ema")``; None: no classes."""
    module: nn.Module | None = None
    """The module behind ``predict``, which is in evaluation mode meanwhile; by default the encoder."""


class Shown(NamedTuple):
    """A batch of images of this process, on the device."""

    views: list[View]
    target: Tensor
    """int64 (B, L), label paths, coarse to fine; -1 is unknown."""
    numbers: Tensor
    """int64 (B,), which images these are; -1 for those of a stream."""


class Forward:
    """What a subject makes of the views of a batch: each view goes through the encoder once."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._known: list[tuple[View, Hierarchy]] = []

    def feature(self, view: View) -> Tensor:
        """The class token of the encoder's last stage: float32 (B, D)."""
        found = next((hierarchy for known, hierarchy in self._known if known is view), None)
        if found is None:
            found = self._subject.encoder(view)
            self._known.append((view, found))
        return found.stages[-1].cls.squeeze(1).float()

    def logits(self, view: View) -> list[Tensor]:
        """float32 (B, C) of each level that the subject predicts, coarse to fine."""
        assert self._subject.predict is not None, "this evaluator needs a subject that predicts classes"
        encoder = cast(nn.Module, self._subject.encoder)
        # A compiled module may keep a hook of an earlier call, so its second forward pass is not saved.
        compiled = encoder._compiled_call_impl is not None
        hook = None if compiled else encoder.register_forward_hook(self._keep(view), with_kwargs=True)
        try:
            return [each.float() for each in self._subject.predict(view).values()]
        finally:
            if hook is not None:
                hook.remove()

    def _keep(self, view: View) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], out: Hierarchy) -> None:
            if len(args) == 1 and args[0] is view and not options:
                self._known.append((view, out))

        return keep


@dataclass(eq=False)
class Evaluator:
    """Measures one thing; results, chance level and majority are numbers by name.

    Subclasses override what they need.  Every process calls the same methods in the same order.

    Attributes:
        limit: it sees at most so many held-out images, evenly spread; None: all.
        by_index: True if it needs images by index, so that nothing is measured on a stream.
        title: how a message names it.

    Args:
        every: epochs between two evaluations during training; 0 = none.
        views: how it wants pictures cut; None: as the evaluation does.
    """

    limit: ClassVar[int | None] = None
    by_index: ClassVar[bool] = True
    title: ClassVar[str] = ""
    every: int = field(default=0, kw_only=True)
    views: Augment | None = field(default=None, kw_only=True)

    def prepare(self, data: Evaluation) -> None:
        """Keep what is needed of the data; called once."""

    def begin(self, subject: Subject) -> None:
        """Start a new evaluation."""

    def add(self, batch: Shown, forward: Forward) -> None:
        """Count a batch of held-out images, with as many views as :attr:`views` makes."""

    def result(self, subject: Subject) -> dict[str, float]:
        """The results over all processes; a result that no image decides is left out."""
        raise NotImplementedError

    def chance(self) -> dict[str, float]:
        """The results of a subject that guesses."""
        return {}

    def majority(self) -> dict[str, float]:
        """The results of the most frequent held-out class as a constant answer, where labels are known."""
        return {}


@dataclass
class Evaluation:
    """Held-out images and what is measured on them; every process calls it together.

    Without held-out images there are no evaluators left, and all results are empty.  Results do not depend on
    the number of processes.

    Args:
        train: the training images.
        held_out: with labels by the classes of ``train``, as :func:`castssl.data.splits.open_splits` gives
            them; None: nothing is measured.
        superpixels: what the encoder builds on.
        view: how held-out pictures are cut, if an evaluator does not want it otherwise.
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
            if unread := [one.title for one in self.evaluators if one.by_index]:
                say(f"streams have no images by index: {', '.join(unread)} are not measured")
            self.evaluators = [one for one in self.evaluators if not one.by_index]
        for evaluator in self.evaluators:
            evaluator.prepare(self)

    @property
    def tree(self) -> LabelTree:
        """The label tree of the held-out images; without levels if there are none."""
        return self.held_out.tree if self.held_out else LabelTree.none()

    def labels(self) -> Tensor:
        """Held-out label paths int64 (n, L) if they are known before the images are read; else (0, L)."""
        if isinstance(self.held_out, Images) and self.held_out.targets is not None:
            return self.held_out.targets
        return torch.empty(0, self.tree.levels, dtype=torch.int64)

    def __call__(self, subject: Subject, due: Sequence[Evaluator] | None = None) -> dict[str, float]:
        """The results of all evaluators, or of those that are due, in one pass."""
        return _merged(self._measure(subject, self.evaluators if due is None else due))

    def due(self, every: Callable[[int], bool]) -> list[Evaluator]:
        """The evaluators whose turn it is, by :meth:`castssl.training.run.Run.every`."""
        return [one for one in self.evaluators if every(one.every)]

    def update(self, subject: Subject, due: Sequence[Evaluator]) -> dict[str, float]:
        """The results of the evaluators that are due, which :meth:`finish` knows then."""
        self._latest |= (found := self._measure(subject, due))
        return _merged(found)

    def finish(self, subject: Subject) -> dict[str, float]:
        """The latest results of all evaluators; those that :meth:`update` had nothing of are measured now."""
        self._latest |= self._measure(subject, [one for one in self.evaluators if not self._latest.get(one)])
        return _merged({one: self._latest[one] for one in self.evaluators})

    def majority(self) -> dict[str, float]:
        """The results of the most frequent classes as constant answers, where that means something."""
        return _merged({one: one.majority() for one in self.evaluators})

    def chance(self) -> dict[str, float]:
        """The chance level of each result."""
        return _merged({one: one.chance() for one in self.evaluators})

    def _measure(self, subject: Subject, due: Sequence[Evaluator]) -> dict[Evaluator, dict[str, float]]:
        """The results of some evaluators, in one pass."""
        module = cast(nn.Module, subject.encoder) if subject.module is None else subject.module
        with evaluating(module), torch.no_grad():
            for evaluator in due:
                evaluator.begin(subject)
            for images, some in self._groups(due):
                self._pass(images, some, subject)
            return {evaluator: evaluator.result(subject) for evaluator in due}

    def _groups(
        self, due: Sequence[Evaluator]
    ) -> Iterator[tuple[Sequence[int] | None, tuple[Evaluator, ...]]]:
        """Held-out images by the evaluators that look at them; None is all of them."""
        reading = tuple(one for one in due if one.limit != 0)
        if all(one.limit is None for one in reading):
            yield from [(None, reading)] * bool(reading)
            return
        count = len(cast(Images, self.held_out))
        chosen = [range(count) if one.limit is None else spread(count, one.limit) for one in reading]
        groups: dict[tuple[Evaluator, ...], list[int]] = {}
        for image in range(count):
            some = tuple(one for one, numbers in zip(reading, chosen, strict=True) if image in numbers)
            groups.setdefault(some, []).append(image)
        yield from ((images, some) for some, images in groups.items() if some)

    def _pass(self, images: Sequence[int] | None, some: Sequence[Evaluator], subject: Subject) -> None:
        """Show some held-out images to the evaluators that want them."""
        assert self.held_out is not None
        wanted = list(dict.fromkeys(one.views or self.view for one in some))
        begin = {views: sum(each.views for each in wanted[:place]) for place, views in enumerate(wanted)}
        shown = self.held_out if images is None else cast(Images, self.held_out).take(images)
        numbers = None if images is None else torch.tensor(images)
        for batch in self.batches(shown, wanted, "held-out images"):
            forward = Forward(subject)
            known = batch.numbers if numbers is None else numbers[batch.numbers]
            for one in some:
                cut = one.views or self.view
                views = batch.views[begin[cut] :][: cut.views]
                one.add(Shown(views, batch.target, known), forward)

    def batches(self, images: Images | Stream, views: Sequence[Augment], what: str) -> Iterator[Shown]:
        """The share of this process of some images, each decoded once, on the device.

        Args:
            images: any images.
            views: how they are cut; a batch has the views of all of them, one after the other.
            what: how the progress on stderr names the images.
        """
        loader = load(
            images,
            views=views[0] if len(views) == 1 else Together(views),
            superpixels=self.superpixels,
            batch_size=self.batch_size * ranks.world(),
            workers=self.workers,
            seed=self.seed,
            train=False,
        )
        numbers = repeat(None) if loader.batches is None else iter(loader.batches)
        for raw, own in zip(tracked(loader, what), numbers, strict=False):
            batch = to_views(raw, self.superpixels, self.device)
            known = torch.full((len(batch.target),), -1) if own is None else torch.tensor(own)
            yield Shown(list(batch.views), batch.target, known)


class Together:
    """The views of several augmentations of one picture, which is decoded once, at full size."""

    def __init__(self, parts: Sequence[Augment]) -> None:
        self.parts = parts
        self.views = sum(part.views for part in parts)

    def plan(self, width: int, height: int) -> Plan:
        """The whole picture."""
        return Plan((), 1)

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        """The views of each part in turn, and where they lie."""
        return [placed for part in self.parts for placed in part.crop(image)]

    def __call__(self, image: Image.Image) -> Views:
        """The views alone."""
        return [placed.image for placed in self.crop(image)]


def spread(count: int, limit: int) -> range:
    """At most ``limit`` of ``count`` numbers, evenly spread (folders are sorted by class)."""
    return range(0, count, max(count // limit, 1))[:limit]


def say(text: str) -> None:
    """A line on stderr, of one process."""
    if ranks.is_main():
        print(text, file=sys.stderr)


def _merged(found: Mapping[Evaluator, Mapping[str, float]]) -> dict[str, float]:
    return {name: value for values in found.values() for name, value in values.items()}
