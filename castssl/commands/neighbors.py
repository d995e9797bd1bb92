"""``castssl neighbors``: held-out images and their nearest neighbors by the features of several models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from castssl.ablations.grid import add_commands
from castssl.commands.arguments import (
    Commands,
    add_batches,
    add_output,
    add_reading,
    device_of,
    open_indexed,
    picture,
    save_picture,
    subcommand,
    table,
)
from castssl.errors import ConfigError
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from torch import Tensor

    from castssl.datasets.images import Images
    from castssl.evaluation.neighbors import Neighbors

NOTES = """Neighbors are the held-out images whose class tokens have the largest cosine similarity to that of
the query.  The table has the share of the K neighbors that have the query's class, averaged over all images.
H-CAST beside Hier-ViT, as on its poster (which does not define its features):

  castssl neighbors DATA --weights HCAST-RUN HIER-VIT-RUN --out neighbors.png
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose = "the nearest neighbors of held-out images by the features of several models, in one picture"
    command = subcommand(commands, "neighbors", purpose, _neighbors, NOTES)
    command.add_argument("data", metavar="DATA", help="a folder of images, demo, breeds:living17:/path, ...")
    weights = "one or more models: a run, a checkpoint, or timm:NAME with timm's weights"
    command.add_argument("--weights", nargs="+", action="extend", required=True, help=weights)
    out = "the picture, such as neighbors.png"
    add_output(command, "--out", required=True, type=picture, metavar="FILE", help=out)
    command.add_argument("--split", help="train, val or test (default: val if there is one, else all images)")
    queries = "images in the picture, evenly spread (default: 8)"
    command.add_argument("--queries", type=int, default=8, metavar="N", help=queries)
    command.add_argument("--neighbors", type=int, default=5, metavar="K", help="per image (default: 5)")
    stage = "whose class token is compared (default: -1, the last)"
    command.add_argument("--stage", type=int, default=-1, metavar="N", help=stage)
    add_batches(command)
    add_commands(command)
    add_reading(command)


def _neighbors(args: argparse.Namespace) -> int:
    from rich.console import Console

    from castssl.evaluation.held_out import spread
    from castssl.terminal import safe_markup

    if min(args.queries, args.neighbors) < 1:
        raise ConfigError("--queries and --neighbors are 1 or more")
    check_outputs([args.out], overwrite=args.overwrite)
    names = [Path(weights).name for weights in args.weights]
    names = names if len(set(names)) == len(names) else [str(weights) for weights in args.weights]
    if len(set(names)) < len(names):
        raise ConfigError("--weights names the same model twice; name each model once")
    results, nearest = {}, {}
    for name, weights in zip(names, args.weights, strict=True):
        images, evaluator, results[name], channels = _find(weights, args)
        chosen = spread(len(evaluator.positions), args.queries)
        queries, nearest[name] = evaluator.positions[chosen].tolist(), evaluator.nearest[chosen]
    save_picture(_draw(images, channels, queries, nearest), args.out)
    if chance := evaluator.chance():
        shown = table(
            [f"same class among {args.neighbors}, %"], [f"level {level}" for level in range(len(chance))]
        )
        for title, shares in (results | {"chance level": chance}).items():
            shown.add_row(safe_markup(title), *(f"{100 * share:.1f}" for share in shares.values()))
        Console().print(shown)
    print(f"{len(queries)} of {len(images)} images, in {args.out}")
    return 0


def _find(
    weights: str, args: argparse.Namespace
) -> tuple[Images, Neighbors, dict[str, float], Sequence[int]]:
    """The images, the neighbors of each by one model, and the three channels that its superpixels read."""
    from castssl.data.evaluation_views import CenterView
    from castssl.evaluation.held_out import Evaluation, Subject
    from castssl.evaluation.neighbors import Neighbors
    from castssl.inference.attention import open_encoder
    from castssl.registry import build_superpixels
    from castssl.training.progress import free_cores

    encoder, interpolation, _ = open_encoder(weights, None, device_of(args))
    config = encoder.config
    images, superpixels = open_indexed(args, config.channels), build_superpixels(config)
    evaluator = Neighbors(args.neighbors, args.stage)
    evaluation = Evaluation(
        images,
        images,
        superpixels,
        CenterView(config.image_size, interpolation=interpolation),
        [evaluator],
        device_of(args),
        batch_size=args.batch_size,
        workers=free_cores() + 1 if args.workers is None else args.workers,
    )
    return images, evaluator, evaluation(Subject(encoder)), superpixels.channels


def _draw(
    images: Images, channels: Sequence[int], queries: list[int], nearest: dict[str, Tensor]
) -> Image.Image:
    """The picture; of images of other channels than RGB it shows three."""
    from castssl.data.evaluation_views import CenterView
    from castssl.datasets.multichannel import to_rgb_image
    from castssl.labels import LabelTree
    from castssl.visualization.neighbors import draw_neighbors

    center = CenterView(112)
    tree = images.tree if images.tree.exclusive else LabelTree.none()
    labels = images.targets[:, : tree.levels].long()

    def shown(index: int) -> Tensor:
        return center(to_rgb_image(images[index][0], channels))[0]

    return draw_neighbors(shown, queries, nearest, labels, tree)
