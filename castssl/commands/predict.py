"""``castssl predict``: the label path of images, how sure each level is, and which segments spoke for it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.ablations.grid import add_commands
from castssl.commands.arguments import add_output, add_range, device_of, picture, save_picture, value_range
from castssl.errors import DataError
from castssl.files import check_outputs

if TYPE_CHECKING:
    from torch import Tensor

    from castssl.checkpoints.classifier import Classifier
    from castssl.inference.predict import Level, Prediction
    from castssl.types import LabelTree

NOTES = """Each level's class is the likeliest by itself, so a path may contradict the label tree; it says so.
With --min-confidence P the answer backs off to a parent: it ends at the finest level whose probability is at
least P and whose coarser levels are its ancestors (P = 0 backs off from contradictions alone).

The picture: for each level the segments of the stage that it reads.  Orange ones spoke for its class, blue
ones against it: the gradient of the class's logit at the finest segments' tokens, times what they have more
than the image's mean token, added up over each segment.

A published H-CAST holds neither names nor parents; --tree DATA takes them from the data it was trained on.
The exit code is 1 if an image could not be read.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    purpose = "the label path of images, coarse to fine"
    command = commands.add_parser(
        "predict",
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files of any size")
    command.add_argument("--weights", required=True, help="a run's folder, encoder.safetensors or checkpoint")
    command.add_argument(
        "--min-confidence", type=float, metavar="P", help="back off to the parent below this, 0 to 1"
    )
    add_output(
        command, "--out", type=picture, metavar="PICTURE.png", help="draw the segments, a row an image"
    )
    command.add_argument("--tree", metavar="DATA", help="names and parents of the classes, such as cub:/path")
    add_commands(command)
    command.add_argument("--json", action="store_true", help="a JSON list in place of the table")
    command.add_argument(
        "--superpixels", metavar="SPEC", help="such as seeds:count=256 (default: trained with)"
    )
    command.add_argument("--device", help="such as cuda (default: cuda if there is one, else cpu)")
    add_range(command)
    command.set_defaults(run=_predict)


def _predict(given: argparse.Namespace) -> int:
    check_outputs([given.out] if given.out else [], overwrite=given.overwrite)
    device = device_of(given)
    from castssl.checkpoints.classifier import load_classifier
    from castssl.inference.predict import predict, with_superpixels

    classifier = load_classifier(given.weights, labels=_tree(given.tree, commands=given.allow_commands))
    if given.superpixels:
        classifier = with_superpixels(classifier, given.superpixels)
    explain = given.out is not None
    ask = partial(predict, min_confidence=given.min_confidence, explain=explain, device=device)
    ask = partial(ask, value_range=value_range(given))
    found: dict[Path, Prediction] = {}
    for image in given.images:
        if (answer := _try(partial(ask, image, classifier))) is not None:
            found[image] = answer
    if given.json:
        print(json.dumps([_plain(image, each) for image, each in found.items()], indent=1))
    elif found:
        _print(found, classifier, given.min_confidence)
    if explain and found:
        _draw(found, given.out)
    return 0 if len(found) == len(set(given.images)) else 1


def _try(work: Callable[[], Prediction]) -> Prediction | None:
    """None, and said so, if this one image cannot be read; the others are done all the same."""
    try:
        return work()
    except DataError as error:
        print(f"castssl: {error}", file=sys.stderr)
        return None


def _tree(spec: str | None, *, commands: bool) -> LabelTree | None:
    if spec is None:
        return None
    from castssl.datasets.open import open_images

    return open_images(spec, commands=commands).tree


def _plain(image: Path, found: Prediction) -> dict[str, Any]:
    """One image's prediction for JSON; ``answer`` are the names of the answer, coarse to fine."""
    levels = [
        {"level": each.level, "class": each.name, "index": each.number, "probability": each.probability}
        for each in found.path
    ]
    answer = [each.name for each in found.path[: found.answer]]
    return {"image": str(image), "path": levels, "consistent": found.consistent, "answer": answer}


def _print(found: dict[Path, Prediction], classifier: Classifier, least: float | None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from castssl.output import safe_markup

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("image", "level", "class", "probability", ""):
        table.add_column(column, justify="right" if column in {"level", "probability"} else "left")
    for image, each in found.items():
        for row, level in enumerate(each.path):
            name = safe_markup(_short(image, found)) if row == 0 else ""
            style = "bold" if row < each.answer else "dim"
            said = _remark(each, row, classifier, least)
            number = f"{level.probability:.3f}"
            label = f"[{style}]{safe_markup(level.name)}[/]"
            table.add_row(name, str(level.level), label, number, safe_markup(said))
        if least is not None:
            answer = " > ".join(safe_markup(level.name) for level in each.path[: each.answer])
            table.add_row("", "", f"[bold]= {answer or 'no answer'}[/]", "", "")
        table.add_section()
    Console().print(table)
    if not classifier.known and classifier.labels.levels > 1:
        print(
            "the weights hold no label tree: classes are numbers, and paths are not checked; give --tree DATA"
        )


def _remark(found: Prediction, row: int, classifier: Classifier, least: float | None) -> str:
    """Why a level is not to be trusted, or nothing."""
    level, said = found.path[row], []
    if level.agrees is False:
        parents = _ancestors(classifier.labels, level.level, level.number)
        wrong = [one for one in found.path[:row] if parents[one.level] != one.number]
        if wrong:
            names = classifier.labels.names
            at = wrong[-1].level
            right = names[at][parents[at]] if names else str(parents[at])
            said.append(f"contradicts {wrong[-1].name}: it is in {right}")
        else:
            said.append("of a path that contradicts itself")
    if not level.sure:
        said.append(f"below {least:g}")
    return "; ".join(said)


def _ancestors(labels: LabelTree, level: int, index: int) -> list[int]:
    """The classes above one, and itself, from the coarsest level."""
    path = [index]
    for table in reversed(labels.parents[:level]):
        path.insert(0, table[path[0]])
    return path


def _draw(found: dict[Path, Prediction], out: Path) -> None:
    from castssl.visualization.draw import sheet
    from castssl.visualization.evidence import Panel, draw_path

    rows = []
    for image, each in found.items():
        panels = [
            Panel(*evidence, f"{_named(level)} ({_count(evidence.labels)} segments)")
            for level, evidence in zip(each.path, each.evidence, strict=True)
        ]
        title = " > ".join(_named(level) for level in each.path[: each.answer]) or "not sure of any level"
        if each.consistent is False:
            title += "  (a contradiction)" if each.answer == len(each.path) else "  (backed off)"
        rows.append(draw_path(each.seen, panels, f"{_short(image, found)}: {title}"))
    save_picture(sheet(rows), out)
    print(f"the picture: {out}", file=sys.stderr)


def _short(image: Path, among: Iterable[Path]) -> str:
    """The file's name, or more of its path where others have the same name."""
    return image.name if sum(other.name == image.name for other in among) == 1 else str(image)


def _count(labels: Tensor) -> int:
    seen: Tensor = labels[labels >= 0].unique()  # type: ignore[no-untyped-call]
    return len(seen)


def _named(level: Level) -> str:
    return f"{level.name} {level.probability:.2f}"
