"""``castssl predict`` with weights of many labels per image: the labels of each image."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.commands.arguments import or_none, save_picture, short_names, table, value_range
from castssl.errors import ConfigError

if TYPE_CHECKING:
    from castssl.checkpoints.checkpoint import Checkpoint
    from castssl.inference.many_labels import Labels

DRAWN = 4
"""The number of labels whose attention is drawn, the likeliest."""


def add(command: argparse.ArgumentParser) -> None:
    """Add the options of weights of many labels."""
    group = command.add_argument_group("weights of many labels per image")
    least = "the least probability of a label, 0 to 1 (default: 0.5)"
    group.add_argument("--threshold", type=float, metavar="P", help=least)
    group.add_argument("--top", type=int, metavar="K", help="the K likeliest labels instead")
    names = "score these labels instead (zero-shot), where the weights can"
    group.add_argument("--names", nargs="+", metavar="NAME", help=names)


def refuse(args: argparse.Namespace) -> None:
    """Refuse those options for weights of label paths.

    Raises:
        ConfigError: naming them.
    """
    given = {"--threshold": args.threshold, "--top": args.top, "--names": args.names}
    _refuse(args, given, "one path of labels per image; take --min-confidence")


def predict_labels(args: argparse.Namespace, checkpoint: Checkpoint, device: str) -> int:
    """Print the labels of each image, and draw what they attend to; 1 if an image could not be read."""
    from castssl.checkpoints.many_labels import load_many_labels
    from castssl.inference.many_labels import THRESHOLD, LabelPredictor

    given = {"--min-confidence": args.min_confidence, "--tree": args.tree, "--superpixels": args.superpixels}
    _refuse(args, given, "many labels per image; take --threshold or --top")
    if args.names and args.out:
        raise ConfigError("--out draws what the learned labels attend to; leave --names or --out out")
    threshold = THRESHOLD if args.threshold is None else args.threshold
    model = load_many_labels(checkpoint)
    predict = LabelPredictor(model, names=args.names, threshold=threshold, top=args.top, device=device)
    look = partial(predict, attention=args.out is not None, value_range=value_range(args))
    results = {image: or_none(partial(look, image)) for image in args.images}
    found = {image: result for image, result in results.items() if result is not None}
    if args.json:
        print(json.dumps([_plain(*pair) for pair in found.items()], indent=1))
    elif found:
        _print(found)
    if args.out and found:
        _draw(found, args.out)
    return 0 if len(found) == len(results) else 1


def _refuse(args: argparse.Namespace, given: Mapping[str, object], instead: str) -> None:
    if typed := [flag for flag, value in given.items() if value is not None]:
        raise ConfigError(f"{', '.join(typed)}: {args.weights} gives {instead}")


def _plain(image: Path, labels: Labels) -> dict[str, object]:
    """One image's labels for JSON."""
    answer = [
        {"level": one.level, "class": one.name, "index": one.number, "probability": one.probability}
        for one in labels.answer
    ]
    return {"image": str(image), "labels": answer}


def _print(found: dict[Path, Labels]) -> None:
    from rich.console import Console

    from castssl.terminal import safe_markup

    shown = table(["image", "level", "label", "probability"], [])
    shown.columns[3].justify = "right"
    names = short_names(found)
    for image, labels in found.items():
        name = safe_markup(names[image])
        if not labels.answer:
            best = labels.scores[0]
            said = f"[dim]none; {safe_markup(best.name)} is the likeliest[/]"
            shown.add_row(name, "", said, f"{best.probability:.3f}")
        for row, one in enumerate(labels.answer):
            shown.add_row(
                name if row == 0 else "", str(one.level), safe_markup(one.name), f"{one.probability:.3f}"
            )
        shown.add_section()
    Console().print(shown)


def _draw(found: dict[Path, Labels], out: Path) -> None:
    from castssl.visualization.draw import sheet
    from castssl.visualization.label_attention import draw_label_attention

    rows = []
    for labels in found.values():
        if labels.attention is None:
            raise ConfigError("--out draws what labels attend to: these attend to nothing, leave --out out")
        drawn = (labels.answer or labels.scores[:1])[:DRAWN]
        titles = {one.column: f"{one.name} {one.probability:.2f}" for one in drawn}
        rows.append(draw_label_attention(labels.seen, labels.attention, titles))
    save_picture(sheet(rows), out)
    print(f"the picture: {out}", file=sys.stderr)
