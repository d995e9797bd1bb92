"""Every installed plugin, castssl's own and others', under the contract checks of its kind.

But those of plugins/ here: their own tests run the checks, with the options and deviations that they declare.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import castssl
from castssl import registry
from castssl.checkpoints.native import save_encoder
from castssl.contracts import Encoder
from castssl.datasets.taxonomies import breeds
from castssl.encoder_config import EncoderConfig
from castssl.testing import (
    Check,
    Subject,
    datasets,
    encoders,
    objectives,
    parametrize,
    pooling,
    segmenters,
    superpixels,
)
from tests.datasets.free_grain_files import write_cub_real, write_inat_f
from tests.datasets.image_files import write
from tests.datasets.tree_layouts import AIRCRAFT, write_aircraft, write_cub, write_imagenet

SMALLER = {"moco": "moco:hidden=64,out=16"}
"""The same objective with fewer weights than its default, which take a minute to check."""
ARCHITECTURES = {"colors": ["colors:16"], "timm": ["timm:test_vit", "timm:test_resnet"]}
"""What to build with encoders that are no encoder by their name alone."""
PLUGINS = Path(__file__).parents[2].glob("plugins/*/tests/test_*.py")
TESTED = {
    name
    for project in {path.parents[1] / "pyproject.toml" for path in PLUGINS}
    for name in re.findall(r'(?m)^name = "(.+)"$', project.read_text(encoding="utf-8"))
}
"""Distributions with tests of their own beside this file's."""
TEXTS = "tree-kl:text_dim=8,ema=0.9"
OTHER = "graph:cls=keep,kappa=50,average=output"
REFERENCE = "graph:padding=reference"
LEAKS = "the published models let padding take part; this option exists to reproduce them"


def installed(kind: str) -> list[Subject]:
    """The name of each installed plugin of a kind that has no tests here."""
    found = {entry.name for entry in registry.names(kind) if entry.distribution not in TESTED}
    return [SMALLER.get(name, name) for name in sorted(found)]


@parametrize(superpixels.checks, [*installed("superpixels"), "grid:runs_on=worker"])
def test_superpixels(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize(
    pooling.checks,
    [*installed("pooling"), "graph:centroids=random", "graph:centroids=received", OTHER, REFERENCE],
    expected_failures={
        (REFERENCE, "check_padding_changes_nothing"): LEAKS,
        (REFERENCE, "check_padding_gets_no_gradient"): LEAKS,
    },
)
def test_pooling(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize(objectives.checks, [*installed("objectives"), "deit:ema=0.9,bce=true", TEXTS])
def test_objectives(check: Check, subject: Subject) -> None:
    check(subject)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where a small data set of each kind lies that writes no example itself."""
    root = tmp_path_factory.mktemp("places")
    pets = write(
        root / "pets", [f"{split}/{c}/{i}.png" for split in ("train", "val") for c in "ab" for i in "12"]
    )
    write(
        root / "hub",
        [f"{split}/{c}/{i}.png" for split in ("train", "validation") for c in "ab" for i in "12"],
    )
    with tarfile.open(root / "pets.tar", "w") as archive:
        archive.add(pets, "pets")
    for split in ("train", "val"):
        (root / "shards").mkdir(exist_ok=True)
        with tarfile.open(root / "shards" / f"pets-{split}-0.tar", "w") as shard:
            for number, file in enumerate(sorted((pets / split).rglob("*.png"))):
                shard.add(file, f"{number}.png")
                (root / "class").write_text(str(number % 2))
                shard.add(root / "class", f"{number}.cls")
    rows = [
        f"{file.relative_to(root)},{file.parts[-3]},{file.parts[-2]}" for file in sorted(pets.rglob("*.png"))
    ]
    (root / "labels.csv").write_text("\n".join(["path,split,class", *rows]))
    write_cub(root, [(1, 7, 1), (2, 9, 1), (3, 7, 0)])
    write_aircraft(root, AIRCRAFT[:3], AIRCRAFT[3:])
    write_inat_f(root / "inat")
    write_cub_real(root / "cub-real")
    write_imagenet(root / "imagenet", dict.fromkeys(breeds("living17").wnids, (1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASTSSL_CACHE", str(root / "cache"))
        patch.setenv("HF_DATASETS_CACHE", str(root / "hub-cache"))
        yield {
            "aircraft": f":{root}",
            "aircraft-f": f":{root}",
            "breeds": f":living17:{root}/imagenet",
            "csv": f":{root}/labels.csv",
            "cub": f":{root}",
            "cub-f": f":{root}",
            "cub-real": f":{root}/cub-real",
            "hfds": f":{root}/hub",
            "hfids": f":{root}/hub?num_samples=4",
            "inat21-f": f":{root}/inat",
            "inat21-mini": f":{root}/inat",
            "tar": f":{root}/pets.tar",
            "wds": f":pets:{root}/shards?num_classes=2",
        }


@parametrize(datasets.checks, [name for name in installed("datasets") if name != "tfds"])
def test_datasets(check: Check, subject: Subject, places: dict[str, str]) -> None:
    check(f"{subject}{places.get(str(subject), '')}")


def nano(config: EncoderConfig) -> Encoder:
    """CAST, which is built without a plugin."""
    return castssl.create("nano", image_size=config.image_size)


def fused(config: EncoderConfig) -> Encoder:
    """CAST's variant for COCO."""
    return castssl.create("nano", image_size=config.image_size, fused=True, padding="mask")


BUILT = [spec for name in installed("encoders") for spec in ARCHITECTURES.get(str(name), [name])]


@parametrize(encoders.checks, [*BUILT, nano, fused])
def test_encoders(check: Check, subject: Subject) -> None:
    check(subject)


MERGED = [f"merge:by={kind}" for kind in ("color+place", "neighbors", "random")]


SMALL = "sizes=(6,4,2),image_size=32"
RANDOM = f"kmeans:timm:test_vit,pretrained=false,{SMALL}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the segmenters read that need a source, with options."""
    folder = tmp_path_factory.mktemp("sources")
    encoder = castssl.create("nano", image_size=32)
    save_encoder(encoder, folder / "encoder.safetensors")
    for name, image in segmenters.images().items():
        np.save(
            (folder / name).with_suffix(".npy"), np.stack([image.mean(2).astype(int) // n for n in (16, 64)])
        )
    return {"cast": f":{folder},image_size=32", "kmeans": f":{folder},{SMALL}", "maps": f":{folder}"}


@parametrize(segmenters.checks, [*installed("segmenters"), *MERGED, RANDOM])
def test_segmenters(check: Check, subject: Subject, sources: dict[str, str]) -> None:
    check(f"{subject}{sources.get(str(subject), '')}")


def test_the_built_ins_are_among_them() -> None:
    assert {"folder", "tree", "wds", "demo"} <= set(installed("datasets"))
    assert {"grid", "seeds"} <= set(installed("superpixels"))
    assert {"graph", "random"} <= set(installed("pooling"))
    assert SMALLER["moco"] in installed("objectives")
    assert "timm:test_vit" in BUILT
    assert {"cast", "kmeans", "maps", "merge"} <= set(installed("segmenters"))
