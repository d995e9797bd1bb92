"""Small data sets with label trees, in exactly the layouts that they are distributed in."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.datasets.image_files import make_image

AIRCRAFT = (
    ("0062765", "Boeing", "Boeing 737", "737-400"),
    ("0057380", "Airbus", "A320", "A319"),
    ("1236289", "McDonnell Douglas", "F/A-18", "F/A-18"),
    ("0100001", "Boeing", "Boeing 707", "707-320"),
    ("0893091", "Airbus", "A320", "A320"),
)
"""Image id, manufacturer, family, variant."""
INAT = (
    "00003_Animalia_Chordata_Aves_Passeriformes_Corvidae_Corvus_corax",
    "00000_Animalia_Arthropoda_Insecta_Lepidoptera_Pieridae_Pieris_rapae",
    "00001_Animalia_Chordata_Aves_Accipitriformes_Accipitridae_Buteo_jamaicensis",
    "00010_Animalia_Chordata_Aves_Passeriformes_Alaudidae_Alauda_arvensis",
    "00002_Animalia_Arthropoda_Insecta_Lepidoptera_Erebidae_Arctia_caja",
)
"""Class folders, not in order."""


@cache
def jpeg(seed: int) -> bytes:
    """An encoded image of 20 x 16 pixels."""
    stream = io.BytesIO()
    make_image(seed).save(stream, "jpeg")
    return stream.getvalue()


def write_jpegs(folder: Path, names: Iterable[str]) -> None:
    """An image for each path below ``folder``."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number % 7))


def write_imagenet(root: Path, counts: Mapping[str, tuple[int, int]]) -> Path:
    """``<root>/{train,val}/<wnid>/*.JPEG`` with so many (train, val) images by wnid."""
    for wnid, (train, val) in counts.items():
        write_jpegs(root, [f"train/{wnid}/{wnid}_{i}.JPEG" for i in range(train)])
        write_jpegs(root, [f"val/{wnid}/ILSVRC2012_val_{i:08}.JPEG" for i in range(val)])
    return root


def write_cub(root: Path, images: Sequence[tuple[int, int, int]]) -> Path:
    """``CUB_200_2011`` below ``root``, with images (image id, species id, 1 for training).

    The lines of each annotation file stand in another order.
    """
    folder = root / "CUB_200_2011"
    files = {image: f"{species:03}.Bird_No_{species}/Bird_{image:04}.jpg" for image, species, _ in images}
    write_jpegs(folder / "images", files.values())
    lines = {
        "classes": [f"{i} {i:03}.Bird_No_{i}" for i in range(1, 201)],
        "images": [f"{image} {file}" for image, file in files.items()],
        "image_class_labels": [f"{image} {species}" for image, species, _ in images],
        "train_test_split": [f"{image} {train}" for image, _, train in images],
    }
    for seed, (name, rows) in enumerate(lines.items()):
        random.Random(seed).shuffle(rows)
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return folder


def write_aircraft(
    root: Path, trainval: Sequence[tuple[str, str, str, str]], test: Sequence[tuple[str, str, str, str]]
) -> Path:
    """``fgvc-aircraft-2013b`` below ``root``, with rows as in :data:`AIRCRAFT`."""
    folder = root / "fgvc-aircraft-2013b"
    write_jpegs(folder / "data" / "images", [f"{row[0]}.jpg" for row in (*trainval, *test)])
    for part, rows in (("trainval", trainval), ("test", test)):
        for column, level in enumerate(("manufacturer", "family", "variant"), start=1):
            file = folder / "data" / f"images_{level}_{part}.txt"
            file.write_text("".join(f"{row[0]} {row[column]}\n" for row in rows))
    return folder


def write_inat(root: Path, classes: Sequence[str] = INAT, *, train: int = 2, val: int = 1) -> Path:
    """``train_mini`` and ``val`` below ``root`` with so many images per class."""
    for name in classes:
        write_jpegs(root / "train_mini" / name, [f"{i:08}-a.jpg" for i in range(train)])
        write_jpegs(root / "val" / name, [f"{i:08}-b.jpg" for i in range(val)])
    return root
