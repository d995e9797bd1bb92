"""Test-time adaptation of trained weights, measured on images with masks, and files about it."""

from __future__ import annotations

import json
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

from castssl.contracts import Encoder
from castssl.data.splits import Splits
from castssl.errors import DataError
from castssl.evaluation.adaptation import COLUMNS, Adaptation, Gain, gain
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.evaluation.many_labels import level_names
from castssl.files import atomic_write, write_text
from castssl.inference.evaluate import write_csv
from castssl.labels import LabelTree
from castssl.visualization.plots import draw_before_after

FILES = ("results.json", "images.csv", "before-after.png")
THRESHOLD = 0.8
"""Of the paper: where region IoU is below it, adaptation gains most."""
CONTRASTS = (("before", "adapted"), ("before", "random step"), ("random step", "adapted"))
"""Pairs of columns whose difference is measured, image by image."""


class Measured(NamedTuple):
    """What :func:`measure` found."""

    results: dict[str, dict[str, float]]
    """By :data:`castssl.evaluation.adaptation.COLUMNS`, then by the names of a recipe's ``results.json``."""
    gains: dict[str, dict[str, Gain]]
    """Of region IoU in the coarsest segments: by the title of each of :data:`CONTRASTS` the mean difference
    of the images with a low, a high and any IoU before."""
    adaptation: Adaptation


def measure(encoder: Encoder, data: Splits, adaptation: Adaptation, **options: Any) -> Measured:
    """The segments of held-out images with masks before and after adaptation.

    Args:
        encoder: on the device.
        data: images to compute class vectors of, and held-out images.
        adaptation: the evaluator.
        options: of :class:`castssl.evaluation.held_out.Evaluation`, such as ``superpixels`` and ``view``.

    Raises:
        DataError: if no image with a mask can be measured.
        ConfigError: if the encoder has no norms that can be adapted.
    """
    evaluation = Evaluation(data.train, data.held_out, evaluators=[adaptation], **options)
    adapted = evaluation(Subject(encoder))
    if not adapted:
        raise DataError(
            "no held-out image has a mask of its object, so no segment can be scored; give masks with"
            " --masks, or data that has them, such as demo"
        )
    columns = adaptation.baselines() | {"adapted": adapted}
    results = {name: columns[name] for name in COLUMNS}
    iou = adaptation.per_image.region_iou
    low = iou["before"] < THRESHOLD
    chosen = {f"below {THRESHOLD:.0%}": low, f"{THRESHOLD:.0%} or more": ~low, "all": low | ~low}
    gains = {
        f"{after} - {first}": {
            name: gain(iou[first][rows], iou[after][rows]) for name, rows in chosen.items()
        }
        for first, after in CONTRASTS
    }
    return Measured(results, gains, adaptation)


def write(measured: Measured, folder: Path, labels: LabelTree) -> None:
    """Write :data:`FILES`.

    Raises:
        PluginError: if matplotlib is not installed; the other files are written.
        CastError: if a file cannot be written.
    """
    gains = {
        title: {name: [None if isnan(number) else number for number in one] for name, one in by_value.items()}
        for title, by_value in measured.gains.items()
    }
    content: dict[str, Any] = {**measured.results, "gains": gains}
    write_text(folder / FILES[0], json.dumps(content, indent=1, allow_nan=False) + "\n", "results")
    adaptation = measured.adaptation
    found, images = adaptation.per_image, adaptation.source
    names = level_names(labels)[-1]
    if adaptation.positive is not None:
        names = [f"not {names[adaptation.positive]}", names[adaptation.positive]]
    parts = (found.predicted, found.confidence, found.region_iou)
    heading = [f"{what} {name}" for name in COLUMNS for what in ("prediction", "probability", "region IoU")]
    table = [["path", *heading]]
    for row, position in enumerate(found.positions.tolist()):
        values = [part[name][row].item() for name in COLUMNS for part in parts]
        cells = [names[v] if isinstance(v, int) else f"{v:.6f}" for v in values]
        table.append([images.name(position), *cells])
    write_csv(folder / FILES[1], table)
    iou = found.region_iou
    after = {name: iou[name] for name in COLUMNS if name != "before"}
    figure = draw_before_after(iou["before"], after, "region IoU", threshold=THRESHOLD)
    with atomic_write(folder / FILES[2], "picture") as aside:
        figure.savefig(aside, dpi=120, format="png")
