"""``castssl evaluate``: a trained classifier on any labeled images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.ablations.grid import add_commands
from castssl.commands.arguments import (
    Commands,
    add_batches,
    add_output,
    add_reading,
    device_of,
    subcommand,
    table,
    value_range,
)
from castssl.errors import ConfigError, printable
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from rich.table import Table

    from castssl.inference.evaluate import Evaluated, LabelRow

SHOWN = 20
"""Classes that the table on the terminal shows; the worst ones of more."""
NOTES = """The accuracies are those of the recipe's final table, on the same images: its val split by default.
An unreadable image is replaced by the next one, as in the recipes; it is listed.  Probabilities are those of
the softmax.  The calibration error (ECE) is the mean over images of |accuracy - mean probability| of the
image's bin, with 15 bins of equal width of the predicted class's probability.

With --out, DIR receives
  results.json      the accuracies as shares, 0 to 1, and the unreadable images
  predictions.csv   path, label, prediction and probability of each image; "read" names the image that was
                    read in place of an unreadable one
  classes.csv       images, recall, precision and F1 of each class
  confusion.csv     rows: true classes, columns: predicted ones; with more than 1,000 classes a row for each
                    pair that occurs: true, predicted, images; confusion.png shows it, with more than 1,000
                    classes several classes in a row
  reliability.png   accuracy by probability
With several label levels, the names of the last three have the number of the level, 0 for the first level
that is predicted, and DIR also receives
  risk-coverage.csv, risk-coverage.png   the share of wrong labels of those answered, by threshold of the
                    probability, for answers that stop at the level where the classes are sure
Classes are matched by name.  Weights without names take the names, and the order, of the data.

Weights for many labels per image (recipes/multilabel.py) get mean average precision, precision, recall and F1
on data of many labels.  Labels that the data do not know are left out; --zero-shot scores all labels of the
data by their names instead, where the weights can (head_weights=shared and a text encoder, or a file with
these names).  The files are results.json and classes.csv: level, label, images, images of which the label is
unknown, and average precision.

Several processes: accelerate launch -m castssl.cli evaluate DATA --weights W
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "accuracy, classes, confusion and calibration of trained weights on any images"
    command = subcommand(commands, "evaluate", purpose, _evaluate, NOTES)
    data = (
        "a folder of class folders, or a name of data: folder:/path, tar:/x.tar, breeds:living17:/path, ..."
    )
    command.add_argument("data", metavar="DATA", help=data)
    weights = "a run of recipes/deit_in1k.py, hcast.py or probe_in1k.py, a published or a timm checkpoint"
    command.add_argument("--weights", required=True, help=weights)
    add_output(command, "--out", type=Path, metavar="DIR", help="where the files go (default: only print)")
    command.add_argument("--split", help="train, val or test (default: val if there is one, else all images)")
    share = "what a recipe with this --val-share held out, in place of a split"
    command.add_argument("--val-share", type=float, default=0.0, metavar="S", help=share)
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="--seed of that recipe (default: 0)"
    )
    command.add_argument("--subset", metavar="NAME", help="only these classes: imagenet100, or a text file")
    names = "of many labels per image: score the labels of DATA by name, learned or not"
    command.add_argument("--zero-shot", action="store_true", help=names)
    add_batches(command)
    add_commands(command)
    add_reading(command)


def _evaluate(args: argparse.Namespace) -> int:
    from castssl import distributed
    from castssl.leaving import leaving

    with leaving():
        device = device_of(args)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            device = str(PartialState(cpu=device == "cpu").device)
        evaluated = _run(args, device)
        if distributed.is_main():
            _print(evaluated)
            if args.out:
                from castssl.inference.evaluate import write

                write(evaluated, args.out)
                print(f"files: {args.out}")
    return 0


def _run(args: argparse.Namespace, device: str) -> Evaluated:
    from dataclasses import replace

    from castssl.checkpoints import read
    from castssl.checkpoints.classifier import load_classifier
    from castssl.checkpoints.many_labels import has_many_labels, load_many_labels
    from castssl.datasets.images import Images
    from castssl.inference.evaluate import evaluate, numbered, open_labeled, outputs
    from castssl.inference.many_labels import evaluate_labels
    from castssl.training.progress import free_cores

    if args.out:  # Before anything is read; the other files' names depend on the classifier.
        check_outputs(outputs(args.out, 0), overwrite=args.overwrite)
    checkpoint = read(args.weights)
    spec = f"folder:{args.data}" if Path(args.data).expanduser().is_dir() else args.data
    options = {"split": args.split, "share": args.val_share, "seed": args.seed, "subset": args.subset}
    channels = checkpoint.config.channels
    images = open_labeled(spec, **options, commands=args.allow_commands, channels=channels)
    if declared := value_range(args):
        if isinstance(images, Images):
            images = replace(images, declared=declared)
        else:
            images.declared = declared
    workers = free_cores() + 1 if args.workers is None else args.workers
    if has_many_labels(checkpoint):
        model, sizes = load_many_labels(checkpoint), {"workers": workers, "batch_size": args.batch_size}
        return evaluate_labels(model, images, device=device, zero_shot=args.zero_shot, **sizes)
    if args.zero_shot:
        raise ConfigError(
            f"--zero-shot: {args.weights} gives one path of labels per image, and scores no other names;"
            " leave --zero-shot out"
        )
    unnamed = checkpoint.labels is None and images.tree.levels
    classifier = load_classifier(checkpoint, labels=images.tree if unnamed else None)
    if args.out:
        check_outputs(outputs(args.out, len(classifier.objective.columns)), overwrite=args.overwrite)
    images = numbered(images, classifier.labels, args.data)
    return evaluate(classifier, images, device=device, workers=workers, batch_size=args.batch_size)


def _print(evaluated: Evaluated) -> None:
    from rich.console import Console

    from castssl.datasets.images import Images
    from castssl.evaluation import report
    from castssl.inference.evaluate import CLASS_COLUMNS, class_rows
    from castssl.terminal import safe_markup

    console = Console()
    for remark in evaluated.images.left_out if isinstance(evaluated.images, Images) else ():
        print(printable(remark))
    for name, reason in evaluated.unreadable.items():
        print(printable(f"unreadable: {name} ({reason})"))
    print(f"{len(evaluated.images)} images, {len(evaluated.unreadable)} of them unreadable")
    console.print(report.table(trained=evaluated.results, **evaluated.baselines))
    if evaluated.labels_apart:
        console.print(_label_table(evaluated.labels_apart))
    if evaluated.predictions is None or not evaluated.images.tree.levels:
        return
    finest = [row[1:] for row in class_rows(evaluated) if row[0] == evaluated.columns[-1] and row[2]]
    worst = sorted(finest, key=lambda row: row[2])[:SHOWN] if len(finest) > SHOWN else finest
    shown = table(CLASS_COLUMNS[:1], [CLASS_COLUMNS[1], *(f"{name}, %" for name in CLASS_COLUMNS[2:])])
    for name, count, *shares in worst:
        shown.add_row(safe_markup(name), str(count), *(f"{100 * share:.1f}" for share in shares))
    if len(worst) < len(finest):
        shown.caption = f"the {SHOWN} of {len(finest)} classes with the lowest recall"
    console.print(shown)


def _label_table(rows: Sequence[LabelRow]) -> Table:
    """The labels with the least average precision."""
    from castssl.terminal import safe_markup

    scored = sorted((row for row in rows if row.images), key=lambda row: row.average_precision)
    shown = table(["label"], ["level", "images", "average precision, %"])
    for row in scored[:SHOWN]:
        shown.add_row(
            safe_markup(row.label), str(row.level), str(row.images), f"{100 * row.average_precision:.1f}"
        )
    if len(scored) > SHOWN:
        shown.caption = f"the {SHOWN} of {len(scored)} labels with the lowest average precision"
    return shown
