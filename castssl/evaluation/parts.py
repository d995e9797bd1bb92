"""Parts and wholes: how well the segments of two levels fit objects and their parts, with and without names.

CAST, https://arxiv.org/abs/2210.00314, tables 1 and 9 and appendix E.3: objects are segments of a coarse
level, parts are segments of a finer one.  Each segment has a name, and the named segments are class maps,
whose IoU and boundaries are measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from castssl.data.evaluation_views import CenterView
from castssl.datasets.parts import ClassMap, PartNames, PartSet, PartTruth, check_truth
from castssl.errors import ConfigError, DataError
from castssl.metrics.boundary import BoundaryF, BoundaryScores
from castssl.metrics.iou import count_pairs, scores
from castssl.metrics.partition import majority_labels
from castssl.metrics.recall import AverageRecall
from castssl.segmenter import Segmenter, label_maps

UNKNOWN = -1


class Levels(NamedTuple):
    """The levels that objects and parts come from, as indices of a segmenter's label maps, fine to coarse.

    By default these are the two coarsest levels, as in appendix E.3: 8 segments for objects, 16 for parts.
    """

    objects: int = -1
    parts: int = -2


PAPER = Levels()
Names = Callable[[NDArray[np.uint8], ClassMap, ClassMap], tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Names of segments, such as CLIP's: an image uint8 (H, W, 3), and its segments int32 (H, W) of two levels,
objects and parts -> their classes, int64 (H, W) each."""


class LevelScores(NamedTuple):
    """The scores of the class maps of objects, or of parts; shares in [0, 1], and not a number for nothing.

    Boundary F-scores are those of :class:`castssl.metrics.boundary.BoundaryScores`.
    """

    images: int
    """How many were scored."""
    segments: float
    """Mean number in an image."""
    region_iou: float
    """Region mIoU: mean IoU of the classes in an image, the background included, then mean over images."""
    region_iou_pooled: float
    """Mean over classes of the IoU of all images' pixels together."""
    boundary_f: float
    """Class by class in an image, then mean over images."""
    boundary_f_pooled: float
    """Mean over classes of the F-score of all images' points together."""
    boundary_f_any: float
    """Of any change of the label, mean over images."""
    boundary_f_any_pooled: float
    """Of any change of the label, of all images' points together."""
    boundary_tolerance_px: float
    """Mean over images."""
    recall: float
    """AR@100 of the segments of all levels; not a number if it was not computed."""
    class_images: tuple[int, ...]
    """Of each class, the background first: how many images have it."""
    class_region_iou: tuple[float, ...]
    """Mean of the region mIoU of the images that have the class."""
    class_iou: tuple[float, ...]
    """IoU of all images' pixels together."""
    class_boundary_f: tuple[float, ...]
    """F-score of all images' points together."""


class PartScores(NamedTuple):
    """The scores of one segmenter with objects and parts from two of its levels."""

    levels: Levels
    """The indices from the finest level, 0."""
    untrained: bool
    """True if the objects' level comes from a pooling that was never trained."""
    objects: LevelScores
    parts: LevelScores


class Scored(NamedTuple):
    """The result of one segmenter."""

    rows: tuple[PartScores, ...]
    """A second one if the objects' level of the first is untrained: objects of the coarsest trained level."""
    unscored: dict[str, str]
    """The reason of each image that was not scored, by its name."""


class LevelCounts:
    """What the scores of one level are computed from.

    Args:
        classes: how many there are, without the background.
        recall: count for average recall, too; PluginError without its library.
    """

    def __init__(self, classes: int, *, recall: bool = False) -> None:
        self._boundary = BoundaryF(classes + 1, ignore_index=UNKNOWN)
        self._pairs = torch.zeros(classes + 2, classes + 2, dtype=torch.int64)
        self._iou: list[float] = []
        self._present: list[Tensor] = []
        self._segments: list[int] = []
        self._recall = AverageRecall() if recall else None

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count the class map of an image: int64 (H, W) both, classes from 0; truth -1 is unknown.

        Raises:
            DataError: if a label is not a class.
        """
        self._boundary.update(predicted[None], truth[None])  # Refuses a label that is not a class.
        pairs = count_pairs(predicted, truth, len(self._pairs) - 1, UNKNOWN)
        self._pairs += pairs
        self._iou.append(float(scores(pairs[:-1, :-1]).mean_iou))
        self._present.append(pairs[:-1].sum(1) > 0)

    def add_segments(
        self, segments: NDArray[np.int32], maps: NDArray[np.int32], regions: NDArray[np.int32]
    ) -> None:
        """Count the segments (H, W) themselves, and match those of all levels (L, H, W) with true regions."""
        self._segments.append(len(np.unique(segments)))
        if self._recall:
            self._recall.update(maps, regions)

    def compute(self) -> LevelScores:
        """The scores of all images; most are not a number without any."""
        pooled = scores(self._pairs[:-1, :-1])
        iou = torch.tensor(self._iou, dtype=torch.float64)
        present = torch.stack([torch.zeros(len(self._pairs) - 1, dtype=torch.bool), *self._present])[1:]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*before the ``update``")
            boundary: BoundaryScores = self._boundary.compute()
        return LevelScores(
            images=len(iou),
            segments=float(torch.tensor(self._segments, dtype=torch.float64).mean()),
            region_iou=float(iou.mean()),
            region_iou_pooled=float(pooled.mean_iou),
            boundary_f=float(boundary.class_image),
            boundary_f_pooled=float(boundary.class_pooled),
            boundary_f_any=float(boundary.any_image),
            boundary_f_any_pooled=float(boundary.any_pooled),
            boundary_tolerance_px=float(boundary.tolerance),
            recall=self._recall.compute() if self._recall else float("nan"),
            class_images=tuple(present.sum(0).tolist()),
            class_region_iou=tuple(float(iou[column].mean()) for column in present.T),
            class_iou=tuple(pooled.iou.tolist()),
            class_boundary_f=tuple(boundary.f.reshape(-1).tolist()),
        )


def best_names(segments: NDArray[np.int32], truth: ClassMap) -> Tensor:
    """The class map in which each segment has the class that it shares most pixels with: int64 (H, W).

    Its region mIoU is :func:`castssl.metrics.regions.region_iou`: what any naming of the segments could be
    compared with.  A segment without a known pixel has class 0.
    """
    pair = (torch.from_numpy(np.array(labels)).long()[None] for labels in (segments, truth))
    return majority_labels(*pair)[0].clamp(min=0)


@dataclass
class _Row:
    """The counts of one choice of levels."""

    levels: Levels
    untrained: bool
    names: PartNames
    recall: bool
    counts: tuple[LevelCounts, LevelCounts] = field(init=False)

    def __post_init__(self) -> None:
        classes = len(self.names.objects), len(self.names.part_names)
        objects, parts = (LevelCounts(count, recall=self.recall) for count in classes)
        self.counts = objects, parts

    def add(
        self, image: NDArray[np.uint8], maps: NDArray[np.int32], truth: PartTruth, names: Names | None
    ) -> None:
        segments = [np.ascontiguousarray(maps[level]) for level in self.levels]
        true, regions = (truth.objects, truth.parts), (truth.objects, truth.regions)
        if names is None:
            found = [best_names(*pair) for pair in zip(segments, true, strict=True)]
        else:
            found = [torch.from_numpy(classes).long() for classes in names(image, *segments)]
        used = 2 if self.names.part_names else 1
        for at, counts in enumerate(self.counts[:used]):
            counts.update(found[at], torch.from_numpy(np.array(true[at])).long())
            counts.add_segments(segments[at], maps, regions[at])

    def compute(self) -> PartScores:
        return PartScores(self.levels, self.untrained, *(counts.compute() for counts in self.counts))


class Scorer:
    """Scores one segmenter image by image.

    Args:
        segmenter: the segmenter.
        names: of the classes.
        levels: that objects and parts come from; an index that a segmenter of fewer levels lacks is an error,
            except that objects and parts come from the same level of a segmenter with one.
        naming: names of the segments; None: the best ones, by the truth.
        recall: compute average recall, too.

    Raises:
        PluginError: if average recall is wanted and its library is missing.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        names: PartNames,
        *,
        levels: Levels = PAPER,
        naming: Names | None = None,
        recall: bool = False,
    ) -> None:
        self.unscored: dict[str, str] = {}
        self._segmenter, self._names, self._levels = segmenter, names, levels
        self._naming, self._recall = naming, recall
        self._rows: list[_Row] = []
        self._count: int | None = None
        if recall:
            AverageRecall()  # Refuses a missing library before the first image.

    def add(self, name: str, image: NDArray[np.uint8], truth: PartTruth) -> None:
        """Segment and count an image; one that cannot be scored is listed in :attr:`unscored`.

        Args:
            name: the image's path below its split.
            image: uint8 (H, W, 3).
            truth: of the same size.

        Raises:
            ConfigError: if the segmenter has no such level.
            ContractError: if it returns anything but int32 (L, H, W), or another L than for an image before.
        """
        try:
            check_truth(truth, self._names)
            maps = label_maps(self._segmenter, image, name, self._count)
            self._count = len(maps)
            for row in self._rows or self._begin(len(maps)):
                row.add(image, maps, truth, self._naming)
        except DataError as error:
            self.unscored[name] = str(error)

    def compute(self) -> Scored:
        """The scores of all images so far; a row of not-a-numbers if no image could be segmented."""
        rows = self._rows or [_Row(self._levels, False, self._names, False)]
        return Scored(tuple(row.compute() for row in rows), dict(self.unscored))

    def _begin(self, count: int) -> list[_Row]:
        levels = self._levels if count > 1 or self._levels != PAPER else Levels(-1, -1)
        if wrong := [level for level in levels if not -count <= level < count]:
            raise ConfigError(
                f"{type(self._segmenter).__name__} has {count} levels, 0 (finest) to {count - 1} or -{count}"
                f" to -1 (coarsest), got the level {wrong[0]}; choose those of objects and parts among these"
            )
        chosen = Levels(*(level % count for level in levels))
        trained = count - self._segmenter.untrained
        self._rows = [_Row(chosen, chosen.objects >= trained, self._names, self._recall)]
        if chosen.objects >= trained > 0:
            second = Levels(trained - 1, min(chosen.parts, trained - 1))
            self._rows.append(_Row(second, False, self._names, self._recall))
        return self._rows


def score_parts(
    segmenters: Mapping[str, Segmenter],
    data: PartSet,
    *,
    size: int | None = None,
    levels: Levels = PAPER,
    naming: Names | None = None,
    recall: bool = False,
    report: Callable[[int], object] = lambda done: None,
) -> dict[str, Scored]:
    """Score segmenters on the objects and parts of images; each image is read once.

    Args:
        segmenters: by the name of their row.
        data: the images.
        size: score this center crop, whose side is the image's shorter side resized to so many pixels; the
            truth is resized by nearest neighbor.  None: whole images.
        levels: see :class:`Scorer`; so are ``naming`` and ``recall``.
        naming: likewise.
        recall: likewise.
        report: is called with the number of images that are done.

    Returns:
        By the names of ``segmenters``.  Images that could not be scored are in each result's ``unscored``.

    Raises:
        ConfigError: if a segmenter lacks a level.
        PluginError: see :class:`Scorer`.
    """
    scorers = {
        name: Scorer(segmenter, data.names, levels=levels, naming=naming, recall=recall)
        for name, segmenter in segmenters.items()
    }
    view = None if size is None else CenterView(size, 1.0)
    report(0)
    for index in range(len(data)):
        name = data.name(index)
        try:
            image, truth = data.read(index)
        except DataError as error:
            for scorer in scorers.values():
                scorer.unscored[name] = str(error)
        else:
            pixels = _pixels(image, view)
            truth = truth if view is None else PartTruth(*(_cropped(each, view) for each in truth))
            for scorer in scorers.values():
                scorer.add(name, pixels, truth)
        report(index + 1)
    return {name: scorer.compute() for name, scorer in scorers.items()}


def _pixels(image: Image.Image, view: CenterView | None) -> NDArray[np.uint8]:
    if view is None:
        return np.array(image)
    return view.crop(image)[0].image.permute(1, 2, 0).contiguous().numpy()


def _cropped(labels: ClassMap, view: CenterView) -> ClassMap:
    return view.crop_mask(Image.fromarray(labels)).int().numpy()
