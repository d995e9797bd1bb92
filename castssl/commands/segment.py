"""``castssl segment``: drawings, label maps and features of images' hierarchies."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.commands.arguments import (
    SIZES,
    Commands,
    add_output,
    add_reading,
    add_shape,
    device_of,
    or_none,
    save_picture,
    subcommand,
    superpixels_of,
    value_range,
)
from castssl.commands.inputs import IMAGES, Named, find_images
from castssl.errors import ConfigError, DataError, printable
from castssl.files import atomic_write
from castssl.outputs import check_outputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from castssl.inference.segment import Segmentation

NONE = 65535
"""The value of a pixel without a segment in a label map."""
WRITES = """A folder stands for the images in it and in its sub-folders, which DIR receives, too.
For each image NAME, DIR receives
  NAME.png          the image, its superpixels and each stage, side by side
  NAME-stage0.png   ... one 16-bit label map a stage, finest first, of the image's own size
                    (a pixel's segment; 65535 where it has none)
  NAME.npz          features0, ... (segments x channels), parents0, ... (each segment's segment one
                    stage up; -1 for a row without pixels)
"""


CLASSES = """With --classes, for weights with a segmentation head (recipes/segment.py), DIR receives
  NAME-classes.png  the class of each pixel, of the image's own size, with the data set's palette
  NAME-overlay.png  the image under the classes' colors
"""

SEGMENTERS = """With --segmenter, DIR receives only the label maps NAME-stage0.png, ..., which maps:DIR reads.
"castssl list segmenters" has the methods, "castssl describe segmenters NAME" their options.
"""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    purpose, notes = "segment images from fine to coarse", f"{WRITES}\n{CLASSES}\n{SEGMENTERS}"
    command = subcommand(commands, "segment", purpose, _segment, notes)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help=IMAGES)
    method = command.add_mutually_exclusive_group(required=True)
    method.add_argument("--weights", help="a run's folder, encoder.safetensors or checkpoint")
    other = "any other method, NAME:SOURCE,key=value, ...; writes label maps alone"
    method.add_argument("--segmenter", metavar="SPEC", help=other)
    add_output(command, "--out", required=True, type=Path, metavar="DIR", help="where the results go")
    command.add_argument("--sizes", nargs="+", type=int, metavar="N", help=SIZES)
    command.add_argument("--classes", action="store_true", help="write class maps in place of segments")
    command.add_argument("--window", type=int, metavar="PIXELS", help="side of windows of --classes")
    command.add_argument("--stride", type=int, metavar="PIXELS", help="between windows (default: --window)")
    once = "compute superpixels once for an image, and cut them (default: in each window)"
    command.add_argument("--superpixels-once", action="store_true", help=once)
    side = "shorter side of the model's input (default: the image's own, 128 to 384; --classes: the run's)"
    add_shape(command, side)
    add_reading(command)


def _segment(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from castssl.checkpoints.load import load_encoder
    from castssl.inference.segment import segment

    if args.segmenter:
        return _segment_otherwise(args, find_images(args.images, args.out))
    if args.classes:
        return _segment_classes(args, find_images(args.images, args.out))
    if args.window or args.stride or args.superpixels_once:
        raise ConfigError("windows are of class maps; add --classes, or leave the flags of windows out")
    device = device_of(args)
    encoder = load_encoder(args.weights)
    named, stages = find_images(args.images, args.out), len(encoder.sizes)
    outputs = [path for image in named.paths for path in _outputs(args.out, named.outputs[image], stages)]
    check_outputs(outputs, overwrite=args.overwrite)
    inputs = {image.resolve() for image in named.paths}
    if own := [str(path) for path in outputs if path.resolve() in inputs]:  # Also with --overwrite.
        raise ConfigError(f"a drawing would replace the image {own[0]}; choose another --out")
    options = {"device": device, "sizes": args.sizes, "image_size": args.image_size}
    options |= {"superpixels": superpixels_of(args, encoder), "value_range": value_range(args)}

    def read_and_segment(image: Path) -> tuple[Segmentation, list[NDArray[np.uint16]]]:
        found = segment(image, encoder, **options)
        maps = _maps(args.out, named.outputs[image], stages)
        return found, [_map(found.labels(stage).numpy(), path) for stage, path in enumerate(maps)]

    done = 0
    for image in track(named.paths, "segmenting", console=Console(stderr=True)):
        found = or_none(partial(read_and_segment, image))
        if found is not None:
            _write(*found, args.out, named.outputs[image])
            done += 1
    print(f"{done} of {len(named.paths)} images segmented, in {args.out}")
    return 0 if done == len(named.paths) else 1


def _segment_otherwise(args: argparse.Namespace, named: Named) -> int:
    import numpy as np

    from castssl.inference.photos import read_photo
    from castssl.registry import build_segmenter
    from castssl.segmenter import label_maps

    windows = (args.classes, args.window, args.stride, args.superpixels_once)
    if any((*windows, args.sizes, args.image_size, args.superpixels, args.segments, args.device)):
        raise ConfigError(
            "flags of classes, windows, sizes, superpixels and devices belong to --weights; a segmenter has"
            " options of its own, such as --segmenter cast:RUN,image_size=128"
        )
    segmenter, declared = build_segmenter(args.segmenter), value_range(args)

    def read_and_segment(image: Path) -> list[NDArray[np.uint16]]:
        levels = label_maps(segmenter, np.array(read_photo(image, declared)), named.stored[image], count)
        paths = _maps(args.out, named.outputs[image], len(levels))
        return [_map(labels, path) for labels, path in zip(levels, paths, strict=True)]

    done = 0
    count: int | None = None
    for image in named.paths:
        levels = or_none(partial(read_and_segment, image))
        if levels is None:
            continue
        count = len(levels)
        if not done:  # The number of levels is known now, and the same for all images.
            paths = [
                path for image in named.paths for path in _maps(args.out, named.outputs[image], len(levels))
            ]
            check_outputs(paths, overwrite=args.overwrite)
        for labels, path in zip(levels, _maps(args.out, named.outputs[image], len(levels)), strict=True):
            _write_map(labels, path)
        done += 1
    print(f"{done} of {len(named.paths)} images segmented, in {args.out}")
    return 0 if done == len(named.paths) else 1


def _segment_classes(args: argparse.Namespace, named: Named) -> int:
    from castssl.checkpoints.segmenter import load_segmenter
    from castssl.evaluation.windows import Windows
    from castssl.inference.classes import segment_classes

    if args.sizes:
        raise ConfigError("--sizes is of segments; leave it or --classes out")
    if (args.stride or args.superpixels_once) and not args.window:
        raise ConfigError("--stride and --superpixels-once need --window, the windows' side in pixels")
    windows = None
    if args.window:
        windows = Windows(args.window, args.stride or args.window, args.superpixels_once)
    segmenter = load_segmenter(args.weights)
    check_outputs(
        [p for image in named.paths for p in _pictures(args.out, named.outputs[image])],
        overwrite=args.overwrite,
    )
    options = {"device": device_of(args), "image_size": args.image_size, "windows": windows}
    options |= {"superpixels": superpixels_of(args, segmenter.model.encoder)}
    options |= {"value_range": value_range(args)}
    done = 0
    for image in named.paths:
        found = or_none(partial(segment_classes, image, segmenter, **options))
        if found is not None:
            indexed, overlay = _pictures(args.out, named.outputs[image])
            save_picture(found.indexed(), indexed)
            save_picture(found.overlay(), overlay)
            shares = [f"{name} {share:.1%}" for name, share in found.shares().items()]
            print(printable(f"{image}: {', '.join(shares)}"))
            done += 1
    print(f"{done} of {len(named.paths)} images segmented, in {args.out}")
    return 0 if done == len(named.paths) else 1


def _pictures(folder: Path, name: str) -> tuple[Path, Path]:
    """The class map and the overlay of an image."""
    return folder / f"{name}-classes.png", folder / f"{name}-overlay.png"


def _outputs(folder: Path, name: str, stages: int) -> list[Path]:
    """The files of one image: drawing, arrays, and a label map of each stage, finest first."""
    return [folder / f"{name}.png", folder / f"{name}.npz", *_maps(folder, name, stages)]


def _maps(folder: Path, name: str, stages: int) -> list[Path]:
    """The label maps of one image, finest first."""
    return [folder / f"{name}-stage{stage}.png" for stage in range(stages)]


def _map(labels: NDArray[np.integer], path: Path) -> NDArray[np.uint16]:
    """Labels as a file holds them.

    Raises:
        DataError: if they are more than 16 bits hold.
    """
    import numpy as np

    if labels.max() >= NONE:
        raise DataError(
            f"{path.name} would have {labels.max() + 1} segments, and 16 bits hold {NONE}; segment the image"
            " more coarsely"
        )
    return np.where(labels < 0, NONE, labels).astype(np.uint16)


def _write_map(labels: NDArray[np.uint16], path: Path) -> None:
    from PIL import Image

    with atomic_write(path, "label map") as aside:
        Image.fromarray(labels).save(aside, format="png")


def _write(segmentation: Segmentation, levels: list[NDArray[np.uint16]], folder: Path, name: str) -> None:
    import numpy as np

    from castssl.visualization.draw import draw_hierarchy

    picture, bundle, *maps = _outputs(folder, name, len(segmentation))
    arrays: dict[str, Any] = {}
    for stage, path in enumerate(maps):
        _write_map(levels[stage], path)
        arrays[f"features{stage}"] = segmentation.features(stage).cpu().numpy()
        if stage < len(segmentation) - 1:
            arrays[f"parents{stage}"] = segmentation.parents(stage).cpu().numpy()
    with atomic_write(bundle, "features") as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
    with atomic_write(picture, "picture") as aside:
        draw_hierarchy(segmentation.seen, segmentation.hierarchy).save(aside, format="png")
