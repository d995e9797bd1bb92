"""``castssl parts``: how well segments fit objects and their parts, one row for each segmenter."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.commands.arguments import Commands, add_output, list_unscored, progress, subcommand, table
from castssl.errors import ConfigError, PluginError
from castssl.files import write_text
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from castssl.datasets.parts import PartNames
    from castssl.evaluation.parts import LevelScores, Names, Scored

NONE = "without names, a segment has the class that it shares most pixels with"
COLUMNS = {
    "segments": "seg-\nments",
    "region_iou": "region\nmIoU",
    "region_iou_pooled": "\npooled",
    "boundary_f": "bound-\nary F",
    "boundary_f_pooled": "\npooled",
    "boundary_f_any": "any\nclass",
    "recall": "AR\n@100",
}
"""The heading of each number by its name in :class:`castssl.evaluation.parts.LevelScores`."""
FOOTNOTE = "\n* objects from a level whose pooling was never trained"
NOTES = """CAST, tables 1 and 9, appendix E.3.  A SEGMENTER is a plugin of `castssl list segmenters` with its
source and options: cast:WEIGHTS, kmeans:timm:vit_small_patch16_224, merge, maps:FOLDER, ...
Objects are the segments of the coarsest level, parts those of the one before it: 8 and 16 in the paper.

--data is PartImageNet's folder, with annotations/{train,val,test}.json and images/{train,val,test}/; demo;
or a folder of images of classes with masks/, whose parts are unknown.

Without --names, each segment gets the class with which it shares the most pixels, the best possible naming
per pixel.  With --names clip:ViT-B-16/openai, CLIP names each object, and its parts among those of that
object.

region mIoU  mean IoU of the classes in an image, the background included, then mean over images, as in the
             released code; pooled: mean over classes of the IoU of all images' pixels together
boundary F   class by class, mean over images, and pooled; any class: of any change of the class.  The
             tolerance is 0.75 % of the diagonal; the paper defines none.
AR@100       COCO's average recall of the true regions by the segments of all levels, without classes
             (needs faster-coco-eval)

A row with * takes objects from a level whose pooling was never trained: in an encoder whose last stage has
no blocks, as in all published models, the last assignment gets no gradient.  The next row takes them from the
coarsest trained level.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "how well segments fit objects and their parts, for several segmenters"
    command = subcommand(commands, "parts", purpose, _parts, NOTES)
    command.add_argument("segmenters", nargs="+", metavar="SEGMENTER", help="such as cast:WEIGHTS or merge")
    command.add_argument("--data", required=True, metavar="DIR", help="PartImageNet's folder, demo, ...")
    command.add_argument("--split", default="val", help="train, val or test (default: val)")
    level = "level of {}: 0 is the finest, -1 the coarsest (default: {})"
    command.add_argument(
        "--objects-level", type=int, default=-1, metavar="K", help=level.format("objects", -1)
    )
    command.add_argument("--parts-level", type=int, default=-2, metavar="K", help=level.format("parts", -2))
    command.add_argument("--names", metavar="ENCODER", help="names the segments: clip:ViT-B-16/openai")
    style = "how --names hides the rest of the image: as released, or as in the paper (default: released)"
    command.add_argument("--style", choices=("released", "paper"), default="released", help=style)
    side = "of the center crop that is scored; 0: whole images (default: 224 of PartImageNet, else 0)"
    command.add_argument("--image-size", type=int, metavar="PIXELS", help=side)
    add_output(command, "--out", type=Path, metavar="FILE.json", help="all scores as shares, 0 to 1")


def _parts(args: argparse.Namespace) -> int:
    from castssl.datasets.part_sets import open_parts
    from castssl.evaluation.parts import Levels, score_parts
    from castssl.registry import build_segmenter

    if args.out:
        check_outputs([args.out], overwrite=args.overwrite)
    if args.image_size is not None and args.image_size < 0:
        raise ConfigError(f"--image-size {args.image_size}: expected pixels, or 0 for whole images")
    data = open_parts(args.data, args.split)
    size = (data.size if args.image_size is None else args.image_size) or None
    segmenters = {spec: build_segmenter(spec) for spec in args.segmenters}
    naming = None if args.names is None else _naming(args, data.names)
    with progress(len(data), "images") as report:
        scored = score_parts(
            segmenters,
            data,
            size=size,
            levels=Levels(args.objects_level, args.parts_level),
            naming=naming,
            recall=_recall(),
            report=report,
        )
    _print(scored, data.names, NONE if args.names is None else f"names by {args.names}, {args.style}")
    if args.out:
        content = {"data": args.data, "split": args.split, "images": len(data), "image_size": size}
        content |= {"names": args.names, "style": args.style if args.names else None}
        content |= {"objects": data.names.objects, "parts": data.names.part_names}
        content |= {"segmenters": {spec: _content(result) for spec, result in scored.items()}}
        write_text(args.out, json.dumps(content, indent=1, allow_nan=False) + "\n", "scores")
    for spec, result in scored.items():
        list_unscored(spec, result.unscored, len(data))
    return 0 if any(row.objects.images for result in scored.values() for row in result.rows) else 1


def _naming(args: argparse.Namespace, names: PartNames) -> Names:
    """CLIP's names of the segments."""
    import torch

    from castssl.evaluation.naming import Naming
    from castssl.models.create import create

    encoder = create(args.names).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Naming(encoder, names.objects, names.parts, style=args.style)


def _recall() -> bool:
    """Whether average recall can be computed; its library is optional."""
    from castssl.metrics.recall import AverageRecall

    try:
        AverageRecall()
    except PluginError as error:
        print(f"castssl: {error}", file=sys.stderr)
        return False
    return True


def _print(scored: Mapping[str, Scored], names: PartNames, caption: str) -> None:
    """The table of all rows, and that of the objects' classes."""
    from rich.console import Console

    from castssl.terminal import safe_markup

    rows = [(spec, row) for spec, result in scored.items() for row in result.rows]
    shown = table(["of"], ["level", *COLUMNS.values()])
    for number, (spec, row) in enumerate(rows, start=1):
        print(f"{number}{'*' if row.untrained else ''} {spec}: {row.objects.images} images")
        for what, level, scores in zip(
            ("objects", "parts"), row.levels, (row.objects, row.parts), strict=True
        ):
            if what == "objects" or names.part_names:
                shown.add_row(f"{number}{'*' if row.untrained else ''} {what}", str(level), *_cells(scores))
    starred = any(row.untrained for _, row in rows)
    shown.caption = f"mIoU, F and AR in %\n{safe_markup(caption)}{FOOTNOTE if starred else ''}"
    console = Console()
    console.print(shown)
    console.print(_by_class([row.objects for _, row in rows], names))


def _cells(scores: LevelScores) -> list[str]:
    """The numbers of :data:`COLUMNS`; shares in percent."""
    values = scores._asdict()
    return [_cell(values[name], 1 if name == "segments" else 100) for name in COLUMNS]


def _cell(value: float, factor: int = 100) -> str:
    return "n/a" if math.isnan(value) else f"{factor * value:.{1 if factor == 1 else 2}f}"


def _by_class(rows: Sequence[LevelScores], names: PartNames) -> Table:
    """Table 9: the region mIoU of the images that have each object."""
    from castssl.datasets.part_sets import ANIMALS, PARTIMAGENET
    from castssl.terminal import safe_markup

    shown = table(["object"], ["images", *(str(number) for number, _ in enumerate(rows, start=1))])
    columns = [row.class_region_iou[1:] for row in rows]
    for at, name in enumerate(names.objects):
        images = max(row.class_images[at + 1] for row in rows)
        shown.add_row(safe_markup(name), str(images), *(_cell(column[at]) for column in columns))
    if names == PARTIMAGENET:
        for title, group in (("animals", slice(ANIMALS)), ("things", slice(ANIMALS, None))):
            means = [[value for value in column[group] if not math.isnan(value)] for column in columns]
            mean = (_cell(sum(values) / len(values) if values else math.nan) for values in means)
            shown.add_row(f"mean of {title}", "", *mean)
    shown.caption = "region mIoU in % of the images that have the object, by the row's number"
    return shown


def _content(scored: Scored) -> dict[str, Any]:
    """As JSON, with null for what is not a number."""
    rows = [
        {
            "levels": row.levels._asdict(),
            "untrained": row.untrained,
            "objects": _numbers(row.objects),
            "parts": _numbers(row.parts),
        }
        for row in scored.rows
    ]
    return {"rows": rows, "unscored": scored.unscored}


def _numbers(scores: LevelScores) -> dict[str, Any]:
    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        name: [known(one) for one in value] if isinstance(value, tuple) else known(value)
        for name, value in scores._asdict().items()
    }
