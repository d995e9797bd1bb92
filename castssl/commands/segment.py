"""``castssl segment``: pictures, label maps and features of images' hierarchies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.commands.arguments import add_output, add_range, device_of, value_range, with_count
from castssl.errors import DataError
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


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    purpose = "segment images from fine to coarse"
    command = commands.add_parser(
        "segment",
        help=purpose,
        description=purpose.capitalize() + ".",
        epilog=WRITES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files of any size")
    command.add_argument("--weights", required=True, help="a run's folder, encoder.safetensors or checkpoint")
    add_output(command, "--out", required=True, type=Path, metavar="DIR", help="where the results go")
    command.add_argument(
        "--superpixels", metavar="SPEC", help="such as seeds:count=324 (default: trained with)"
    )
    command.add_argument("--segments", type=int, metavar="N", help="superpixels of an image, such as 324")
    command.add_argument("--sizes", nargs="+", type=int, metavar="N", help="tokens per stage, fine to coarse")
    command.add_argument("--image-size", type=int, metavar="PIXELS", help="shorter side that the model sees")
    command.add_argument("--device", help="such as cuda (default: cuda if there is one, else cpu)")
    add_range(command)
    command.set_defaults(run=_segment)


def _segment(given: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from castssl.checkpoints.load import load_encoder
    from castssl.inference.segment import segment

    device = device_of(given)
    encoder = load_encoder(given.weights)
    stages = len(encoder.sizes)
    outputs = [path for image in given.images for path in _outputs(given.out, image.stem, stages)]
    check_outputs(outputs, overwrite=given.overwrite)
    spec = given.superpixels or encoder.config.superpixels
    if given.segments is not None:
        spec = with_count(spec, given.segments)
    options = {"superpixels": spec, "sizes": given.sizes, "image_size": given.image_size}
    ask = partial(segment, device=device, value_range=value_range(given))
    done = [
        _try(partial(ask, image, encoder, **options), given.out, image.stem)
        for image in track(given.images, "segmenting", console=Console(stderr=True))
    ]
    print(f"{sum(done)} of {len(done)} images segmented, in {given.out}")
    return 0 if all(done) else 1


def _try(work: Callable[[], Segmentation], folder: Path, name: str) -> bool:
    """False, and said so, if this one image cannot be read; the others are done all the same."""
    try:
        _write(work(), folder, name)
    except DataError as error:
        print(f"castssl: {error}", file=sys.stderr)
        return False
    return True


def _outputs(folder: Path, name: str, stages: int) -> list[Path]:
    """The files of one image: picture, arrays, and a label map of each stage, finest first."""
    maps = [folder / f"{name}-stage{stage}.png" for stage in range(stages)]
    return [folder / f"{name}.png", folder / f"{name}.npz", *maps]


def _write(found: Segmentation, folder: Path, name: str) -> None:
    import numpy as np
    from PIL import Image

    from castssl.visualization.draw import draw_hierarchy

    picture, bundle, *maps = _outputs(folder, name, len(found))
    arrays: dict[str, Any] = {}
    for stage, path in enumerate(maps):
        labels = found.labels(stage).numpy()
        with atomic_write(path, "label map") as aside:
            Image.fromarray(np.where(labels < 0, NONE, labels).astype(np.uint16)).save(aside, format="png")
        arrays[f"features{stage}"] = found.features(stage).cpu().numpy()
        if stage < len(found) - 1:
            arrays[f"parents{stage}"] = found.parents(stage).cpu().numpy()
    with atomic_write(bundle, "features") as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
    with atomic_write(picture, "picture") as aside:
        draw_hierarchy(found.seen, found.hierarchy).save(aside, format="png")
