"""Segments beside the body parts of DensePose: precision, recall and F at three levels, as CAST's table 2.

CAST (https://arxiv.org/abs/2210.00314, section 4.1) compares 32, 16 and 8 segments with 14 body parts, 4
groups of them and the whole body.  It defines no measure; that of
:func:`castssl.metrics.regions.precision_recall` is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from castssl.datasets.densepose import LABELS, group
from castssl.datasets.parts import PartSet
from castssl.errors import DataError
from castssl.metrics.regions import f_score, precision_recall
from castssl.segmenter import Segmenter, label_maps

BACK = (3, 2, 1)
"""The levels of 14, 4 and 1 labels, counted from the coarsest, 1."""


class Row(NamedTuple):
    """The scores of one level of segments, as shares."""

    labels: int
    """14, 4 or 1."""
    untrained: bool
    """True if the level comes from a pooling that was never trained."""
    segments: float
    """Mean number of segments in an image."""
    precision: float
    """Mean over the labels of an image, then over images; so is :attr:`recall`."""
    recall: float
    f: float
    """Of the two means."""


class Scored(NamedTuple):
    """The result of one segmenter."""

    images: int
    """How many were scored."""
    rows: tuple[Row, ...]
    """Of 14, 4 and 1 labels; none without images."""
    unscored: dict[str, str]
    """The reason of each image that was not scored, by its name."""


def score_densepose(
    segmenters: Mapping[str, Segmenter], data: PartSet, *, report: Callable[[int], object] = lambda done: None
) -> dict[str, Scored]:
    """Compare the three coarsest levels of segmenters with 14, 4 and 1 labels, fine to coarse.

    A segmenter of fewer levels is compared by its finest one where others have a finer one.  Each image is
    read once, and segmented at its own size.  A label is one region of an image, also where several persons
    have it.

    Args:
        segmenters: by the name of their result.
        data: DensePose.
        report: is called with the number of images that are done.

    Returns:
        By the names of ``segmenters``.
    """
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in segmenters}
    unscored: dict[str, dict[str, str]] = {name: {} for name in segmenters}
    report(0)
    for index in range(len(data)):
        file, read = data.name(index), _read(data, index)
        for name, segmenter in segmenters.items():
            scores = read if isinstance(read, str) else _score(segmenter, *read, file)
            if isinstance(scores, str):
                unscored[name][file] = scores
            else:
                values[name].append(scores)
        report(index + 1)
    return {
        name: Scored(len(values[name]), _rows(values[name], segmenter.untrained), unscored[name])
        for name, segmenter in segmenters.items()
    }


def _read(data: PartSet, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]] | str:
    """An image and its body parts, or why there are none."""
    try:
        image, truth = data.read(index)
    except DataError as error:
        return str(error)
    return (np.array(image), truth.parts) if truth.parts.max() > 0 else "no person in it has body parts"


def _score(
    segmenter: Segmenter, image: NDArray[np.uint8], parts: NDArray[np.int32], name: str
) -> NDArray[np.float64] | str:
    """Segments, precision and recall of each number of labels: (3, 3); or why there are none."""
    try:
        maps = label_maps(segmenter, image, name)
    except DataError as error:
        return str(error)
    rows = []
    for back, labels in zip(BACK, LABELS, strict=True):
        segments = torch.from_numpy(maps[max(len(maps) - back, 0)].copy())[None]
        scores = precision_recall(segments, torch.from_numpy(group(parts, labels))[None])
        rows.append([len(segments.unique()), *scores[0].tolist()])
    return np.array(rows)


def _rows(values: list[NDArray[np.float64]], untrained: int) -> tuple[Row, ...]:
    """The means over images, of a segmenter of so many untrained levels."""
    means = zip(LABELS, BACK, np.mean(values, 0).tolist(), strict=True) if values else ()
    return tuple(
        Row(labels, back <= untrained, segments, precision, recall, f_score(precision, recall))
        for labels, back, (segments, precision, recall) in means
    )
