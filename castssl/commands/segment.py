"""``castssl segment``: drawings, label maps and features of images' hierarchies."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.commands.arguments import (
    Commands,
    add_output,
    add_reading,
    add_shape,
    device_of,
    or_none,
    subcommand,
    superpixels_of,
    value_range,
)
from castssl.files import atomic_write, check_outputs

if TYPE_CHECKING:
    from castssl.inference.segment import Segmentation

NONE = 65535
"""The value of a pixel without a segment in a label map."""
WRITES = """For each image NAME, DIR receives
  NAME.png          the image, its superpixels and each stage, side by side
  NAME-stage0.png   ... one 16-bit label map a stage, finest first, of the image's own size
                    (a pixel's segment; 65535 where it has none)
  NAME.npz          features0, ... (segments x channels), parents0, ... (each segment's segment one
                    stage up; -1 for a row without pixels)
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    command = subcommand(commands, "segment", "segment images from fine to coarse", _segment, WRITES)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files of any size")
    command.add_argument("--weights", required=True, help="a run's folder, encoder.safetensors or checkpoint")
    add_output(command, "--out", required=True, type=Path, metavar="DIR", help="where the results go")
    command.add_argument("--sizes", nargs="+", type=int, metavar="N", help="tokens per stage, fine to coarse")
    add_shape(command, "shorter side of the model's input (default: trained with)")
    add_reading(command)


def _segment(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from castssl.checkpoints.load import load_encoder
    from castssl.inference.segment import segment

    device = device_of(args)
    encoder = load_encoder(args.weights)
    stages = len(encoder.sizes)
    outputs = [path for image in args.images for path in _outputs(args.out, image.stem, stages)]
    check_outputs(outputs, overwrite=args.overwrite)
    options = {"device": device, "sizes": args.sizes, "image_size": args.image_size}
    options |= {"superpixels": superpixels_of(args, encoder), "value_range": value_range(args)}
    done = 0
    for image in track(args.images, "segmenting", console=Console(stderr=True)):
        segmentation = or_none(partial(segment, image, encoder, **options))
        if segmentation is not None:
            _write(segmentation, args.out, image.stem)
            done += 1
    print(f"{done} of {len(args.images)} images segmented, in {args.out}")
    return 0 if done == len(args.images) else 1


def _outputs(folder: Path, name: str, stages: int) -> list[Path]:
    """The files of one image: drawing, arrays, and a label map of each stage, finest first."""
    maps = [folder / f"{name}-stage{stage}.png" for stage in range(stages)]
    return [folder / f"{name}.png", folder / f"{name}.npz", *maps]


def _write(segmentation: Segmentation, folder: Path, name: str) -> None:
    import numpy as np
    from PIL import Image

    from castssl.visualization.draw import draw_hierarchy

    picture, bundle, *maps = _outputs(folder, name, len(segmentation))
    arrays: dict[str, Any] = {}
    for stage, path in enumerate(maps):
        labels = segmentation.labels(stage).numpy()
        with atomic_write(path, "label map") as aside:
            Image.fromarray(np.where(labels < 0, NONE, labels).astype(np.uint16)).save(aside, format="png")
        arrays[f"features{stage}"] = segmentation.features(stage).cpu().numpy()
        if stage < len(segmentation) - 1:
            arrays[f"parents{stage}"] = segmentation.parents(stage).cpu().numpy()
    with atomic_write(bundle, "features") as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
    with atomic_write(picture, "picture") as aside:
        draw_hierarchy(segmentation.seen, segmentation.hierarchy).save(aside, format="png")
