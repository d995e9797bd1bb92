"""``castssl evaluate``: the recipes' accuracies, and files that agree with them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints.classifier import load_classifier, save_classifier
from castssl.cli import main
from castssl.data.evaluation_views import CenterView
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.evaluation.classification import Accuracy
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.evaluation.predictions import Level
from castssl.inference.evaluate import confusion_rows, evaluate, numbered, open_labeled
from castssl.inference.evaluate import write as write_files
from castssl.labels import LabelTree
from castssl.objectives.deit import DeiT
from castssl.objectives.tree_kl import TreeKL
from castssl.registry import build
from tests import forked
from tests.datasets.image_files import write

NAMES = [f"{split}/{'abc'[i % 3]}/{i:02}.png" for split in ("train", "val") for i in range(9)]
BROKEN = ("val/a/03.png", "val/c/08.png")
SPEC = "grid:cell=8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images of three classes in each split, two of val unreadable."""
    root = write(tmp_path_factory.mktemp("set"), NAMES)
    for name in BROKEN:
        (root / name).write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    encoder = castssl.create("cast_nano", image_size=32, superpixels=SPEC)
    classes, path = LabelTree.flat("abc"), tmp_path_factory.mktemp("run") / "encoder.safetensors"
    objective = DeiT(encoder, classes)
    torch.nn.init.normal_(objective.model.get_submodule("head").weight)  # type: ignore[arg-type]
    return save_classifier(objective, path, spec="deit", labels=classes)


def recipe_table(weights: Path, images: Any) -> dict[str, float]:
    """The accuracies as recipes/deit_in1k.py computes them."""
    objective = load_classifier(weights).objective
    view, backend = CenterView(32, interpolation="bicubic"), build("superpixels", SPEC)
    evaluation = Evaluation(images, images, backend, view, [Accuracy(-1)], "cpu")
    return evaluation(Subject(objective.branch("base"), objective.predict, objective))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.distributed
def test_the_accuracies_are_the_recipes_and_the_files_agree(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = recipe_table(weights, open_images(f"folder:{folder}", split="val"))
    flags = ["evaluate", str(folder), "--weights", str(weights.parent), "--workers", "0", "--device", "cpu"]
    assert main([*flags, "--out", str(tmp_path / "one")]) == 0
    text = capsys.readouterr().out
    assert "unreadable: a/03.png (not an image, or of an unknown format)" in text
    assert "9 images, 2 of them unreadable" in text
    assert "calibration error" in text
    done = forked.run(["-m", "castssl.cli", *flags, "--out", str(tmp_path / "two")], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    for place in ("one", "two"):
        found = json.loads((tmp_path / place / "results.json").read_text())
        assert {name: found["trained"][name] for name in expected} == expected
        assert found["unreadable"].keys() == {"a/03.png", "c/08.png"}
        predictions = rows(tmp_path / place / "predictions.csv")
        assert [row["path"] for row in predictions] == sorted(name[4:] for name in NAMES if name[:3] == "val")
        assert {row["path"]: row["read"] for row in predictions if row["read"]} == {
            "a/03.png": "a/06.png",
            "c/08.png": "a/00.png",
        }
        right = sum(row["label"] == row["prediction"] for row in predictions)
        assert right / 9 == pytest.approx(expected["top1"])
        confusion = rows(tmp_path / place / "confusion.csv")
        assert sum(int(row[row["true, then predicted"]]) for row in confusion) == right
        classes = rows(tmp_path / place / "classes.csv")
        assert [row["class"] for row in classes] == [*"abc"]
        for row, counts in zip(classes, confusion, strict=True):
            total = sum(int(counts[name]) for name in "abc")
            assert total == int(row["images"])
            assert float(row["recall"]) == pytest.approx(int(counts[row["class"]]) / total)
        for name in ("confusion.png", "reliability.png"):
            assert Image.open(tmp_path / place / name).width > 100
    assert main([*flags, "--out", str(tmp_path / "one")]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_levels_of_a_tree_have_files_each(tmp_path: Path) -> None:
    tree = LabelTree((2, 3), ((0, 0, 1),), (("x", "y"), ("a", "b", "c")))
    torch.manual_seed(1)
    encoder = castssl.create("cast_nano", image_size=32, superpixels=SPEC)
    path = save_classifier(TreeKL(encoder, tree), tmp_path / "w.safetensors", spec="tree-kl", labels=tree)
    root = write(tmp_path / "set", [f"{'abc'[i % 3]}/{i:02}.png" for i in range(6)])
    assert (
        main(["evaluate", str(root), "--weights", str(path), "--workers", "0", "--out", str(tmp_path / "o")])
        == 0
    )
    found = json.loads((tmp_path / "o" / "results.json").read_text())["trained"]
    assert {"fpa", "level0", "level1", "ece_level0", "ece_level1"} <= found.keys()
    predictions = rows(tmp_path / "o" / "predictions.csv")
    assert [row["label0"] for row in predictions] == [*"xxxxyy"]
    share = sum(row["label1"] == row["prediction1"] for row in predictions) / 6
    assert share == pytest.approx(found["level1"])
    assert {"confusion0.csv", "confusion1.png", "reliability1.png"} <= {
        p.name for p in (tmp_path / "o").iterdir()
    }


def test_the_confusion_of_many_classes_is_a_list_of_pairs() -> None:
    predicted = torch.tensor([9999, 1, 9999, 0])
    level = Level(torch.tensor([9999, 0, 9999, -1]), predicted, torch.ones(4))
    names = [f"class {i}" for i in range(10_000)]
    listed = [*confusion_rows(level, names)]
    assert listed == [
        ("true", "predicted", "images"),
        ("class 0", "class 1", 1),
        ("class 9999", "class 9999", 2),
    ]
    few = Level(torch.tensor([1, 0]), torch.tensor([0, 0]), torch.ones(2))
    assert [*confusion_rows(few, "ab")] == [("true, then predicted", "a", "b"), ("a", 1, 0), ("b", 1, 0)]


def test_the_files_of_many_classes_are_small(folder: Path, weights: Path, tmp_path: Path) -> None:
    found = evaluate(load_classifier(weights), open_labeled(f"folder:{folder}", split="val"))
    classes = 10_000
    many = found._replace(labels=LabelTree((classes,), (), (tuple(map(str, range(classes))),)))
    write_files(many, tmp_path / "out")
    listed = rows(tmp_path / "out/confusion.csv")
    assert sum(int(row["images"]) for row in listed) == 9
    assert len(rows(tmp_path / "out/classes.csv")) == classes
    picture = Image.open(tmp_path / "out/confusion.png")
    assert max(picture.size) <= 1100


def test_classes_are_matched_by_name(weights: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "set", ["b/0.png", "c/1.png", "c/2.png"])
    images = numbered(open_labeled(f"folder:{root}"), LabelTree.flat("abc"), "set")
    assert isinstance(images, Images)
    assert images.targets.flatten().tolist() == [1, 2, 2]
    other = write(tmp_path / "other", ["b/0.png", "zebra/1.png"])
    with pytest.raises(DataError, match="classes that the training images lack: zebra"):
        numbered(open_labeled(f"folder:{other}"), LabelTree.flat("abc"), "other")
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "plain" / "x.png")
    found = evaluate(load_classifier(weights), open_labeled(f"folder:{tmp_path / 'plain'}"))
    assert found.results == {}
    assert found.predictions is not None
    assert found.predictions.levels[0].label.tolist() == [-1]
    assert 0 <= int(found.predictions.levels[0].predicted[0]) < 3


def test_a_share_is_that_of_the_recipe(folder: Path) -> None:
    flat = folder / "train"
    shared = open_labeled(f"folder:{flat}", share=0.3, seed=2)
    whole = open_labeled(f"folder:{flat}")
    assert (len(shared), len(whole)) == (3, 9)
    with pytest.raises(DataError, match="no test split"):
        open_labeled(f"folder:{flat}", split="test")
