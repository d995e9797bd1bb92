"""The embedded demo data set: generated images of objects made of parts.

Eight fine classes in four coarse ones.  Each class has its own object.  The light, the colors, the object's
position, size and pose, and, unless they are ``fixed``, its surroundings vary between images and are
independent of the class: see :mod:`castssl.datasets.demo.paint`.
Written once, as folders that :class:`castssl.datasets.folder.Folder` reads:

    <root>/{train,val}/<coarse>/<fine>/0000.png        RGB
    <root>/masks/{train,val}/<coarse>/<fine>/0000.png  255 on the object
    <root>/parts/{train,val}/<coarse>/<fine>/0000.png  1, 2, ... on its parts, 0 elsewhere
    <root>/tree.json                                   the label tree, and the names of the parts
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from castssl.contracts import Listing
from castssl.datasets.demo.objects import PARTS
from castssl.datasets.demo.paint import KINDS, Kind, Surroundings, paint
from castssl.datasets.folder import Folder
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.whole_folders import atomic_folder

VERSION = 3
"""Increases whenever the same seed gives other images, so that no old folder is used as a new one."""
SPLITS = ("train", "val")


class _Task(NamedTuple):
    """One image to be painted."""

    number: int
    split: str
    kind: Kind
    seed: tuple[int, ...]


def root(
    size: int | None = None, per_class: int = 300, seed: int = 0, surroundings: Surroundings = "shared"
) -> Path:
    """The folder of the demo data set; generated on the first call, in a few seconds, and kept.

    It lies in the folder that the environment variable CASTSSL_CACHE names, or in the user's cache folder.
    Two processes may call this at once: each sees a complete folder.

    Args:
        size: side of the images in pixels; by default 128, or 96 with fixed surroundings.
        per_class: training images of each fine class; a fifth as many (at least one) are held out.
        seed: the same seed gives the same bytes.
        surroundings: "shared" by all classes, in the colors of the object; or "fixed" for each class.

    Raises:
        ConfigError: if ``size`` is below 16, ``per_class`` below 1, ``seed`` negative, or ``surroundings``
            unknown.
    """
    size = (96 if surroundings == "fixed" else 128) if size is None else size
    if size < 16 or per_class < 1 or seed < 0 or surroundings not in get_args(Surroundings):
        raise ConfigError(
            "the demo data set takes size >= 16, per_class >= 1, seed >= 0 and surroundings shared or fixed,"
            f" got {size}, {per_class}, {seed} and {surroundings!r}"
        )
    place = cache() / f"demo-v{VERSION}-{surroundings}-{size}px-{per_class}each-seed{seed}"
    if not place.is_dir():
        with atomic_folder(place, "demo data set") as aside:
            _write(aside, size, per_class, seed, surroundings)
    return place


def root_of(location: str) -> Path:
    """The folder of the data set with the options ``size=96,surroundings=fixed`` of :func:`root`.

    Raises:
        DataError: if there is no such option, or it has no such value.
    """
    try:
        pairs = (pair.partition("=") for pair in location.split(",") if pair)
        read: dict[str, Callable[[str], Any]] = {"surroundings": str}
        return root(**{key: read.get(key, int)(value) for key, _, value in pairs})
    except (TypeError, ValueError) as error:
        raise DataError(
            f"cannot make the demo data of {location!r}: {error}; expected demo, or something like"
            " demo:size=96,per_class=300,seed=0,surroundings=fixed"
        ) from error


class Demo(Folder):
    """The generated data set: ``demo``, or with options ``demo:size=128,per_class=300,seed=0``, or also
    ``surroundings=fixed``.

    A class has ``per_class`` training images, and a fifth as many are held out.
    """

    location = ""
    splits = SPLITS

    def open(self, location: str, split: str) -> Listing:
        """See :class:`castssl.contracts.DataSet`."""
        return super().open(str(root_of(location)), split)

    def example(self, folder: Path) -> str:
        """See :class:`castssl.contracts.DataSet`."""
        return "size=16,per_class=2"


def cache() -> Path:
    """The folder of generated data: CASTSSL_CACHE, or ``castssl`` in the user's cache folder."""
    chosen = os.environ.get("CASTSSL_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "castssl"
    usual = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(usual) if usual else Path.home() / ".cache") / "castssl"


def tree() -> LabelTree:
    """The two label levels: 4 coarse classes, 8 fine ones; numbered in alphabetical order, as folders are."""
    coarse = sorted({kind.coarse for kind in KINDS})
    fine = sorted((kind.coarse, kind.fine) for kind in KINDS)
    return LabelTree(
        sizes=(len(coarse), len(fine)),
        parents=(tuple(coarse.index(above) for above, _ in fine),),
        names=(tuple(coarse), tuple(name for _, name in fine)),
    )


def _write(folder: Path, size: int, per_class: int, seed: int, surroundings: Surroundings) -> None:
    # Painting is mostly cv2 and numpy, which release the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda task: _write_one(folder, size, surroundings, task), _tasks(per_class, seed)))
    names = tree()
    content = {"names": names.names, "parents": names.parents, "parts": PARTS}
    (folder / "tree.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _tasks(per_class: int, seed: int) -> Iterator[_Task]:
    """Every image, with a seed of its own: neither order nor number of the others matters."""
    for split, count in zip(SPLITS, (per_class, max(per_class // 5, 1)), strict=True):
        for index, kind in enumerate(KINDS):
            for number in range(count):
                yield _Task(number, split, kind, (seed, SPLITS.index(split), index, number))


def _write_one(folder: Path, size: int, surroundings: Surroundings, task: _Task) -> None:
    kind = task.kind
    image, parts = paint(np.random.default_rng(task.seed), kind, size, surroundings)
    below = f"{task.split}/{kind.coarse}/{kind.fine}/{task.number:04d}.png"
    write_painted(folder, below, image, parts)


def write_painted(folder: Path, below: str, image: NDArray[np.uint8], parts: NDArray[np.uint8]) -> None:
    """Write an image, RGB, the mask of its objects, and its parts to the same path below their folders."""
    mask = np.where(parts > 0, 255, 0).astype(np.uint8)
    for top, pixels in (("", image[..., ::-1]), ("masks", mask), ("parts", parts)):
        done, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not done:
            raise OSError("OpenCV could not encode a PNG")
        path = folder / top / below
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.tobytes())
