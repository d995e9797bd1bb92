"""``castssl flops``: what models cost, part by part, beside the published figures."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from castssl.commands.arguments import MODEL, add_shape, open_model

if TYPE_CHECKING:
    from rich.table import Table

    from castssl.evaluation.flops import Account, Published

NOTES = """GFLOPs are billions of multiply-adds for one image, as in the paper.  Sampling is the distances for
the centroids, which no counter sees in the released code; it comes on top.  "released" is torch's count
of the released code, "paper" is what the paper prints.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    purpose = "multiply-adds and parameters of models, by part"
    command = commands.add_parser(
        "flops",
        help=purpose,
        description=purpose.capitalize() + ".",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("models", nargs="+", metavar="MODEL", help=MODEL)
    command.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        action="append",
        metavar="N",
        help="tokens per stage, fine to coarse; give it again for one more row",
    )
    add_shape(command)
    command.add_argument(
        "--pooling", default="graph", metavar="SPEC", help="of a named model (default: graph)"
    )
    command.add_argument(
        "--positions", choices=("sincos", "learned"), default="sincos", help="learned in DeiT models"
    )
    command.add_argument(
        "--classes", nargs="*", type=int, default=[1000], metavar="C", help="outputs of heads (default: 1000)"
    )
    command.set_defaults(run=_flops)


def _flops(given: argparse.Namespace) -> int:
    from rich.console import Console

    from castssl.evaluation.flops import PUBLISHED, account

    rows: list[tuple[str, tuple[int, ...], Account, Published | None]] = []
    for model in given.models:
        for sizes in given.sizes or [None]:
            options = {"pooling": given.pooling, "positions": given.positions}
            opened = open_model(model, given, sizes, **options)
            counted = account(opened.encoder, image_size=opened.image_size, classes=given.classes)
            depths = opened.encoder.config.depths or (1,)
            served = opened.encoder.sizes[: -1 if depths[-1] == 0 else None]
            known = PUBLISHED.get((model, served)) if opened.image_size == 224 else None
            rows.append((model, served, counted, known))
    console = Console()
    if len(rows) == 1:
        console.print(_parts(rows[0][0], rows[0][2]))
    console.print(_totals(rows))
    return 0


def _parts(model: str, counted: Account) -> Table:
    table = _table(model, "part", numbers=("GFLOPs", "parameters", "trainable"))
    for part in counted.parts:
        table.add_row(part.name, f"{part.macs / 1e9:.3f}", f"{part.parameters:,}", f"{part.trainable:,}")
    table.add_section()
    total, trainable = counted.parameters, counted.trainable
    table.add_row("all", f"{counted.macs / 1e9:.3f}", f"{total:,}", f"{trainable:,}")
    if counted.sampling:
        table.add_row("sampling, on top", f"{counted.sampling / 1e9:.3f}", "", "")
    if counted.published != (total, trainable):
        published = (f"{count:,}" for count in counted.published)
        table.add_row("as published: with class position", "", *published)
    return table


def _totals(rows: list[tuple[str, tuple[int, ...], Account, Published | None]]) -> Table:
    numbers = ("here", "+ sampling", "released", "paper", "parameters")
    table = _table("GFLOPs", "model and sizes", numbers=numbers)
    for model, sizes, counted, known in rows:
        released = f"{known.released:.2f}" if known and known.released else "-"
        paper = "-" if known is None else f"{known.paper:.1f}" if known.paper < 10 else f"{known.paper:g}"
        both = f"{counted.macs / 1e9:.2f}", f"{(counted.macs + counted.sampling) / 1e9:.2f}"
        shown = " ".join(map(str, sizes))
        table.add_row(f"{model} {shown}", *both, released, paper, f"{counted.published[0]:,}")
    return table


def _table(title: str, text: str, *, numbers: tuple[str, ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column(text, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table
