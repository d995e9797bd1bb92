"""Images of five channels, as TIFF and ``.npy`` files, from files to training, evaluation and pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import castssl
from castssl.checkpoints import read
from castssl.cli import main
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.recipes.conftest import Runner

pytestmark = pytest.mark.recipe
FLAGS = [
    *("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4", "--batch-size", "4"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--workers", "0", "--max-steps", "1"),
    *("--channels", "5", "--superpixel-channels", "4", "2", "0", "--knn-every", "1000"),
]
KINDS = ("tif", "npy")


def scene(seed: int) -> np.ndarray[Any, Any]:
    """uint16 (40, 48, 5): 12 bits."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 4096, (5, 6, 5)).astype(np.uint16)
    return coarse.repeat(8, 0).repeat(8, 1)


def write(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        tifffile.imwrite(path, pixels.transpose(2, 0, 1), photometric="minisblack")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind, with the same two classes of the same images."""
    folder = tmp_path_factory.mktemp("scenes")
    for kind in KINDS:
        for split, number in (("train", 4), ("val", 2)):
            for label in range(2):
                for index in range(number):
                    name = f"{split}/class-{label}/{index}.{kind}"
                    write(folder / kind / name, scene(100 * (split == "val") + 10 * label + index))
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory, recipe: Runner) -> Path:
    """A run of one step on the TIFF files."""
    out = tmp_path_factory.mktemp("runs") / "scenes"
    done = recipe("deit_in1k", "--data", f"folder:{data / 'tif'}?bits=12", *FLAGS, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("--channels 5: hue, saturation and grayscale are left out") == 1
    return out


def test_a_run_reads_five_channels_and_draws_three(run: Path) -> None:
    saved = read(run)
    assert saved.encoder["stem.layers.0.weight"].shape[1] == 5
    assert (saved.config.channels, saved.config.superpixel_channels) == (5, (4, 2, 0))
    assert list((run / "pictures").glob("*.png"))


def test_both_kinds_of_files_are_the_same_images(data: Path) -> None:
    first, second = (open_images(f"folder:{data / kind}?bits=12", channels=5) for kind in KINDS)
    assert len(first) == len(second) == 8
    for index in range(8):
        image = np.asarray(first[index][0])  # type: ignore[index]
        assert image.dtype == np.uint8
        assert np.array_equal(image, np.asarray(second[index][0]))  # type: ignore[index]
    expected = np.rint(scene(0) / 4095 * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(first[0][0]), expected)  # type: ignore[index]


def test_commands_read_such_files(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["val/class-1/0"] * 2
    files = [str(data / kind / f"{name}.{kind}") for kind, name in zip(KINDS, names, strict=True)]
    reading = ["--weights", str(run), "--bits", "12"]
    assert main(["predict", *files, *reading, "--out", str(tmp_path / "path.png")]) == 0
    assert "class-" in capsys.readouterr().out
    assert main(["segment", files[1], *reading, "--out", str(tmp_path / "segments")]) == 0
    assert list((tmp_path / "segments").glob("0*.png"))
    out = tmp_path / "features.npz"
    assert main(["features", str(data / "npy"), *reading, "--workers", "0", "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["image"].shape[0] == 8
    found = ["--workers", "0", "--out", str(tmp_path / "found")]
    assert main(["evaluate", str(data / "tif"), *reading, *found]) == 0
    trained = json.loads((run / "results.json").read_text())["trained"]
    assert json.loads((tmp_path / "found" / "results.json").read_text())["trained"]["top1"] == trained["top1"]
    segments = castssl.segment(scene(3), run, value_range=(0, 4095))
    shown = np.rint(scene(3)[..., [4, 2, 0]] / 4095 * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(segments.image), shown)


def test_a_file_of_other_channels_is_named(data: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "rgb.png")
    write(tmp_path / "three.tif", scene(0)[..., :4])
    for name, count in (("rgb.png", 3), ("three.tif", 4)):
        folder = tmp_path / str(count) / "class"
        folder.mkdir(parents=True)
        (tmp_path / name).rename(folder / name)
        images = open_images(f"folder:{tmp_path / str(count)}", channels=5)
        expected = (
            f"{name} .{count} channels, expected 5 as the model reads: convert it, .* --channels {count}"
        )
        with pytest.raises(DataError, match=expected):
            images[0]  # type: ignore[index]
    rgb = open_images(f"folder:{data / 'npy'}")
    with pytest.raises(DataError, match=r"5 channels, expected 1 \(gray\) or 3 \(RGB\).*--channels 5"):
        rgb[0]  # type: ignore[index]


def test_tifffile_is_asked_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match=r"PIL does not read: .*install.*tifffile"):
        open_images(f"folder:{data / 'tif'}", channels=5)[0]  # type: ignore[index]
