"""The labels of a photograph, of which it may have any number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from castssl.checkpoints.many_labels import LabelModel
from castssl.data.evaluation_views import CenterView, SquashedView
from castssl.data.splits import renumber
from castssl.data.to_view import view_of
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.errors import ConfigError, DataError
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.evaluation.many_labels import ManyLabels, level_names
from castssl.inference.evaluate import Evaluated, LabelRow
from castssl.inference.photos import Photo, read_photo
from castssl.labels import LabelTree
from castssl.modes import evaluating
from castssl.objectives.averaged import Averaged
from castssl.registry import build_superpixels
from castssl.superpixel_labels import three_channels
from castssl.types import LabelAttention, View

THRESHOLD = 0.5


@runtime_checkable
class ScoresNames(Protocol):
    """An objective that can score labels that it did not learn, by the embeddings of their names."""

    def scorer(self, names: Sequence[str]) -> Callable[[View], Tensor]:
        """A function of a view that returns the logits of these labels: float (B, C).

        Raises:
            ConfigError: if its weights or its embeddings are of the learned labels alone.
        """
        ...


class Label(NamedTuple):
    """A label of an image."""

    level: int
    """From 0, the coarsest."""
    number: int
    """Of the label within its level."""
    name: str
    probability: float
    """0 to 1, of this label alone."""
    column: int
    """Of the label among those of all levels side by side."""


class Labels(NamedTuple):
    """What is known of one image."""

    seen: Tensor
    """What the encoder saw, uint8 (3, S, S): RGB, or the three channels of its superpixels."""
    scores: tuple[Label, ...]
    """All labels, the likeliest first."""
    answer: tuple[Label, ...]
    """The labels that the image is said to have, the likeliest first."""
    attention: LabelAttention | None
    """What each label attends to; None if that was not asked for, or labels attend to nothing."""


class LabelPredictor:
    """Names the labels of images.

    Args:
        model: from :func:`castssl.checkpoints.many_labels.load_many_labels`.
        names: score these labels in place of those that were learned (zero-shot).
        threshold: the least probability of a label in the answer.
        top: the answer is so many labels, the likeliest, whatever the threshold.
        device: where to run; by default where the model is.

    Raises:
        ConfigError: if a number is out of range, or the model cannot score these names.
    """

    def __init__(
        self,
        model: LabelModel,
        *,
        names: Sequence[str] | None = None,
        threshold: float = THRESHOLD,
        top: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is a probability from 0 to 1, got {threshold}")
        if top is not None and top < 1:
            raise ConfigError(f"top is a number of labels from 1 on, got {top}")
        self.threshold, self.top, self.model = threshold, top, model
        self.objective = model.objective if device is None else model.objective.to(device)
        self.names: Sequence[Sequence[str]] = level_names(model.labels)
        self._score: Callable[[View], Mapping[str, Tensor]] = self.objective.predict
        if names is not None:
            self.names = [list(names)]
            self._score = partial(_as_class, _scorer(self.objective, names))

    def __call__(
        self, image: Photo, *, attention: bool = False, value_range: tuple[float, float] | None = None
    ) -> Labels:
        """The labels of one image, which is resized to a square as in an evaluation.

        Args:
            image: a PIL image, an array uint8 (H, W, 3), or a file's path.
            attention: also compute what the learned labels attend to.
            value_range: as in :func:`castssl.inference.segment.segment`.

        Raises:
            DataError: if the image cannot be read.
        """
        config = self.objective.encoder.config
        seen = SquashedView(self.model.image_size)(read_photo(image, value_range, config.channels))[0]
        backend = build_superpixels(config, self.model.superpixels)
        view = view_of(seen[None], backend, next(iter(self.objective.parameters())).device)
        with evaluating(self.objective), torch.no_grad():
            levels = [logits[0].float().sigmoid().tolist() for logits in self._score(view).values()]
            attended = self.objective.label_attention(view) if attention else None
        places = [(level, number) for level, shares in enumerate(levels) for number in range(len(shares))]
        scores = [
            Label(level, number, self.names[level][number], levels[level][number], column)
            for column, (level, number) in enumerate(places)
        ]
        scores.sort(key=lambda label: -label.probability)
        likely = [label for label in scores if label.probability >= self.threshold]
        answer = scores[: self.top] if self.top else likely
        return Labels(three_channels(seen, backend.channels), tuple(scores), tuple(answer), attended)


def evaluate_labels(
    model: LabelModel,
    images: Images | Stream,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    batch_size: int = 64,
    zero_shot: bool = False,
) -> Evaluated:
    """The measures of a model of many labels, as the recipe computes them; every process calls it.

    A label that the data do not know is unknown in all images.

    Args:
        model: from :func:`castssl.checkpoints.many_labels.load_many_labels`.
        images: with many labels per image, some of those that were learned, in any order.
        device: where to run.
        workers: processes that read images, of each process.
        batch_size: images at a time and process.
        zero_shot: score the labels of the images, whatever was learned, by the embeddings of their names.

    Raises:
        ConfigError: if the model cannot score these names.
        DataError: if the images have other labels, or one path of labels each.
    """
    objective = model.objective.to(device)
    images, predict = _with_labels(images, model.labels, zero_shot), objective.predict
    if zero_shot:
        score = _scorer(objective, [name for level in images.tree.names for name in level])
        predict = partial(_as_class, score)
    measured = ManyLabels(views=SquashedView(model.image_size))
    evaluation = Evaluation(
        images,
        images,
        build_superpixels(objective.encoder.config, model.superpixels),
        CenterView(model.image_size),
        [measured],
        device,
        batch_size=batch_size,
        workers=workers,
    )
    results = evaluation(Subject(objective.encoder, predict, objective))
    found = evaluation.baselines(), images, images.tree, tuple(range(images.tree.levels))
    return Evaluated(
        results, *found, None, dict(images.bad), tuple(_rows(images, measured.average_precision))
    )


def _scorer(objective: Averaged[Any], names: Sequence[str]) -> Callable[[View], Tensor]:
    """What scores these names."""
    if not isinstance(objective, ScoresNames):
        raise ConfigError(
            f"a {type(objective).__name__} scores the labels that it learned alone; leave --names or"
            " --zero-shot out"
        )
    return objective.scorer(names)


def _as_class(score: Callable[[View], Tensor], view: View) -> Mapping[str, Tensor]:
    return {"class": score(view)}


def _rows(images: Images, average_precision: Tensor) -> Iterator[LabelRow]:
    """A row for each label."""
    targets, tree = images.targets, images.tree
    names = [(level, name) for level, names in enumerate(level_names(tree)) for name in names]
    present, unknown = (targets == 1).sum(0).tolist(), (targets < 0).sum(0).tolist()
    for row in zip(names, present, unknown, average_precision.tolist(), strict=True):
        yield LabelRow(*row[0], *row[1:])


def _with_labels(images: Images | Stream, labels: LabelTree, zero_shot: bool) -> Images:
    """The images with their labels in the order of the model's, or with their own."""
    tree = images.tree
    if not isinstance(images, Images) or tree.exclusive:
        raise DataError(
            "these weights are of many labels per image, and the data are not; take data such as voc07:,"
            " coco14:, nus-wide:, csv:FILE.csv?labels=COLUMN or demo-many"
        )
    if zero_shot:
        if not tree.names:
            raise DataError("--zero-shot reads the names of labels, and those of these data have none")
        return images
    try:
        found = renumber(images, labels, "the data")
    except DataError as error:
        raise DataError(
            f"{error}; take data with the labels that were learned, or score those of the data by name with"
            " --zero-shot, where the weights have multilabel:head_weights=shared"
        ) from error
    assert isinstance(found, Images)
    return found
