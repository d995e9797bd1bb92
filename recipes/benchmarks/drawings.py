"""Make the data set "drawings on photographs", with the masks of the drawings.

    apt-get install openclipart-png && pip install scikit-image
    python recipes/benchmarks/drawings.py --out drawings
    python recipes/benchmarks/drawings.py --out all-drawings --classes all

The drawings are in the public domain and come from Debian's package openclipart-png; a drawing's class is its
folder.  The photographs come with scikit-image.  The split divides drawings: all copies of a drawing, its
black-and-white variants (``_bw``) and drawings that look the same lie on one side.  The same command writes
the same pictures: ``train/GROUP/CLASS/*.jpg``, ``val/...`` and ``masks/...``.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

from castssl import files, outputs, whole_folders
from castssl.config import TYPED, check_least, launch
from castssl.errors import ConfigError, DataError

CLASSES = """buildings/furniture buildings/homes food/beverages food/breads_and_carbs food/desserts
    food/fruit food/meats_and_eggs food/vegetables people/bodypart people/clothing people/smilies
    plants/flowers plants/trees recreation/music recreation/sports recreation/toys transportation/boating
    transportation/vehicles"""
PHOTOGRAPHS = """astronaut brick chelsea coffee grass gravel hubble_deep_field immunohistochemistry retina
    rocket stereo_motorcycle"""
"""Functions of ``skimage.data`` whose files are part of its wheel."""
LEAST = 10
"""Drawings of each class that ``--classes all`` takes."""
COVER = 0.05
"""The smallest share of a drawing's square that it covers; one of thin lines has no region to segment."""
LARGEST = 16_000_000
"""Pixels of the largest drawing that is read; a few posters are ten times as large."""
SIDE = 16
"""Side of the thumbnails by which drawings are compared."""
ALIKE = 0.03
"""The largest root mean square difference, of values 0 to 1, between thumbnails of equal drawings."""
CONSOLE = Console(stderr=True)
SETTINGS, FOLDERS = "drawings.json", ("train", "val", "masks")
"""What a set holds: its settings, which also show that this script made the folder, and its pictures."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make a folder of drawings on photographs, with the drawings' masks."""

    source: str = "/usr/share/openclipart/png"
    """Folder of the drawings: GROUP/CLASS/*.png, also in deeper folders."""
    out: str = "drawings"
    """Folder to make."""
    overwrite: bool = field(default=False, metadata=TYPED)
    """Replace the set that an earlier command made in --out."""
    classes: tuple[str, ...] = tuple(CLASSES.split())
    """Classes, such as food/fruit; all = every folder GROUP/CLASS of at least 10 usable drawings."""
    per_class: int = 0
    """At most so many drawings of a class; 0 = all."""
    copies: int = 1
    """Pictures of each drawing, each on another photograph."""
    size: int = 160
    """Side of a picture in pixels."""
    val_share: float = 0.2
    """Share of each class's drawings in val."""
    seed: int = 0
    """Seed of the split, the photographs, the crops and the places."""


class Drawing(NamedTuple):
    """A drawing, its class GROUP/CLASS, and its colors and outline in small, float32 (SIDE * SIDE * 4,)."""

    path: Path
    label: str
    thumbnail: NDArray[np.float32]


def read(path: Path) -> Image.Image:
    """The part of a drawing that is not transparent, mode "RGBA"; of no size if it cannot be used."""
    with Image.open(path) as file:
        image = (file if file.width * file.height <= LARGEST else Image.new("L", (1, 1))).convert("RGBA")
    opaque = outline(image)
    low, _ = opaque.getextrema()
    # Without a transparent pixel nothing separates the drawing from its paper.
    return image.crop((0, 0, 0, 0) if low else opaque.getbbox() or (0, 0, 0, 0))


def outline(image: Image.Image) -> Image.Image:
    """255 where an "RGBA" image is opaque and 0 elsewhere, mode "L"."""
    return image.getchannel("A").point(lambda value: 255 * (value > 127))


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """The drawing within a square, its colors multiplied by its opacity."""
    square = ImageOps.pad(image, (SIDE, SIDE), Image.Resampling.BOX, color=(0, 0, 0, 0))
    pixels = np.asarray(square, dtype=np.float32) / 255
    return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1).ravel()


def collect(cfg: Config) -> list[Drawing]:
    """The usable drawings of the classes; of identical ones the first.

    Raises:
        DataError: if there are none.
    """
    root, found, seen = Path(cfg.source), defaultdict(list), set[str]()
    paths = sorted(path for path in root.rglob("*.png") if len(path.relative_to(root).parts) > 2)
    for path in track(paths, "reading", console=CONSOLE, disable=not CONSOLE.is_terminal):
        label = "/".join(path.relative_to(root).parts[:2])
        if label not in cfg.classes and cfg.classes != ("all",):
            continue
        image = read(path)
        content = sha256(image.tobytes()).hexdigest()
        if not min(image.size) or min(image.size) * SIDE < max(image.size) or content in seen:
            continue
        drawing = Drawing(path, label, thumbnail(image))
        if drawing.thumbnail[3::4].mean() >= COVER:
            seen.add(content)
            found[label].append(drawing)
    least, limit = LEAST if cfg.classes == ("all",) else 1, cfg.per_class or None
    groups = [shuffled(cfg, group) for group in found.values() if len(group) >= least]
    if (missing := sorted(set(cfg.classes) - {"all", *found})) or not groups:
        raise DataError(
            f"{root} has no usable drawings of {', '.join(missing) or f'a class with {least}'}; install"
            " Debian's package openclipart-png, or give its folder png as --source"
        )
    return [drawing for group in groups for drawing in group[:limit]]


def shuffled(cfg: Config, drawings: Sequence[Drawing]) -> list[Drawing]:
    """The drawings in an order that the seed and their names give."""
    return sorted(drawings, key=lambda one: crc32(f"{cfg.seed} {one.path.name}".encode()))


def related(drawings: Sequence[Drawing]) -> NDArray[np.int32]:
    """A number for each drawing, the same for those that look the same and for black-and-white variants."""
    nearest = NearestNeighbors(radius=ALIKE * (4 * SIDE * SIDE) ** 0.5)
    pairs = nearest.fit(np.stack([one.thumbnail for one in drawings])).radius_neighbors_graph().tocoo()
    # glace_2_bw is a variant of glace_02.
    stems = [re.sub(r"_0+", "_", one.path.stem) + "_" for one in drawings]
    links = [*zip(pairs.row, pairs.col, strict=True)]
    for place, stem in enumerate(stems):
        name, bw, _ = stem.partition("_bw")
        links += [(place, other) for other, its in enumerate(stems) if bw and its.startswith(f"{name}_")]
    rows, columns = np.array(links).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(drawings), len(drawings)))
    return np.asarray(connected_components(graph, directed=False)[1])


def split(cfg: Config, drawings: Sequence[Drawing]) -> list[str]:
    """``train`` or ``val`` for each drawing, the same for related ones."""
    members, room = defaultdict(list), defaultdict[str, float](float)
    for drawing, group in zip(drawings, related(drawings), strict=True):
        members[group].append(drawing)
        room[drawing.label] += cfg.val_share
    held_out, groups = set[Path](), {group[0].path: group for group in members.values()}
    for first in shuffled(cfg, [group[0] for group in members.values()]):
        if room[first.label] >= len(group := groups[first.path]):
            room[first.label] -= len(group)
            held_out.update(one.path for one in group)
    return ["val" if one.path in held_out else "train" for one in drawings]


def photographs() -> list[Image.Image]:
    """The photographs, mode "RGB"."""
    arrays = [getattr(import_module("skimage.data"), name)() for name in PHOTOGRAPHS.split()]
    return [Image.fromarray(one[0] if isinstance(one, tuple) else one).convert("RGB") for one in arrays]


def backdrop(photograph: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random square of the photograph, half of the time flipped, each channel brighter or darker."""
    side = round(min(photograph.size) * rng.uniform(0.4, 1))
    left, top = (int(rng.integers(length - side + 1)) for length in photograph.size)
    crop = photograph.crop((left, top, left + side, top + side)).resize((size, size))
    pixels = np.asarray(ImageOps.mirror(crop) if rng.random() < 0.5 else crop) * rng.uniform(0.7, 1.3, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def compose(drawing: Image.Image, behind: Image.Image, rng: np.random.Generator) -> list[Image.Image]:
    """The drawing at a random size and place of the square ``behind``; and its mask, mode "L"."""
    size = behind.width
    scale = size * rng.uniform(0.55, 0.95) / max(drawing.size)
    wide, high = (max(1, round(length * scale)) for length in drawing.size)
    # Opacity weights the colors, so that those of transparent pixels do not bleed into the drawing's border.
    way = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC
    small = drawing.convert("RGBa").resize((wide, high), way).convert("RGBA")
    place = int(rng.integers(size - wide + 1)), int(rng.integers(size - high + 1))
    image, mask = behind.copy(), Image.new("L", behind.size)
    image.paste(small, place, small)
    mask.paste(outline(small), place)
    return [image, mask]


def write(cfg: Config, folder: Path) -> dict[str, int]:
    """Fill the folder; the number of pictures of each split."""
    drawings, behind, used = collect(cfg), photographs(), Counter[str]()
    sides = split(cfg, drawings)
    pairs = [*zip(drawings, sides, strict=True)]
    for drawing, side in track(pairs, "writing", console=CONSOLE, disable=not CONSOLE.is_terminal):
        image = read(drawing.path)
        rng = np.random.default_rng([cfg.seed, crc32(f"{drawing.label}/{drawing.path.name}".encode())])
        order = rng.permutation(len(behind))
        used[place := f"{side}/{drawing.label}/{drawing.path.stem}"] += 1  # Deeper folders repeat names.
        for copy in range(cfg.copies):
            pair = compose(image, backdrop(behind[order[copy % len(behind)]], cfg.size, rng), rng)
            for picture, root, suffix in zip(pair, ("", "masks"), ("jpg", "png"), strict=True):
                path = folder / root / f"{place}.{used[place]}.{copy}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path, quality=92)
    counts = {side: cfg.copies * sides.count(side) for side in ("train", "val")}
    (folder / SETTINGS).write_text(json.dumps(asdict(cfg) | counts, indent=2) + "\n", encoding="utf-8")
    return counts


def main(cfg: Config) -> None:
    """Make the folder, and print what it holds."""
    out = Path(cfg.out)
    outputs.check_outputs([out], overwrite=cfg.overwrite)
    inside = {path.name for path in out.iterdir()} if out.is_dir() else set[str]()
    if out.exists() and not {SETTINGS} <= inside <= {SETTINGS, *FOLDERS}:
        raise ConfigError(f"--out {out} does not hold such a set alone; choose another folder")
    check_least(cfg, copies=1, size=SIDE, per_class=0, classes=1, seed=0)
    if not 0 < cfg.val_share < 1:
        raise ConfigError(f"--val-share: got {cfg.val_share}, expected a number between 0 and 1")
    # LARGEST is the limit here.
    with whole_folders.atomic_folder(out, "data set") as aside, patch.object(Image, "MAX_IMAGE_PIXELS", None):
        counts = write(cfg, aside)
        files.remove(out)
    classes = len([*(out / "train").glob("*/*")])
    print(f"{out}: {counts['train']:,} pictures in train, {counts['val']:,} in val, {classes} classes")


if __name__ == "__main__":
    launch(main, Config)
