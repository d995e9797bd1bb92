"""Texts of the demo images: what is seen of an object, with noise, and never a class or the name of a part.

An image has a sentence such as "rings and waves, five pieces, wide, jagged, large, mostly orange".  All but
the textures are measured on the image and on its part mask; the textures are those of the object's parts,
which fixed surroundings do not have.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from castssl.datasets.demo.dataset import root_of
from castssl.datasets.demo.textures import COARSE, TEXTURES
from castssl.errors import ConfigError
from castssl.files import write_text

NOISE = 0.3
"""The probability that a word is replaced by any word of its sort."""
TERMS = {"stripes": "lines"}
"""Other words for textures: a part is a stripe."""
HUES = ("red", "orange", "yellow", "green", "turquoise", "blue", "violet", "pink")
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SHAPES = ("wide", "square", "tall")
OUTLINES = ("jagged", "bulging", "round")
EXTENTS = ("small", "medium", "large")


def demo_texts(data: str, texts: str, split: str = "train") -> Path:
    """The file of the texts of the images of ``demo``, written on the first call and kept.

    Args:
        data: ``demo`` or ``demo:OPTIONS``.
        texts: ``demo`` or ``demo:NOISE``, with another probability than :data:`NOISE`.
        split: ``train``, or ``val``, whose texts serve as a baseline alone.

    Returns:
        A CSV file with the columns ``path`` and ``text``, beside the images' folder.

    Raises:
        ConfigError: if the data set is another one, or the noise is not a probability.
    """
    name, _, location = data.partition(":")
    word, _, noise = texts.partition(":")
    try:
        probability = float(noise) if noise else NOISE
    except ValueError:
        probability = -1.0
    if (name, word) != ("demo", "demo") or not 0 <= probability <= 1:
        raise ConfigError(
            f"got the texts {texts!r} for {data!r}; expected demo or demo:NOISE, a probability, for --data"
            " demo, or the path of a file"
        )
    root = root_of(location)
    kind = "texts" if split == "train" else f"{split}-texts"
    path = root.with_name(f"{root.name}-{kind}-noise{probability:g}.csv")
    if not path.exists():
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(("path", "text"))
        for image in sorted((root / split).rglob("*.png")):
            below = image.relative_to(root / split).as_posix()
            writer.writerow((below, describe(root, below, probability, split)))
        write_text(path, lines.getvalue())
    return path


def describe(root: Path, below: str, noise: float, split: str = "train") -> str:
    """The text of an image, which depends on the image, its path and the noise alone.

    Args:
        root: the folder of the data set.
        below: the path of the image below the split.
        noise: the probability that a word is replaced.
        split: of the image.
    """
    image, parts = (np.asarray(Image.open(root / top / below)) for top in (split, f"parts/{split}"))
    name = below if split == "train" else f"{split}/{below}"
    digest = hashlib.sha256(f"{noise} {name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    textures = [TERMS.get(each, each) for each in COARSE[below.partition("/")[0]]]
    chosen = rng.permutation(textures)[:2].tolist() if "-shared-" in root.name else []
    seen = [(each, tuple(TERMS.get(name, name) for name in TEXTURES)) for each in chosen]
    words = [*seen, *attributes(image, parts)]
    noisy = [_noisy(rng, word, sort, noise) for word, sort in words]
    *named, count, shape, outline, extent, hue = noisy
    looks = [" and ".join(named)] if named else []
    return ", ".join([*looks, f"{count} pieces", shape, outline, extent, f"mostly {hue}"])


def attributes(image: NDArray[np.uint8], parts: NDArray[np.uint8]) -> list[tuple[str, tuple[str, ...]]]:
    """What is measured of an object: each word, with all words of its sort.

    The number of its pieces, its shape, its outline, its extent and its color.

    Args:
        image: RGB (H, W, 3).
        parts: part numbers (H, W), 0 outside of the object.
    """
    inside = (parts > 0).astype(np.uint8)
    _, _, wide, high = cv2.boundingRect(inside)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(contours)))
    area = int(inside.sum())
    least = max(2, area // 250)
    pieces = 0
    for number in range(1, int(parts.max()) + 1):
        _, _, stats, _ = cv2.connectedComponentsWithStats((parts == number).astype(np.uint8))
        pieces += int((stats[1:, cv2.CC_STAT_AREA] >= least).sum())
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[inside > 0].astype(np.int64)
    votes = np.bincount(hsv[:, 0] * 2 * len(HUES) // 360, weights=hsv[:, 1], minlength=len(HUES))
    aspect, filled, share = wide / high, area / max(hull, 1.0), area / inside.size
    return [
        (COUNTS[min(max(pieces, 1), len(COUNTS)) - 1], COUNTS),
        (SHAPES[int(aspect < 1.25) + int(aspect < 0.8)], SHAPES),
        (OUTLINES[int(filled > 0.72) + int(filled > 0.88)], OUTLINES),
        (EXTENTS[int(share > 0.24) + int(share > 0.3)], EXTENTS),
        (HUES[int(votes.argmax())], HUES),
    ]


def _noisy(rng: Generator, word: str, sort: tuple[str, ...], noise: float) -> str:
    drawn = sort[int(rng.integers(len(sort)))]
    return drawn if rng.random() < noise else word
