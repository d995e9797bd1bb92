"""Held-out images: where they come from, what happens without them, and when nothing is measured."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from castssl.config import read
from castssl.data.splits import open_splits
from castssl.datasets.images import Images
from castssl.datasets.segmentation_sets import write_pair
from castssl.errors import DataError
from tests.acceptance.conftest import Command, Finished
from tests.small_runs import NANO

RECIPES = ("moco_in1k", "pretrain", "deit_in1k", "hcast", "probe_in1k")
FLAGS = [*NANO, *["--workers", "0", "--batch-size", "8", "--epochs", "2", "--warmup-epochs", "1"]]


def write(root: Path, classes: dict[str, int], begin: int = 0) -> Path:
    """Noise in class folders, so many images of each."""
    random = np.random.default_rng(begin)
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(begin, begin + count):
            pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def names(images: object) -> list[str]:
    """The names of a data set that is not a stream."""
    assert isinstance(images, Images)
    return [images.name(index) for index in range(len(images))]


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes without a val split."""
    return write(tmp_path_factory.mktemp("flat"), {"a": 20, "b": 10, "c": 1})


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_a_val_split_every_recipe_refuses_and_offers_flags(recipe: str, flat: Path) -> None:
    config: Any = importlib.import_module(f"recipes.{recipe}").Config
    more = ["--weights", "x"] if recipe == "probe_in1k" else []
    cfg = read(config, ["--data", f"folder:{flat}", *more])
    with pytest.raises(DataError) as caught:
        cfg.images()
    message = str(caught.value)
    assert "has no val split" in message
    assert "--val DATA" in message
    assert "--val-share 0.1" in message
    assert "split that is there" not in message
    shared = read(config, ["--data", f"folder:{flat}", *more, "--val-share", "0.1"])
    train, held_out = shared.images()
    assert (len(train), len(held_out)) == (28, 3)
    with pytest.raises(Exception, match="--val and --val-share both"):
        read(config, ["--data", f"folder:{flat}", *more, "--val-share", "0.1", "--val", "demo"])


def test_a_share_is_drawn_by_class_and_by_seed(flat: Path) -> None:
    train, held_out, remarks = open_splits(f"folder:{flat}", share=0.3, seed=1)
    assert held_out is not None
    assert "held out 9 of 31 training images: 0.3 of each class, seed 1" in remarks
    assert [name[0] for name in names(held_out)] == ["a"] * 6 + ["b"] * 3
    assert sorted(names(train) + names(held_out)) == sorted(
        names(open_splits(f"folder:{flat}", val="none")[0])
    )
    assert held_out.tree == train.tree
    assert names(open_splits(f"folder:{flat}", share=0.3, seed=1).held_out) == names(held_out)
    assert names(open_splits(f"folder:{flat}", share=0.3, seed=2).held_out) != names(held_out)
    unmeasured = open_splits(f"folder:{flat}", share=0.3, seed=1, measured=False)
    assert (names(unmeasured.train), unmeasured.held_out) == (names(train), None)


def test_other_data_may_be_held_out_and_is_numbered_by_the_training_images(
    flat: Path, tmp_path: Path
) -> None:
    write(tmp_path / "plain", {"c": 2, "a": 1})
    write(tmp_path / "split" / "train", {"a": 1, "b": 1, "c": 1})
    write(tmp_path / "split" / "val", {"b": 2})
    for name, expected in {"plain": [[0], [2], [2]], "split": [[1], [1]]}.items():
        held_out = open_splits(f"folder:{flat}", val=f"folder:{tmp_path / name}").held_out
        assert isinstance(held_out, Images)
        assert held_out.targets.tolist() == expected
        assert held_out.tree.names == (("a", "b", "c"),)
    write(tmp_path / "plain", {"zebra": 1})
    with pytest.raises(DataError, match="1 classes that the training images lack: zebra"):
        open_splits(f"folder:{flat}", val=f"folder:{tmp_path / 'plain'}")
    with pytest.raises(DataError, match="has no val split"):
        open_splits(f"folder:{flat}", val=f"folder:{flat}")


@pytest.fixture(scope="module")
def unmeasured(
    flat: Path, tmp_path_factory: pytest.TempPathFactory, process: Command
) -> tuple[Path, Finished]:
    """A run that measures nothing, on data without a val split."""
    out = tmp_path_factory.mktemp("runs") / "never"
    flags = [*FLAGS, "--hidden", "16", "--out-dim", "8", "--lr", "1e-3", "--knn-every", "0"]
    return out, process("recipes/moco_in1k.py", "--data", f"folder:{flat}", "--out", out, *flags)


def test_never_is_never(unmeasured: tuple[Path, Finished]) -> None:
    out, done = unmeasured
    assert done.code == 0, done.err[-3000:]
    assert "nothing was measured on held-out images" in done.out
    assert "Warning" not in done.err
    assert json.loads((out / "results.json").read_text())["trained"] == {}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert not [line for line in lines if "knn" in line]
    assert (out / "encoder.safetensors").is_file()


def test_a_probe_without_held_out_images_is_refused_before_it_trains(
    unmeasured: tuple[Path, Finished], flat: Path, tmp_path: Path, process: Command
) -> None:
    flags = ["--weights", str(unmeasured[0]), "--epochs", "1", "--batch-size", "8", "--workers", "0"]
    done = process("recipes/probe_in1k.py", "--data", f"folder:{flat}", "--out", tmp_path / "probe", *flags)
    assert done.code != 0
    assert "--val-share 0.1" in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("probe/checkpoints/*"))


def test_a_run_measures_on_its_share_and_tells_what_is_left_out_as_tree_does(
    flat: Path, tmp_path: Path, process: Command, command: Command
) -> None:
    data = Path(shutil.copytree(flat, tmp_path / "set"))
    (data / "@eaDir").mkdir()
    (data / "b" / "\x1b[2J.png").write_bytes((data / "b" / "3.png").read_bytes()[:20])
    (data / "b" / "3.png").unlink()
    flags = [
        *FLAGS,
        "--lr",
        "0.3",
        "--ema",
        "0",
        "--repeats",
        "1",
        "--max-steps",
        "1",
        "--out",
        tmp_path / "run",
    ]
    more = ["--val-share", "0.2", "--knn-images", "15"]
    done = process("recipes/deit_in1k.py", "--data", f"folder:{data}", *flags, *more, "--max-bad", "0.1")
    assert done.code == 0, done.err[-3000:]
    assert "held out 6 of 31 training images: 0.2 of each class, seed 0" in done.err
    assert "kNN: 15 of 25 training images vote" in done.err
    assert "train: left out 1 folder" in done.err
    damage = f"train: 1 of 31 images that were looked at cannot be read, such as {data}/b/\\x1b[2J.png ("
    assert damage in done.err
    assert "\x1b[2J" not in done.err
    shown = command("tree", f"folder:{data}").out
    assert "".join(damage.split()) in "".join(shown.split())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {"top1", "knn", "match"} <= results["trained"].keys()


def test_classes_of_pixels_in_another_order_are_refused(tmp_path: Path) -> None:
    """Else a model that has learned the train labels would be scored by the numbers of the others."""
    orders = {"a": "sky\nsea\ncar\n", "b": "sea\nsky\ncar\n", "c": "sky\nsea\nautomobile\n"}
    for name, classes in orders.items():
        for split in ("train", "val"):
            folders = (tmp_path / name / kind / split for kind in ("images", "labels"))
            image, labels = (folder / f"a.{end}" for folder, end in zip(folders, ("jpg", "png"), strict=True))
            write_pair(image, labels, (0, 1, 2))
        (tmp_path / name / "classes.txt").write_text(classes)
    train, other, synonym = (f"pairs:{tmp_path / name}" for name in orders)
    with pytest.raises(DataError, match=r"2 classes of pixels have other numbers .*: sky, sea; list"):
        open_splits(train, val=other)
    for val in (train, synonym):
        assert open_splits(train, val=val).held_out is not None
