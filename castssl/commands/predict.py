"""``castssl predict``: the label path of images, with the probability of each level and its evidence."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.commands import many_labels
from castssl.commands.arguments import (
    Commands,
    add_output,
    add_reading,
    add_tree,
    device_of,
    label_tree,
    or_none,
    picture,
    save_picture,
    short_names,
    subcommand,
    table,
    value_range,
)
from castssl.commands.inputs import IMAGES, find_images
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from torch import Tensor

    from castssl.checkpoints.classifier import Classifier
    from castssl.inference.predict import Level, Prediction
    from castssl.labels import LabelTree

NOTES = """The class of each level is predicted separately.  A path that contradicts the tree is marked.
With --min-confidence P the answer backs off to a parent: it ends at the finest level whose probability is at
least P and whose coarser levels are its ancestors (P = 0 backs off only from contradictions).
answer_threshold in the results.json of a run or of castssl evaluate is a P chosen on held-out images.

The picture shows, for each level, the segments of the stage that it reads.  Orange segments raise the logit
of its class, blue ones lower it: the gradient of the logit at the tokens of the finest segments, times their
difference from the image's mean token, summed over each segment.

Weights for many labels per image (recipes/multilabel.py) give all labels of --threshold or more, or the --top
likeliest; the picture shows the attention of each label.  --names scores other labels, where the head has the
same weights for each label (head_weights=shared) and a text encoder reads the names.

A published H-CAST contains neither names nor parents; --tree DATA takes them from its training data.
The exit code is 1 if an image could not be read.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    command = subcommand(commands, "predict", "the labels of images: a path, or any number", _predict, NOTES)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help=IMAGES)
    command.add_argument("--weights", required=True, help="a run's folder, encoder.safetensors or checkpoint")
    least = "back off to the parent below this, 0 to 1"
    command.add_argument("--min-confidence", type=float, metavar="P", help=least)
    draw = "draw the segments, one row per image"
    add_output(command, "--out", type=picture, metavar="PICTURE.png", help=draw)
    add_tree(command)
    command.add_argument("--json", action="store_true", help="a JSON list in place of the table")
    superpixels = "such as seeds:count=256 (default: trained with)"
    command.add_argument("--superpixels", metavar="SPEC", help=superpixels)
    add_reading(command)
    many_labels.add(command)


def _predict(args: argparse.Namespace) -> int:
    args.images = find_images(args.images).paths
    check_outputs([args.out] if args.out else [], overwrite=args.overwrite)
    device = device_of(args)
    from castssl.checkpoints import read
    from castssl.checkpoints.classifier import load_classifier
    from castssl.checkpoints.many_labels import has_many_labels
    from castssl.inference.predict import predict, with_superpixels

    checkpoint = read(args.weights)
    if has_many_labels(checkpoint):
        return many_labels.predict_labels(args, checkpoint, device)
    many_labels.refuse(args)
    classifier = load_classifier(checkpoint, labels=label_tree(args))
    if args.superpixels:
        classifier = with_superpixels(classifier, args.superpixels)
    options = {"min_confidence": args.min_confidence, "explain": args.out is not None, "device": device}
    options["value_range"] = value_range(args)
    results = {image: or_none(partial(predict, image, classifier, **options)) for image in args.images}
    predictions = {image: result for image, result in results.items() if result is not None}
    if args.json:
        print(json.dumps([_plain(*pair) for pair in predictions.items()], indent=1))
    elif predictions:
        _print(predictions, classifier, args.min_confidence)
    if args.out and predictions:
        _draw(predictions, args.out)
    return 0 if len(predictions) == len(results) else 1


def _plain(image: Path, prediction: Prediction) -> dict[str, Any]:
    """One image's prediction for JSON; ``answer`` are the names of the answer, coarse to fine."""
    levels = [
        {"level": one.level, "class": one.name, "index": one.number, "probability": one.probability}
        for one in prediction.path
    ]
    answer = [level.name for level in prediction.path[: prediction.answer]]
    return {"image": str(image), "path": levels, "consistent": prediction.consistent, "answer": answer}


def _print(predictions: dict[Path, Prediction], classifier: Classifier, least: float | None) -> None:
    from rich.console import Console

    from castssl.terminal import safe_markup

    shown = table(["image", "level", "class", "probability", ""], [])
    for heading in (1, 3):
        shown.columns[heading].justify = "right"
    names = short_names(predictions)
    for image, prediction in predictions.items():
        for row, level in enumerate(prediction.path):
            name = safe_markup(names[image]) if row == 0 else ""
            style = "bold" if row < prediction.answer else "dim"
            label = f"[{style}]{safe_markup(level.name)}[/]"
            remark = safe_markup(_remark(prediction, row, classifier, least))
            shown.add_row(name, str(level.level), label, f"{level.probability:.3f}", remark)
        if least is not None:
            answer = " > ".join(safe_markup(level.name) for level in prediction.path[: prediction.answer])
            shown.add_row("", "", f"[bold]= {answer or 'no answer'}[/]", "", "")
        shown.add_section()
    Console().print(shown)
    if not classifier.known and classifier.labels.levels > 1:
        print(
            "the weights hold no label tree: classes are numbers, and paths are not checked; give --tree DATA"
        )


def _remark(prediction: Prediction, row: int, classifier: Classifier, least: float | None) -> str:
    """The reason why a level is uncertain, or nothing."""
    level, remarks = prediction.path[row], []
    if level.agrees is False:
        parents = _ancestors(classifier.labels, level.level, level.number)
        wrong = [one for one in prediction.path[:row] if parents[one.level] != one.number]
        remarks.append("of a path that contradicts itself")
        if wrong:
            names, parent = classifier.labels.names, parents[wrong[-1].level]
            right = names[wrong[-1].level][parent] if names else str(parent)
            remarks = [f"contradicts {wrong[-1].name}: it is in {right}"]
    if not level.sure:
        remarks.append(f"below {least:g}")
    return "; ".join(remarks)


def _ancestors(labels: LabelTree, level: int, index: int) -> list[int]:
    """The classes above one, and itself, from the coarsest level."""
    path = [index]
    for parents in reversed(labels.parents[:level]):
        path.insert(0, parents[path[0]])
    return path


def _draw(predictions: dict[Path, Prediction], out: Path) -> None:
    from castssl.visualization.draw import sheet
    from castssl.visualization.evidence import Panel, draw_path

    rows, names = [], short_names(predictions)
    for image, prediction in predictions.items():
        path = prediction.path
        panels = [
            Panel(*evidence, f"{_named(level)} ({_count(evidence.labels)} segments)")
            for level, evidence in zip(path, prediction.evidence, strict=True)
        ]
        title = " > ".join(map(_named, path[: prediction.answer])) or "not sure of any level"
        if prediction.consistent is False:
            title += "  (a contradiction)" if prediction.answer == len(path) else "  (backed off)"
        rows.append(draw_path(prediction.seen, panels, f"{names[image]}: {title}"))
    save_picture(sheet(rows), out)
    print(f"the picture: {out}", file=sys.stderr)


def _count(labels: Tensor) -> int:
    return len(set(labels[labels >= 0].tolist()))


def _named(level: Level) -> str:
    return f"{level.name} {level.probability:.2f}"
