"""``castssl densepose``: segments compared with body parts, as CAST's table 2."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.commands.arguments import Commands, add_output, list_unscored, progress, subcommand, table
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from castssl.evaluation.densepose import Scored

NOTES = """The three coarsest levels of each segmenter (32, 16 and 8 segments in the paper) are compared with
14 body parts, 4 groups (head, torso, upper limbs, lower limbs) and the person.

P  precision: the share of a segment that is in its label
R  recall: the share of a label that is in its segment
F  2 P R / (P + R), of the means

A label's segment is the one with the largest IoU.  P and R are means over the labels of an image, then over
images.  The paper does not define its measure, so this one is castssl's.  Precision rises
with the number of segments: compare equal numbers, and with merge:by=random.  A row with * has segments of
a pooling that was never trained: in an encoder whose last stage has no blocks, as in all published models,
the last assignment gets no gradient.

  castssl densepose cast:RUN merge merge:by=random --data /path/to/coco

COCO's folder has annotations/densepose_coco_2014_minival.json and val2014/.  The paper reports F 22.5, 28.4
and 33.2 for CAST, and 19.6, 26.9 and 26.2 for HSG.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "segments compared with DensePose's body parts: precision, recall, F"
    command = subcommand(commands, "densepose", purpose, _densepose, NOTES)
    spec = "such as cast:RUN, kmeans:RUN, merge, maps:DIR"
    command.add_argument("segmenters", nargs="+", metavar="SEGMENTER", help=spec)
    command.add_argument("--data", required=True, type=Path, metavar="DIR", help="COCO's folder")
    split = "minival, valminusminival or train (default: minival)"
    command.add_argument("--split", default="minival", metavar="NAME", help=split)
    add_output(command, "--out", type=Path, metavar="FILE.json", help="the table as shares, 0 to 1")


def _densepose(args: argparse.Namespace) -> int:
    from castssl.datasets.densepose import open_densepose
    from castssl.evaluation.densepose import score_densepose
    from castssl.registry import build_segmenter

    check_outputs([args.out] if args.out else [], overwrite=args.overwrite)
    data = open_densepose(args.data.expanduser(), args.split)
    segmenters = {spec: build_segmenter(spec) for spec in args.segmenters}
    with progress(len(data), "images") as report:
        results = score_densepose(segmenters, data, report=report)
    _print(results)
    for spec, result in results.items():
        list_unscored(spec, result.unscored, len(data))
    if args.out:
        _write(results, args.out)
    return 0 if any(result.images for result in results.values()) else 1


def _print(results: Mapping[str, Scored]) -> None:
    from rich.console import Console

    from castssl.terminal import safe_markup

    shown = table(["segmenter"], ["images", "segments", "labels", "P", "R", "F"])
    for name, result in results.items():
        for row in result.rows:
            scores = (f"{100 * score:.1f}" for score in (row.precision, row.recall, row.f))
            labels = f"{row.labels}{'*' if row.untrained else ''}"
            shown.add_row(safe_markup(name), str(result.images), f"{row.segments:.1f}", labels, *scores)
    Console().print(shown)


def _write(results: Mapping[str, Scored], path: Path) -> None:
    import json

    from castssl.files import write_text

    content = {
        name: {
            "images": result.images,
            "rows": [row._asdict() for row in result.rows],
            "unscored": result.unscored,
        }
        for name, result in results.items()
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
