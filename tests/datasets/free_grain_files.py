"""Small data sets of Free-Grained, in exactly the format of its release."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from castssl.datasets import taxonomies
from tests.datasets.tree_layouts import INAT, write_inat, write_jpegs

TREE = ((0, 2, 1), (3, 0, 0), (1, 1, 0), (4, 2, 1), (2, 1, 0))
"""[fine, subordinate, basic], in no order; 2 basic, 3 subordinate and 5 fine classes."""
NAMES = {
    "basic": ("dog", "bird"),
    "subord": ("corgi dog", "hound dog", "passerine bird"),
    "finegrained": ("robin", "beagle", "whippet", "Pembroke", "jay"),
}
WNIDS = ("n01558993", "n02088364", "n02091134", "n02113023", "n01580077")
"""By fine class."""


def global_id(path: Sequence[int], depth: int, sizes: Sequence[int] = (2, 3, 5)) -> int:
    """The number of a path's class of level ``depth`` (from 1), counted through all levels."""
    return sum(sizes[: depth - 1]) + path[depth - 1]


def rows(per_class: int, seed: int = 0) -> list[tuple[int, tuple[int, int, int], int]]:
    """Images in no order: fine class, (basic, subordinate, fine), and how many levels are given."""
    draw = random.Random(seed)
    images = [
        (fine, (basic, middle, fine), draw.randint(1, 3))
        for fine, middle, basic in TREE
        for _ in range(per_class)
    ]
    draw.shuffle(images)
    return images


def write_list(
    path: Path, names: Sequence[str], paths: Sequence[Sequence[int]], given: Sequence[int]
) -> None:
    """Lines of four columns, or of five if ``given`` is not empty."""
    columns = [[name, *map(str, path)] for name, path in zip(names, paths, strict=True)]
    if given:
        columns = [[*row, str(number)] for row, number in zip(columns, given, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(" ".join(row) + "\n" for row in columns))


def write_imagenet_f(root: Path, lists: Path, *, train: int = 4, val: int = 2) -> dict[str, list[int]]:
    """Images, lists, tree and names; returns the known labels of each path, -1 where they are hidden."""
    images = {"train": rows(train), "val": rows(val, 1)}
    truth: dict[str, list[int]] = {}
    for split, listed in images.items():
        names = [
            f"{split}/{WNIDS[fine]}/"
            + (f"{WNIDS[fine]}_{i}.JPEG" if split == "train" else f"ILSVRC2012_val_{i:08}.JPEG")
            for i, (fine, _, _) in enumerate(listed)
        ]
        write_jpegs(root, names)
        given = [global_id(path, depth) for _, path, depth in listed] if split == "train" else []
        write_list(lists / f"imagenet-F-{split}.txt", names, [path for _, path, _ in listed], given)
        for (_, path, depth), name in zip(listed, names, strict=True):
            known = depth if split == "train" else 3
            truth[name] = [*path[:known], *[-1] * (3 - known)]
    (lists / "imagenet-3L-tree.json").write_text(json.dumps(TREE))
    for level, names_of_level in NAMES.items():
        table = {str(number): name for number, name in reversed(list(enumerate(names_of_level)))}
        (lists / f"imagenet-3L-id_{level}_dic.json").write_text(json.dumps(table))
    return truth


def depths(count: int) -> list[int]:
    """How many levels are given of so many images, with all numbers among them."""
    return [1 + i % 3 for i in range(count)]


def write_inat_f(root: Path) -> list[list[int]]:
    """Images as distributed, tree and lists; returns the paths of the train list."""
    write_inat(root)
    order, family = (list(dict.fromkeys(name.split("_")[part] for name in sorted(INAT))) for part in (4, 5))
    paths = {
        name: [order.index(name.split("_")[4]), family.index(name.split("_")[5]), fine]
        for fine, name in enumerate(sorted(INAT))
    }
    (root / "inat21-F-tree.json").write_text(json.dumps([path[::-1] for path in paths.values()]))
    train = [f"train/{name}/{i:08}-a.jpg" for name in INAT for i in range(2)]
    truth = [paths[name.split("/")[1]] for name in train]
    sizes = (len(order), len(family), len(INAT))
    given = [global_id(path, depth, sizes) for path, depth in zip(truth, depths(len(truth)), strict=True)]
    write_list(root / "inat21-F-train.txt", train, truth, given)
    val = [f"val/{name}/{0:08}-b.jpg" for name in INAT]
    write_list(root / "inat21-F-val.txt", val, [paths[name] for name in INAT], [])
    return truth


def write_cub_real(root: Path, folders: tuple[str, str] = ("images", "images")) -> list[list[int]]:
    """Lists of an image of each species, and the images in these folders; returns the paths of both lists."""
    tree = taxonomies.cub([f"Bird No {i}" for i in range(1, 201)])
    names = [f"{i:03}.Bird_No_{i}/Bird_{i:04}.jpg" for i in range(1, 201)]
    paths: list[list[int]] = tree.paths().tolist()
    given = [global_id(path, depth, tree.sizes) for path, depth in zip(paths, depths(200), strict=True)]
    write_list(root / "cub-Real-train.txt", [f"train/{name}" for name in names], paths, given)
    write_list(root / "cub-Real-val.txt", [f"val/{name}" for name in names], paths, [])
    for folder in folders:
        write_jpegs(root / folder, names)
    return paths
