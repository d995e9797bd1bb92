"""The script that makes drawings on photographs, on a handful of drawings."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError, DataError
from recipes.benchmarks import drawings
from recipes.benchmarks.drawings import Config, main

COUNT = 5
"""Different drawings of each class."""


def draw(path: Path, shape: str, number: int, color: tuple[int, ...] = (220, 30, 40, 255)) -> None:
    """A drawing of a class; the number is its width in pixels, beyond 20."""
    image = Image.new("RGBA", (60, 60))
    getattr(ImageDraw.Draw(image), shape)((10, 10, 30 + 8 * number, 50), fill=color)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes; drawings that cannot be used; a variant, a copy, and a drawing in two classes."""
    root = tmp_path / "png"
    for number in range(COUNT):
        draw(root / "food" / "fruit" / "deep" / f"apple{number}_by_me_01.png", "ellipse", number)
        draw(root / "plants" / "trees" / f"tree{number}_by_me_01.png", "rectangle", number, (0, 90, 200, 255))
    gray = (200, 200, 200, 255)
    for number in range(COUNT):
        draw(root / "food" / "fruit" / f"apple{number}_bw_by_me_01.png", "ellipse", number, gray)
    draw(root / "plants" / "trees" / "apple_again.png", "ellipse", 0)  # It stays in the first class alone.
    draw(root / "plants" / "trees" / "nearly.png", "rectangle", 2, (2, 90, 200, 255))
    Image.new("RGB", (40, 40)).save(root / "plants" / "trees" / "paper.png")
    Image.new("RGBA", (40, 40)).save(root / "plants" / "trees" / "nothing.png")
    return root


@pytest.fixture(autouse=True)
def one_photograph_of_each_color(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [(40, 30), (30, 40), (50, 50)]
    photographs = [Image.new("RGB", side, (0, 60 * place, 255)) for place, side in enumerate(sides)]
    monkeypatch.setattr(drawings, "photographs", lambda: photographs)


@pytest.fixture
def make(source: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a small set, and return its folder."""

    def run(name: str = "out", **settings: object) -> Path:
        given = {"source": str(source), "out": str(tmp_path / name), "size": 32, "val_share": 0.4}
        classes = ("food/fruit", "plants/trees")
        main(Config(**{"classes": classes, **given, **settings}))  # type: ignore[arg-type]
        return tmp_path / name

    return run


def names(folder: Path, split: str) -> set[str]:
    """The names of a split's drawings, without those of their copies."""
    return {path.name.partition(".")[0] for path in folder.glob(f"{split}/*/*/*.jpg")}


def content(folder: Path) -> dict[str, str]:
    """A hash of each picture and mask."""
    files = [path for path in folder.rglob("*.*") if path.suffix in (".jpg", ".png")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_set_is_read_with_its_classes_and_masks(make: Callable[..., Path]) -> None:
    folder = make(copies=2)
    train, val = (open_images(f"folder:{folder}", split=split) for split in ("train", "val"))
    assert isinstance(train, Images)
    assert isinstance(val, Images)
    assert len(train) + len(val) == 2 * (3 * COUNT + 1)
    assert train.tree.names == val.tree.names
    for path in folder.glob("*/*/*/*.jpg"):
        mask = np.asarray(Image.open((folder / "masks" / path.relative_to(folder)).with_suffix(".png")))
        assert mask.shape == (32, 32)
        assert set(np.unique(mask)) == {0, 255}
        # The photographs are blue without red, the apples red: the mask is where the drawing is.
        if path.name.startswith("apple") and "_bw" not in path.name:
            red = np.asarray(Image.open(path))[..., 0] > 110
            assert ((red > 0) == (mask > 0)).mean() > 0.9


def test_drawings_that_belong_together_lie_on_one_side(make: Callable[..., Path]) -> None:
    for seed in range(5):
        folder = make(f"out{seed}", seed=seed)
        train, val = names(folder, "train"), names(folder, "val")
        assert train
        assert val
        assert not train & val
        for number in range(COUNT):
            assert (f"apple{number}_by_me_01" in val) == (f"apple{number}_bw_by_me_01" in val)
        assert ("nearly" in val) == ("tree2_by_me_01" in val)
        assert not {"apple_again", "paper", "nothing"} & (train | val)


def test_copies_differ_and_lie_on_one_side(make: Callable[..., Path]) -> None:
    folder = make(copies=3)
    assert not names(folder, "train") & names(folder, "val")
    copies = defaultdict(set)
    for name, found in content(folder).items():
        if name.endswith(".jpg"):
            copies[name.rpartition("/")[2].partition(".")[0]].add(found)
    assert {len(found) for found in copies.values()} == {3}


def test_the_seed_and_the_name_decide_alone(make: Callable[..., Path]) -> None:
    whole = content(make())
    assert content(make("again")) == whole
    assert content(make("other", seed=1)) != whole
    fewer = content(make("fewer", classes=("food/fruit",)))
    assert {found for name, found in fewer.items() if name.endswith(".jpg")} < set(whole.values())


def test_other_files_are_kept(make: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="such a set alone" if overwrite else "--overwrite"):
            make(overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "out" / "mine.txt").unlink()
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="such a set alone"):
        make(overwrite=True)
    (tmp_path / "out").unlink()
    make()
    assert len(content(make(overwrite=True, copies=2))) == 2 * 2 * (3 * COUNT + 1)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="such a set alone"):
        make(overwrite=True)
    assert (tmp_path / "out" / "mine.txt").is_file()


def test_all_takes_classes_with_enough_drawings(make: Callable[..., Path], source: Path) -> None:
    folder = make(classes=("all",))
    assert {path.parent.name for path in folder.glob("train/*/*/*")} == {"fruit"}  # ten; trees has six
    assert len(names(make("few", classes=("all",), per_class=4), "train")) < 4
    with pytest.raises(DataError, match="no usable drawings of food/none; install"):
        make("none", classes=("food/none",))
    with pytest.raises(DataError, match="no usable drawings of a class with 10; install"):
        make("none", classes=("all",), source=str(source / "plants"))
