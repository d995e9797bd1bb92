"""``castssl export``: a model as one file for other runtimes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.commands.arguments import (
    MODEL,
    SIZES,
    Commands,
    Model,
    add_output,
    add_shape,
    open_model,
    shape_model,
    subcommand,
)
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from castssl.checkpoints.export import Exportable

NOTES = """The file takes `image` (float32, B x 3 x H x W, normalized) and `segments` (int32, B x H x W) and
returns `features` and for each stage `tokens0`, `mass0`, `labels0`, `assign0`, ...; also `logits` for
classifiers of DeiT, of a linear probe, or of H-CAST with its default stages, order and norm.  With --classes
it returns `segment_logits` (B x N x C) of superpixels, `logits` (B x C x H x W) of pixels, and `labels`, the
superpixel of each pixel.  B may vary, H and W may not: --image-size sets both.  Its metadata entry `castssl`
holds superpixels and normalization, and with --classes the names and colors of the classes.

The file is compared with the model on noise, in batches of 1, 2 and 7.  Where it computes something else, the
command ends with exit code 1, there is no FILE (an earlier one stays), and what was written is kept beside it
as NAME.unverified.onnx or .pt2, to look at.  --to torch-export has torch's own operators and is exact.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "a model and its hierarchy as an ONNX or torch.export file"
    command = subcommand(commands, "export", purpose, _export, NOTES)
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--to", choices=("onnx", "torch-export"), default="onnx", help="default: onnx")
    add_output(command, "--out", required=True, type=Path, metavar="FILE", help="such as model.onnx")
    text = "classes of pixels, by a model of recipes/segment.py"
    command.add_argument("--classes", action="store_true", help=text)
    command.add_argument("--sizes", nargs="+", type=int, metavar="N", help=SIZES)
    add_shape(command)


def _read(args: argparse.Namespace) -> tuple[Exportable, Model, dict[str, Any]]:
    """What is exported, its shape, and what the file's metadata hold."""
    from castssl.checkpoints.export import Flat, FlatSegmenter
    from castssl.checkpoints.segmenter import load_segmenter

    if not args.classes:
        model = open_model(args.model, args, args.sizes)
        about: dict[str, Any] = {"superpixels": model.superpixels, "model": _name(args.model)}
        return Flat(model.encoder, model.heads).float(), model, about
    segmenter = load_segmenter(args.model)
    model = shape_model(segmenter.model.encoder, [], args, args.sizes)
    segmenter.model.encoder = model.encoder
    about = {"superpixels": model.superpixels, "model": _name(args.model)}
    about |= {"classes": segmenter.labels.names[0] if segmenter.labels.names else ()}
    about |= {"palette": segmenter.palette}
    return FlatSegmenter(segmenter.model).float(), model, about


def _name(model: str) -> str:
    """How a file that may be shared names a model: a path by its last part."""
    path = Path(model).expanduser()
    # not resolve(): a file in a cache of the Hub is a link to one that is named by its hash
    return Path(os.path.abspath(path)).name if path.exists() else model


def _export(args: argparse.Namespace) -> int:
    from rich.console import Console

    from castssl.checkpoints.agreement import claim_agrees, compare
    from castssl.checkpoints.export import SUFFIXES, export, require, trace
    from castssl.errors import ConfigError
    from castssl.files import atomic_write

    require(args.to)
    if args.out.suffix != SUFFIXES[args.to]:
        raise ConfigError(f"--out: a {args.to} file ends in {SUFFIXES[args.to]}, got {args.out.name!r}")
    # Under another name first: nobody is to take a file for good that differs from its model.
    draft = args.out.with_suffix(f".unverified{args.out.suffix}")
    check_outputs([args.out, draft], overwrite=args.overwrite)
    console = Console(stderr=True)
    with console.status("reading the model"):
        flat, model, about = _read(args)
    with console.status("tracing the model"):
        traced = trace(flat, model.image_size)
    with console.status(f"writing {args.out}; ONNX takes a minute or more"):
        export(traced, draft, to=args.to, about=about)
    with console.status("comparing it with the model"):
        found = compare(flat, draft, model.image_size)
    claim_agrees(found, draft, exact=args.to == "torch-export")
    with atomic_write(args.out, "exported model", shared=True) as aside:
        os.replace(draft, aside)
    print(f"{args.out}: {', '.join(traced.names)}")
    print(f"beside the model, on noise: {found}")
    return 0
