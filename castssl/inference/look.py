"""Segments of an image that merge one by one inside a model's own hierarchy, for a page to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import cdist

from castssl.checkpoints.classifier import Classifier
from castssl.contracts import Encoder
from castssl.datasets.multichannel import RGB
from castssl.errors import ConfigError, DataError
from castssl.inference.predict import explained, label_path
from castssl.inference.segment import prepare, resize_labels
from castssl.models.cast import CAST
from castssl.modes import evaluating, kept_random_state
from castssl.objectives.classification import Supervised
from castssl.registry import build_superpixels
from castssl.segmenter import Segmenter, label_maps
from castssl.superpixels.merge import Merges, mean_colors
from castssl.types import View
from castssl.visualization.page import MOST_SEGMENTS, Class, Level, Parts, shrink

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
COMPARED = 2**22
"""Pairs of segments that are compared at once, at most; one row has more if there are more segments."""
STORED = 1024
"""Segments inside one of the next level whose costs are kept, at most; those of more are computed again."""
Finder = Callable[[Image.Image, str], Parts]
"""The parts of an image, given its name."""


def merge_order(levels: Sequence[Ints], features: Sequence[Floats], areas: Ints) -> Merges:
    """Merge the segments of an image one by one, until one is left, in the order of their similarity.

    Each step joins the two segments whose features are most alike by Ward's criterion over pixels: a b /
    (a + b) times the squared distance of their means is the smallest, where a and b are their areas; of
    equal pairs the first.  (The distance alone would leave all but a few segments in one.)  Segments merge
    within one segment of the next level until none are left to merge there, so that each level is a cut of
    the tree.  The merges to each level compare the features of the level before it.

    Args:
        levels: int64 (n,) each, fine to coarse: which row of the level's features each of n finest segments
            is in.  Levels are nested, and the first has n different ones.
        features: float (K, D) of each level.
        areas: (n,), positive.

    Returns:
        n - 1 merges.
    """
    count, merges = len(areas), Merges()
    names = np.arange(count)
    wholes = [*levels[1:], np.zeros(count, np.int64)]
    for rows, table, groups in zip(levels, features, wholes, strict=True):
        alive, leaves, inverse = np.unique(names, return_index=True, return_inverse=True)
        masses = np.bincount(inverse, areas).astype(np.float64)
        means, whole = np.nan_to_num(table[rows[leaves]]), groups[leaves]
        for one, other in _merge(means, masses, whole, len(alive) - len(np.unique(whole))):
            merges.append((int(alive[one]), int(alive[other])))
            names[np.isin(names, merges[-1])] = alive[one] = count + len(merges) - 1
    return merges


def _merge(means: Floats, masses: Floats, groups: Ints, steps: int) -> Iterator[tuple[int, int]]:
    """Rows that merge, the smaller one first, which from then on stands for both.

    A table of all pairs of 65,535 rows would take 34 GB: small groups alone have one.
    """
    if not steps:
        return
    order = np.argsort(groups, kind="stable")
    inside = dict(zip(*_groups(groups[order], order), strict=True))
    place, tables = np.empty_like(order), dict[int, Floats]()
    for group, rows in inside.items():
        place[rows] = np.arange(len(rows))
        if len(rows) <= STORED:
            tables[group] = _costs(means, masses, rows, rows)

    def costs(rows: Ints, others: Ints) -> Floats:
        table = tables.get(int(groups[others[0]]))
        if table is None:
            return _costs(means, masses, rows, others)
        kept: Floats = table[np.ix_(place[rows], place[others])]
        return kept

    # The first of the nearest rows to each row; of few rows it changes in a step.
    nearest, least = np.arange(len(groups)), np.full(len(groups), np.inf)
    for rows in inside.values():
        nearest[rows], least[rows] = _nearest(costs, rows, rows)
    for _ in range(steps):
        row = int(least.argmin())
        one, other = sorted((row, int(nearest[row])))
        yield one, other
        means[one] = np.average(means[[one, other]], 0, masses[[one, other]])
        masses[one] += masses[other]
        least[other] = np.inf
        group = int(groups[one])
        rows = inside[group] = inside[group][inside[group] != other]
        stale = rows[(nearest[rows] == one) | (nearest[rows] == other) | (rows == one)]
        to_one = _costs(means, masses, np.array([one]), rows)[0]
        nearer = (to_one < least[rows]) | ((to_one == least[rows]) & (one < nearest[rows]))
        nearest[rows[nearer]], least[rows[nearer]] = one, to_one[nearer]
        if group in tables:
            tables[group][place[one], place[rows]] = tables[group][place[rows], place[one]] = to_one
        nearest[stale], least[stale] = _nearest(costs, stale, rows)


def _groups(names: Ints, rows: Ints) -> tuple[list[int], list[Ints]]:
    """The groups by increasing name, and the rows of each; ``names`` are sorted."""
    found, first = np.unique(names, return_index=True)
    return found.tolist(), np.split(rows, first[1:])


def _nearest(costs: Callable[[Ints, Ints], Floats], rows: Ints, others: Ints) -> tuple[Ints, Floats]:
    """Of each row the first of the others that costs least, and its cost; only some are compared at once."""
    pairs = []
    for part in np.array_split(rows, max(1, -(-len(rows) * len(others) // COMPARED))):
        cost = costs(part, others)
        best = cost.argmin(1)
        pairs.append((others[best], cost[np.arange(len(part)), best]))
    chosen, lowest = zip(*pairs, strict=True)
    return np.concatenate(chosen), np.concatenate(lowest)


def _costs(means: Floats, masses: Floats, rows: Ints, others: Ints) -> Floats:
    """Ward's (R, N): how much the squared distances to the mean grow if two merge; infinite with itself."""
    chosen = masses[rows][:, None]
    share = chosen * masses[others] / (chosen + masses[others])
    cost: Floats = share * cdist(means[rows], means[others], "sqeuclidean")
    cost = np.nan_to_num(cost, copy=False, nan=np.finfo(np.float64).max)  # Of features that are not finite.
    cost[rows[:, None] == others] = np.inf
    return cost


def of_model(
    encoder: Encoder,
    classifier: Classifier | None = None,
    *,
    superpixels: str | None = None,
    image_size: int | None = None,
) -> Finder:
    """Find the segments of a model as :func:`castssl.segment` does, and what supports its classes.

    Segments without pixels are left out, and so are stages of as many segments as the one before.  Features
    are compared at unit length, where the nearest are those of the largest cosine.

    Args:
        encoder: on its device.
        classifier: whose encoder this is, on the same device; it sees the whole image.
        superpixels: another backend than the model was trained with.
        image_size: shorter side of the model's input in pixels; by default that of :func:`castssl.segment`,
            with a classifier the one that it was trained at.

    Raises:
        ConfigError: if the encoder takes other than RGB images.

    The finder raises DataError for more segments than a page holds.
    """
    if encoder.config.channels not in RGB:
        raise ConfigError(
            f"expected a model of RGB images, got one of {encoder.config.channels} channels; `castssl segment"
            " --weights` draws the segments of such a model"
        )
    backend = build_superpixels(encoder.config, superpixels)
    if classifier is not None and image_size is None:
        image_size = classifier.image_size

    def find(photo: Image.Image, name: str = "") -> Parts:
        place = next(iter(encoder.parameters())).device
        with evaluating(encoder), torch.no_grad(), kept_random_state(place):
            _, view, sizes = prepare(photo, encoder, backend, image_size=image_size)
            hierarchy = encoder.segment(view, sizes)
        numbers, finest = _dense(hierarchy.labels(0)[0].cpu().numpy(), name)
        budgets = [tokens.x.shape[1] for tokens in hierarchy.stages]
        stages = [i for i in range(len(budgets)) if i == 0 or budgets[i] != budgets[i - 1]]
        levels = tuple(Level(budgets[i], hierarchy.parents(i)[0].cpu().numpy()[numbers]) for i in stages)
        features = [_unit(hierarchy.stages[i].x[0].double().cpu().numpy()) for i in stages]
        areas = np.bincount(finest[finest >= 0], minlength=len(numbers))
        merges = merge_order([level.ids for level in levels], features, areas)
        classes = () if classifier is None else _classes(classifier, view, sizes, numbers)
        return Parts(finest, merges, levels, classes)

    return find


def of_segmenter(segmenter: Segmenter) -> Finder:
    """Find the segments of a segmenter; their features are mean colors.

    If it does not declare its levels nested, only the finest are shown.  The finder raises DataError for more
    segments than a page holds.
    """

    def find(photo: Image.Image, name: str = "") -> Parts:
        small = shrink(photo)
        maps = torch.from_numpy(label_maps(segmenter, np.array(photo.convert("RGB")), name))
        shown = [resize_labels(level, small.height, small.width).numpy() for level in maps]
        shown = shown if segmenter.nested else shown[:1]
        finest = _dense(shown[0], name)[1]
        pixels, first = np.asarray(small).transpose(2, 0, 1), np.unique(finest, return_index=True)[1]
        levels, features = [], []
        for level in shown:
            levels.append(Level(len(np.unique(level)), level.ravel()[first].astype(np.int64)))
            features.append(mean_colors(pixels, level, int(level.max()) + 1))
        merges = merge_order([level.ids for level in levels], features, np.bincount(finest.ravel()))
        return Parts(finest, merges, tuple(levels))

    return find


def _dense(labels: NDArray[np.integer], name: str) -> tuple[Ints, Ints]:
    """The labels that occur, in increasing order, and the map with their places; -1 stays -1.

    Raises:
        DataError: if a page cannot hold them, before they are compared in pairs.
    """
    numbers = np.unique(labels[labels >= 0]).astype(np.int64)
    if len(numbers) > MOST_SEGMENTS:
        raise DataError(
            f"{name or 'an image'} has {len(numbers):,} segments, and a page holds at most {MOST_SEGMENTS:,}"
            " per image; use larger superpixels, or a coarser first level"
        )
    return numbers, np.where(labels < 0, -1, np.searchsorted(numbers, labels))


def _unit(features: Floats) -> Floats:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))


def _classes(
    classifier: Classifier, view: View, sizes: Sequence[int] | None, numbers: Ints
) -> tuple[Class, ...]:
    with _sizes(classifier.objective, sizes):
        logits, evidence = explained(classifier.objective, view, stage=0)
    path = label_path(classifier, logits)
    return tuple(
        Class(level.name, level.probability, one.moved.double().cpu().numpy()[numbers])
        for level, one in zip(path, evidence, strict=True)
    )


@contextmanager
def _sizes(objective: Supervised, sizes: Sequence[int] | None) -> Iterator[None]:
    """Token budgets of one image, whose number of superpixels follows from its size."""
    encoders = [encoder for encoder in objective.encoders() if isinstance(encoder, CAST)]
    before = [encoder.sizes for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.sizes = encoder.sizes if sizes is None else tuple(sizes)
        yield
    finally:
        for encoder, own in zip(encoders, before, strict=True):
            encoder.sizes = own
