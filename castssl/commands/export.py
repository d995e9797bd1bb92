"""``castssl export``: a model as one file for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

from castssl.commands.arguments import MODEL, add_output, add_shape, open_model
from castssl.files import check_outputs

NOTES = """The file takes `image` (float32, B x 3 x H x W, normalized) and `segments` (int32, B x H x W) and
returns `features`, `logits` where the weights have a classifier, and of each stage `tokens0`, `mass0`,
`labels0`, `assign0`, ...  B may vary, H and W may not.  Its metadata `castssl` hold superpixels and
normalization.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    purpose = "a model and its hierarchy as an ONNX or torch.export file"
    command = commands.add_parser(
        "export",
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", metavar="MODEL", help=MODEL)
    command.add_argument("--to", choices=("onnx", "torch-export"), default="onnx", help="default: onnx")
    add_output(command, "--out", required=True, type=Path, metavar="FILE", help="such as model.onnx")
    command.add_argument("--sizes", nargs="+", type=int, metavar="N", help="tokens per stage, fine to coarse")
    add_shape(command)
    command.set_defaults(run=_export)


def _export(given: argparse.Namespace) -> int:
    from rich.console import Console

    from castssl.checkpoints.export import SUFFIXES, Flat, difference, example, export, require, trace
    from castssl.errors import ConfigError

    require(given.to)
    if given.out.suffix != SUFFIXES[given.to]:
        raise ConfigError(f"--out: a {given.to} file ends in {SUFFIXES[given.to]}, got {given.out.name!r}")
    check_outputs([given.out], overwrite=given.overwrite)
    console = Console(stderr=True)
    with console.status("reading the model"):
        model = open_model(given.model, given, given.sizes)
        flat = Flat(model.encoder, model.heads).float()
    with console.status("tracing the model"):
        traced = trace(flat, model.image_size)
    with console.status(f"writing {given.out}; ONNX takes a minute or more"):
        about = {"superpixels": model.superpixels, "model": given.model}
        export(traced, given.out, to=given.to, about=about)
    with console.status("comparing it with the model"):
        most = difference(flat, given.out, *example(flat, model.image_size, 1))
    print(f"{given.out}: {', '.join(traced.names)}")
    print(f"beside the model, on noise: numbers within {most.values:.1e}, {most.labels:.2%} other labels")
    return 0
