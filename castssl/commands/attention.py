"""``castssl attention``: the class token's attention in each stage, as heat maps and against masks."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.ablations.grid import add_commands
from castssl.commands.arguments import (
    Commands,
    add_batches,
    add_output,
    add_reading,
    add_shape,
    device_of,
    open_indexed,
    or_none,
    subcommand,
    superpixels_of,
    table,
    value_range,
)
from castssl.errors import ConfigError
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from castssl.contracts import Encoder
    from castssl.evaluation.figure_ground import FigureGround

NOTES = """Attention is that of the last block of each stage, to the tokens of the stage.  The figure is the
smallest set of tokens that holds 60 % of it (CAST, appendix A.5 and G.4, as DINO).

For each image NAME, DIR receives
  NAME-attention.png   one row per stage: the image, the heads' mean, each head; the figure outlined in white
  NAME-attention.npz   attention0, ... float32 (heads x tokens); labels0, ... int32, a pixel's token

With --labels, for a model of recipes/multilabel.py, DIR receives what the labels attend to instead
  NAME-labels.png      one row per label: the image with the label's probability, each stage
  NAME-labels.npz      attention0, ... float32 (all labels x tokens); labels0, ...; probabilities

With --data, the figure of held-out images is scored against their masks; DIR receives figure-ground.json.
  figure IoU  of the figure and the mask, the mean over images; the unknown pixels of label maps are left out
  mIoU        the mean of the IoU of figure and ground, the mean over images
  heads' mean            of the mean of the heads' attention
  best head              of the one head that is best over these images
  best head of an image  of the head that is best in each image by its mask
  chance                 of the heads' mean, with the tokens in random order
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "the class token's attention in each stage: heat maps, and figure-ground scores by masks"
    command = subcommand(commands, "attention", purpose, _attention, NOTES)
    command.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="an image file")
    weights = "a run's folder, encoder.safetensors or checkpoint, or timm:NAME with timm's weights"
    command.add_argument("--weights", required=True, help=weights)
    add_output(
        command, "--out", type=Path, metavar="DIR", help="where the files go (default with --data: none)"
    )
    text = "draw what these labels attend to, by their names, in place of the class token"
    command.add_argument("--labels", nargs="+", default=[], metavar="NAME", help=text)
    data = "images with masks or label maps: demo, voc:/path, folder:/path, ..."
    command.add_argument("--data", metavar="DATA", help=data)
    command.add_argument("--split", help="of --data (default: val if there is one, else all images)")
    command.add_argument("--masks", metavar="PATH", help="a folder, or a JSON file as PartImageNet's")
    mass = "share of the attention that the figure holds (default: 0.6)"
    command.add_argument("--mass", type=float, default=0.6, metavar="S", help=mass)
    add_shape(command, "side (default: of an image, its own, 128 to 384; of --data, trained with)")
    add_batches(command)
    add_commands(command)
    add_reading(command)


def _attention(args: argparse.Namespace) -> int:
    from castssl.inference import label_attention
    from castssl.inference.attention import SCORES, open_encoder, outputs

    if args.labels and (args.data or not args.images):
        raise ConfigError("--labels draws image files: give some, and no --data")
    if not args.images and not args.data:
        raise ConfigError("castssl attention needs image files, or --data with masks; got neither")
    if args.images and not args.out:
        raise ConfigError("the maps of image files need --out DIR")
    if not 0 < args.mass <= 1:
        raise ConfigError(f"--mass {args.mass:g}: expected a share above 0 and up to 1, such as 0.6")
    if args.out:
        of = label_attention.outputs if args.labels else outputs
        files = [path for image in args.images for path in of(args.out, image.stem)]
        check_outputs([*files, *([args.out / SCORES] if args.data else [])], overwrite=args.overwrite)
    if args.labels:
        return _draw_labels(args)
    encoder, interpolation, titles = open_encoder(args.weights, args.image_size, device_of(args))
    code = _draw(args, encoder, titles) if args.images else 0
    if args.data:
        _score(args, encoder, interpolation)
    return code


def _draw(args: argparse.Namespace, encoder: Encoder, titles: dict[int, str]) -> int:
    from castssl.inference.attention import class_attention_of, write

    options: dict[str, Any] = {"image_size": args.image_size, "value_range": value_range(args)}
    options["superpixels"] = superpixels_of(args, encoder)
    done = 0
    for image in args.images:
        drawing = or_none(partial(class_attention_of, image, encoder, titles, **options))
        if drawing is not None:
            write(*drawing, args.out, image.stem, args.mass)
            done += 1
    print(f"the attention in {done} of {len(args.images)} images, in {args.out}")
    return 0 if done == len(args.images) else 1


def _draw_labels(args: argparse.Namespace) -> int:
    from castssl.checkpoints.many_labels import load_many_labels
    from castssl.inference.label_attention import columns_of, write
    from castssl.inference.many_labels import LabelPredictor

    model = load_many_labels(args.weights)
    columns = columns_of(model, args.labels)
    spec = superpixels_of(args, model.objective.encoder)
    model = model._replace(superpixels=spec, image_size=args.image_size or model.image_size)
    look = partial(
        LabelPredictor(model, device=device_of(args)), attention=True, value_range=value_range(args)
    )
    done = 0
    for image in args.images:
        labels = or_none(partial(look, image))
        if labels is not None:
            write(labels, columns, args.out, image.stem, args.mass)
            done += 1
    print(f"what {len(columns)} labels attend to in {done} of {len(args.images)} images, in {args.out}")
    return 0 if done == len(args.images) else 1


def _score(args: argparse.Namespace, encoder: Encoder, interpolation: str) -> None:
    from castssl.data.evaluation_views import CenterView
    from castssl.evaluation.figure_ground import FigureGround
    from castssl.inference.attention import measure, write_scores
    from castssl.training.progress import free_cores

    images = open_indexed(args, encoder.config.channels)
    evaluator = FigureGround(masks=args.masks, mass=args.mass)
    results = measure(
        encoder,
        images,
        evaluator,
        CenterView(args.image_size or encoder.config.image_size, interpolation=interpolation),
        superpixels_of(args, encoder),
        device=device_of(args),
        batch_size=args.batch_size,
        workers=free_cores() + 1 if args.workers is None else args.workers,
    )
    _print(evaluator)
    if args.out:
        write_scores(results, evaluator, args.out)
        print(f"files: {args.out}")


def _print(evaluator: FigureGround) -> None:
    from rich.console import Console

    columns = {
        "mean": "heads' mean",
        "head": "best head",
        "any_head": "best head\nof an image",
        "chance": "chance",
    }
    shown = table(["figure IoU, mIoU, %"], [*columns.values()])
    for stage, head in evaluator.heads.items():
        cells = []
        for kind in columns:
            scores = evaluator.scores[kind][stage]
            which = f" ({head})" if kind == "head" else ""
            cells.append(f"{100 * scores.figure_iou:.1f}  {100 * scores.miou:.1f}{which}")
        shown.add_row(f"stage {stage}, {evaluator.tokens[stage]} tokens", *cells)
    shown.caption = f"{evaluator.count} images; the figure holds {evaluator.mass:.0%} of the attention"
    Console().print(shown)
