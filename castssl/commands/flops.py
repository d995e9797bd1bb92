"""``castssl flops``: what models cost, part by part, beside the published figures."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from castssl.commands.arguments import MODEL, SIZES, Commands, add_shape, open_model, subcommand, table

if TYPE_CHECKING:
    from rich.table import Table

    from castssl.models.flops import Account, Published

NOTES = """GFLOPs are billions of multiply-adds for one image, as in the paper.  Sampling is the computation
of the distances for the centroids, which no counter includes for the released code; it is listed separately.
"released" is torch's count of the released code, "paper" is what the paper prints.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "multiply-adds and parameters of models, by part"
    command = subcommand(commands, "flops", purpose, _flops, NOTES)
    command.add_argument("models", nargs="+", metavar="MODEL", help=MODEL)
    sizes = f"{SIZES}; give it again for one more row"
    command.add_argument("--sizes", nargs="+", type=int, action="append", metavar="N", help=sizes)
    add_shape(command)
    pooling, positions = "of a named model (default: graph)", "learned in DeiT models"
    command.add_argument("--pooling", default="graph", metavar="SPEC", help=pooling)
    command.add_argument("--positions", choices=("sincos", "learned"), default="sincos", help=positions)
    classes = "outputs of heads (default: 1000)"
    command.add_argument("--classes", nargs="*", type=int, default=[1000], metavar="C", help=classes)


def _flops(args: argparse.Namespace) -> int:
    from rich.console import Console

    from castssl.models.flops import PUBLISHED, account

    rows: list[tuple[str, tuple[int, ...], Account, Published | None]] = []
    for name in args.models:
        for sizes in args.sizes or [None]:
            model = open_model(name, args, sizes, pooling=args.pooling, positions=args.positions)
            counted = account(model.encoder, image_size=model.image_size, classes=args.classes)
            depths = model.encoder.config.depths or (1,)
            served = model.encoder.sizes[: -1 if depths[-1] == 0 else None]
            published = PUBLISHED.get((name, served)) if model.image_size == 224 else None
            rows.append((name, served, counted, published))
    console = Console()
    if len(rows) == 1:
        console.print(_parts(rows[0][0], rows[0][2]))
    console.print(_totals(rows))
    return 0


def _parts(model: str, counted: Account) -> Table:
    from castssl.terminal import safe_markup

    shown = table(["part"], ["GFLOPs", "parameters", "trainable"], title=safe_markup(model))
    for part in counted.parts:
        shown.add_row(part.name, f"{part.macs / 1e9:.3f}", f"{part.parameters:,}", f"{part.trainable:,}")
    shown.add_section()
    total, trainable = counted.parameters, counted.trainable
    shown.add_row("all", f"{counted.macs / 1e9:.3f}", f"{total:,}", f"{trainable:,}")
    if counted.sampling:
        shown.add_row("sampling, on top", f"{counted.sampling / 1e9:.3f}", "", "")
    if counted.published != (total, trainable):
        published = (f"{count:,}" for count in counted.published)
        shown.add_row("as published: with class position", "", *published)
    return shown


def _totals(rows: list[tuple[str, tuple[int, ...], Account, Published | None]]) -> Table:
    from castssl.terminal import safe_markup

    numbers = ("here", "+ sampling", "released", "paper", "parameters")
    shown = table(["model and sizes"], numbers, title="GFLOPs")
    for model, sizes, counted, published in rows:
        released = f"{published.released:.2f}" if published and published.released else "-"
        paper = "-"
        if published is not None:
            paper = f"{published.paper:.1f}" if published.paper < 10 else f"{published.paper:g}"
        both = f"{counted.macs / 1e9:.2f}", f"{(counted.macs + counted.sampling) / 1e9:.2f}"
        title = safe_markup(f"{model} {' '.join(map(str, sizes))}")
        shown.add_row(title, *both, released, paper, f"{counted.published[0]:,}")
    return shown
