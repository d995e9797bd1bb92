"""A trained classifier on any labeled images: accuracies as the recipes report them, and files about them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import torch

from castssl.checkpoints.classifier import Classifier
from castssl.data.evaluation_views import CenterView
from castssl.data.splits import open_splits, renumber
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.datasets.stream import Stream
from castssl.errors import DataError, NoSplit
from castssl.evaluation.classification import Accuracy
from castssl.evaluation.free_grained import FreeGrained
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.evaluation.label_paths import LabelPaths
from castssl.evaluation.many_labels import level_names
from castssl.evaluation.predictions import Level, Predictions
from castssl.files import atomic_write, write_text
from castssl.labels import LabelTree
from castssl.metrics.free_grained import Curve
from castssl.objectives.deit import DeiT
from castssl.registry import build_superpixels
from castssl.visualization.confusion import draw_confusion, draw_reliability
from castssl.visualization.risk_coverage import FILES as CURVES
from castssl.visualization.risk_coverage import write_risk_coverage

FILES = ("results.json", "predictions.csv", "classes.csv")
PER_LEVEL = ("confusion.csv", "confusion.png", "reliability.png")
"""Files of each label level; a number is put before the ending where there are several."""


DENSE = 1000
"""Classes whose confusion is a full table at most; that of more is a list of the pairs that occur."""


class LabelRow(NamedTuple):
    """How well one label is found among many labels per image."""

    level: int
    label: str
    images: int
    """That have it."""
    unknown: int
    """Images of which it is unknown."""
    average_precision: float
    """0 to 1; not a number if no image has the label."""


class Evaluated(NamedTuple):
    """What :func:`evaluate` found; every process has the same."""

    results: dict[str, float]
    """By the names of the recipes' ``results.json``, with ``ece``."""
    baselines: dict[str, dict[str, float]]
    """The results without learning: ``majority``, ``chance``."""
    images: Images | Stream
    labels: LabelTree
    columns: tuple[int, ...]
    """The label levels that are predicted."""
    predictions: Predictions | None
    """None for a stream, whose images have no names."""
    unreadable: dict[str, str]
    """The reason by path."""
    labels_apart: tuple[LabelRow, ...] = ()
    """A row for each label, where images have many."""
    curves: Mapping[str, Curve] | None = None
    """Risk and coverage of answers that stop where the classes are sure, of several label levels."""


def open_labeled(
    data: str,
    *,
    split: str | None = None,
    share: float = 0.0,
    seed: int = 0,
    subset: str | None = None,
    commands: bool = False,
    channels: int = 3,
) -> Images | Stream:
    """The images to evaluate on.

    Args:
        data: a name of data, see :func:`castssl.datasets.open.open_images`.
        split: by default ``val`` if the data has it, else all images.
        share: the share of the training images that a recipe with this ``--val-share`` holds out.
        seed: of the recipe that drew the share.
        subset: only these classes.
        commands: see :func:`castssl.datasets.open.open_images`.
        channels: likewise.

    Raises:
        DataError: if the data cannot be opened.
    """
    options: dict[str, Any] = {"subset": subset, "commands": commands, "channels": channels}
    if share:
        held_out = open_splits(data, share=share, seed=seed, **options).held_out
        assert held_out is not None, "a share was asked for"
        return held_out
    try:
        return open_images(data, split=split or "val", **options)
    except NoSplit:
        if split is not None:
            raise
        return open_images(data, **options)


def numbered(images: Images | Stream, labels: LabelTree, title: str) -> Images | Stream:
    """The images with labels by the classes of the weights, matched by name.

    Images of one label level are matched with the finest level of several.

    Raises:
        DataError: if they have classes that the weights lack.
    """
    tree = images.tree
    finest = labels.names[-1] if labels.names else ()
    if tree.levels != 1 or labels.levels < 2 or not tree.names or len(set(finest)) < len(finest):
        return renumber(images, labels, title)
    if not isinstance(images, Images):
        raise DataError(
            f"{title} has one label level, the weights have {labels.levels}: give a folder or tar:"
        )
    flat = renumber(images, LabelTree.flat(finest), title)
    assert isinstance(flat, Images)
    paths = torch.cat([labels.paths(), torch.full((1, labels.levels), -1)])
    return replace(flat, targets=paths[flat.targets[:, 0]], tree=labels)


def evaluate(
    classifier: Classifier,
    images: Images | Stream,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    batch_size: int = 64,
) -> Evaluated:
    """The accuracies of a classifier, as the recipe that trained it computes them; every process calls it.

    An unreadable image counts as the one that the data set gives in its place, as in the recipes.

    Args:
        classifier: of :func:`castssl.checkpoints.classifier.load_classifier`.
        images: with labels by its classes, see :func:`numbered`; without labels there are predictions alone.
        device: where to run.
        workers: processes that read images, of each process.
        batch_size: images at a time and process.
    """
    objective, size = classifier.objective.to(device), classifier.image_size
    columns = tuple(column % classifier.labels.levels for column in objective.columns)
    answers, predictions = FreeGrained(), Predictions(columns)
    scores: list[Evaluator] = [LabelPaths(), answers]
    if isinstance(objective, DeiT):
        scores = [Accuracy(columns[0])]
    evaluation = Evaluation(
        images,
        images,
        build_superpixels(objective.encoder.config, classifier.superpixels),
        CenterView(size, interpolation=classifier.interpolation),
        [*scores, predictions],
        device,
        batch_size=batch_size,
        workers=workers,
    )
    results = evaluation(Subject(objective.branch("base"), objective.predict, objective))
    named = isinstance(images, Images)
    return Evaluated(
        results,
        evaluation.baselines(),
        images,
        classifier.labels,
        columns,
        predictions if named else None,
        _unreadable(images, predictions) if isinstance(images, Images) else dict(images.bad),
        curves=answers.curves,
    )


def _unreadable(images: Images, predictions: Predictions) -> dict[str, str]:
    """The images in whose place others were read."""
    found = {}
    for position in (predictions.read != torch.arange(len(images))).nonzero().flatten().tolist():
        fault = images.inspect(position, decoded=True)
        found[images.name(position)] = fault.reason if fault else "it was unreadable when it was evaluated"
    return found


def outputs(folder: Path, levels: int) -> list[Path]:
    """The files that :func:`write` writes for so many predicted levels."""
    names = (*FILES, *(CURVES if levels > 1 else ()))
    return [folder / name for name in names] + [
        folder / _of_level(name, level, levels) for level in range(levels) for name in PER_LEVEL
    ]


def write(evaluated: Evaluated, folder: Path) -> None:
    """Write the results, the predictions and the classes, and each level's confusion and calibration."""
    content: dict[str, Any] = {"trained": evaluated.results, **evaluated.baselines}
    content |= {"images": len(evaluated.images), "unreadable": evaluated.unreadable}
    write_text(folder / FILES[0], json.dumps(content, indent=1) + "\n", "results")
    if evaluated.labels_apart:
        write_csv(folder / FILES[2], [LabelRow._fields, *map(_cells, evaluated.labels_apart)])
    if evaluated.predictions is None:
        return
    write_csv(folder / FILES[1], _prediction_rows(evaluated))
    if not evaluated.images.tree.levels:
        return
    write_risk_coverage(evaluated.curves or {}, folder)
    write_csv(folder / FILES[2], [("level", *CLASS_COLUMNS), *class_rows(evaluated)])
    count = len(evaluated.columns)
    for place, (column, level) in enumerate(
        zip(evaluated.columns, evaluated.predictions.levels, strict=True)
    ):
        names = level_names(evaluated.labels)[column]
        write_csv(folder / _of_level(PER_LEVEL[0], place, count), confusion_rows(level, names))
        group = -(-len(names) // DENSE)
        confusion = level.grouped(group).confusion(-(-len(names) // group))
        pictures = (
            draw_confusion(confusion, names[::group], group),
            draw_reliability(level.reliability(), level.calibration_error()),
        )
        for name, picture in zip(PER_LEVEL[1:], pictures, strict=True):
            with atomic_write(folder / _of_level(name, place, count), "picture") as aside:
                picture.save(aside, format="png")


def confusion_rows(level: Level, names: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    """The confusion of a level with its heading.

    A row for each true class and a column for each predicted one; of more than :data:`DENSE` classes, a row
    for each pair that occurs: the true class, the predicted one, the number of images.

    Args:
        level: the predictions.
        names: of the classes.
    """
    if len(names) <= DENSE:
        yield ("true, then predicted", *names)
        confusion = level.confusion(len(names)).tolist()
        yield from ((name, *row) for name, row in zip(names, confusion, strict=True))
        return
    yield ("true", "predicted", "images")
    pairs, counts = level.pairs()
    for (label, predicted), images in zip(pairs.tolist(), counts.tolist(), strict=True):
        yield names[label], names[predicted], images


CLASS_COLUMNS = ("class", "images", "recall", "precision", "f1")


def class_rows(evaluated: Evaluated) -> list[tuple[Any, ...]]:
    """For each class of each level: the level, :data:`CLASS_COLUMNS`; shares in [0, 1]."""
    rows: list[tuple[Any, ...]] = []
    assert evaluated.predictions is not None
    for column, level in zip(evaluated.columns, evaluated.predictions.levels, strict=True):
        classes = evaluated.labels.sizes[column]
        counts = torch.bincount(level.labeled.label, minlength=classes).tolist()
        by_class = level.by_class(classes).values()
        measures = [[round(share, 6) for share in values.tolist()] for values in by_class]
        names = level_names(evaluated.labels)[column]
        rows += [(column, *row) for row in zip(names, counts, *measures, strict=True)]
    return rows


def _prediction_rows(evaluated: Evaluated) -> Iterable[tuple[Any, ...]]:
    images, found = evaluated.images, evaluated.predictions
    assert isinstance(images, Images)
    assert found is not None
    several = len(found.levels) > 1
    columns = [level_names(evaluated.labels)[column] for column in evaluated.columns]
    heading = [
        f"{name}{column if several else ''}"
        for column in evaluated.columns
        for name in ("label", "prediction", "probability")
    ]
    yield ("path", *heading, "read")
    for position, read in enumerate(found.read.tolist()):
        cells: list[Any] = []
        for names, level in zip(columns, found.levels, strict=True):
            label = int(level.label[position])
            cells += [names[label] if label >= 0 else "", names[int(level.predicted[position])]]
            cells.append(f"{float(level.probability[position]):.6f}")
        yield (images.name(position), *cells, images.name(read) if read != position else "")


def _cells(row: LabelRow) -> tuple[Any, ...]:
    found = row.average_precision
    return (*row[:4], "" if isnan(found) else round(found, 6))


def _of_level(name: str, level: int, levels: int) -> str:
    stem, _, ending = name.partition(".")
    return f"{stem}{level}.{ending}" if levels > 1 else name


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; names of files in it may hold bytes that are not valid UTF-8."""
    with (
        atomic_write(path, "table") as aside,
        open(aside, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file).writerows(rows)
