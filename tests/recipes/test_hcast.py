"""Recognition at all levels: each method for a few steps, continued, on two processes, and refused."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from castssl.cli import main
from castssl.config import read
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.datasets.images import Images
from castssl.evaluation.texts_only import texts_only
from castssl.registry import build_superpixels
from recipes import hcast
from tests.datasets.free_grain_files import TREE, write_imagenet_f
from tests.forked import ENVIRONMENT
from tests.recipes.conftest import Runner, keeps_what_it_leaves

pytestmark = pytest.mark.recipe
FLAGS = [
    *("--image-size", "32", "--batch-size", "16", "--lr", "0.3", "--warmup-epochs", "1", "--epochs", "3"),
    *("--workers", "0", "--repeats", "1"),
]
NANO = [
    *("--model", "nano", "--sizes", "16", "8", "4", "--superpixels", "seeds:count=16,bins=5,iterations=2")
]
MARKS = {"fpa", "level0", "level1", "wap", "tice"}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, recipe: Runner) -> Path:
    """The folder of a run of three epochs, never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    flags = [*FLAGS, *NANO, "--ema", "0.5", "--free-grain", "0.3", "--out", str(out)]
    done = recipe("hcast", "--data", f"folder:{image_folder}", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(word in done.stdout for word in ("trained", "best", "untrained", "chance", "FPA", "TICE"))
    return out


def test_a_run_leaves_marks_of_paths_and_of_segments(whole: Path) -> None:
    found = json.loads((whole / "results.json").read_text())
    assert found["trained"].keys() >= MARKS
    assert {"knn", "object_iou_4", "region_iou_4"} <= found["trained"].keys()
    assert found["best"]["fpa"] == max(line["fpa"] for line in lines(whole) if "fpa" in line)
    assert found["trained"]["fpa"] <= min(found["trained"]["level0"], found["trained"]["level1"])
    assert found["chance"]["fpa"] == pytest.approx(1 / (4 * 8))


def test_castssl_evaluate_gives_the_final_table(whole: Path, image_folder: Path, tmp_path: Path) -> None:
    flags = ["--weights", str(whole), "--workers", "0", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["evaluate", f"folder:{image_folder}", *flags]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    recipe = json.loads((whole / "results.json").read_text())
    shared = found["trained"].keys() & recipe["trained"].keys()
    assert {"fpa", "level1"} <= shared
    assert {name: found["trained"][name] for name in shared} == {
        name: recipe["trained"][name] for name in shared
    }


def test_stopped_and_continued_ends_where_it_would_have(
    whole: Path, tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    """Within an epoch: mixing, missing labels and the average go on as if nothing had happened."""
    flags = [*FLAGS, *NANO, "--ema", "0.5", "--free-grain", "0.3", "--out", str(tmp_path)]
    for limit in ("4", "0"):
        done = recipe("hcast", "--data", f"folder:{image_folder}", *flags, "--max-steps", limit)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on after step 4" in done.stderr
    expected, got = (load_file(folder / "encoder.safetensors") for folder in (whole, tmp_path))
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    keeps_what_it_leaves(tmp_path)


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("hcast:weight=0,norm=each", NANO),
        ("flat-cast", NANO),
        ("hier-vit", ["--model", "nano_vit", "--sizes", "16", "16", "16"]),
        ("taxon-ssl", NANO),
        ("transhp", ["--model", "nano_vit", "--sizes", "16", "16", "16"]),
        ("fgn", ["--model", "timm:resnet10t"]),
        ("hrn", ["--model", "timm:resnet10t"]),
    ],
)
def test_each_method_trains(
    method: str, model: list[str], tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    flags = [*FLAGS, *model, "--method", method, "--out", str(tmp_path), "--max-steps", "2"]
    done = recipe(
        "hcast", "--data", f"folder:{image_folder}", *flags, "--knn-every", "0", "--eval-every", "0"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trained = json.loads((tmp_path / "results.json").read_text())["trained"]
    assert trained.keys() >= MARKS
    assert ("fpa_hie" in trained) == method.startswith("flat")


@pytest.mark.distributed
def test_two_processes_begin_with_another_run_s_encoder(
    whole: Path, tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    flags = [*FLAGS, *NANO, "--weights", str(whole), "--out", str(tmp_path), "--max-steps", "2"]
    done = recipe("hcast", "--data", f"folder:{image_folder}", *flags, "--knn-every", "0", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert lines(tmp_path)[0]["processes"] == 2
    (fpa,) = [line["fpa"] for line in lines(tmp_path) if "fpa" in line]
    assert json.loads((tmp_path / "results.json").read_text())["trained"]["fpa"] == pytest.approx(fpa)


def learned(data: str, *flags: str) -> dict[str, torch.Tensor]:
    """The loss and the gradients of the recipe's objective for its first batch of images."""
    cfg = read(hcast.Config, ["--data", data, *FLAGS, *NANO, *flags])
    images, _ = hcast.open_both(cfg)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    superpixels, objective = (
        build_superpixels(cfg.encoder(hcast.SEEDS)),
        hcast.make_objective(cfg, images.tree),
    )
    loader = load(images, views=hcast.make_views(cfg), superpixels=superpixels, **cfg.loading())
    loss = objective.train()(to_views(next(iter(loader)), superpixels, "cpu")).loss
    torch.autograd.backward(loss)
    found = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


@pytest.mark.parametrize("flags", [(), ("--mixup", "0.8", "--cutmix", "1", "--smoothing", "0.1")])
def test_hidden_labels_do_not_matter_to_the_bit(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Another class below the known one stands in the list: the loss and all gradients stay the same."""
    write_imagenet_f(tmp_path, tmp_path)
    data, listed = f"imagenet-f:{tmp_path}", tmp_path / "imagenet-F-train.txt"
    expected, draw, changed = learned(data, *flags), random.Random(0), []
    for line in listed.read_text().splitlines():
        name, basic, middle, fine, given = line.split()
        depth = 1 + (int(given) >= 2) + (int(given) >= 5)
        known = (int(basic), int(middle), int(fine))[:depth]
        below = [(top, mid, leaf) for leaf, mid, top in TREE if (top, mid, leaf)[:depth] == known]
        changed.append(" ".join([name, *map(str, draw.choice(below)), given]))
    assert changed != listed.read_text().splitlines()
    listed.write_text("\n".join(changed))
    found = learned(data, *flags)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    full = learned(f"imagenet-3l:{tmp_path}", *flags)
    assert not torch.equal(full["loss"], expected["loss"])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """Texts of two of three training images, in the released form; a word for the number of the image."""
    path = tmp_path_factory.mktemp("texts") / "captions.txt"
    images = sorted((image_folder / "train").rglob("*.png"))
    numbers = ["zero", "one", "two", "three", "four", "five"]
    written = [
        f"train/{image.relative_to(image_folder / 'train').as_posix()}, a {numbers[int(image.stem)]}\n"
        for at, image in enumerate(images)
        if at % 3
    ]
    path.write_text("".join(written))
    return path


def test_texts_are_embedded_once_and_left_out_of_the_result(
    texts: Path, tmp_path: Path, image_folder: Path, recipe: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and continued, too; --free-grain 1 hides all fine labels."""
    monkeypatch.setitem(ENVIRONMENT, "CASTSSL_CACHE", str(tmp_path / "cache"))
    texts = Path(shutil.copy(texts, tmp_path))
    flags = [*FLAGS, *NANO, "--free-grain", "1", "--epochs", "2", "--knn-every", "0", "--eval-every", "0"]
    flags += ["--texts", str(texts), "--text-encoder", "words:16"]
    data = f"folder:{image_folder}"
    done = recipe("hcast", "--data", data, *flags, "--out", str(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{texts}: 32 of 48 images have a text" in done.stdout
    (store,) = (tmp_path / "cache").glob("texts-*.safetensors")
    before = store.stat().st_mtime_ns
    for limit in ("2", "0"):
        done = recipe("hcast", "--data", data, *flags, "--out", str(tmp_path / "parts"), "--max-steps", limit)
        assert done.returncode == 0, done.stderr[-3000:]
    assert store.stat().st_mtime_ns == before
    expected, got = (load_file(tmp_path / run / "encoder.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert not any("text" in name for name in expected)
    assert all(line["text"] > 0 for line in lines(tmp_path / "whole") if "loss" in line)
    given = ["--weights", str(tmp_path / "whole"), "--workers", "0", "--device", "cpu"]
    assert main(["evaluate", data, *given, "--out", str(tmp_path / "evaluated")]) == 0
    texts.write_text(texts.read_text().replace("one", "eleven"))
    done = recipe("hcast", "--data", data, *flags, "--out", str(tmp_path / "parts"), "--max-steps", "0")
    assert done.returncode != 0
    assert "other texts of the images" in done.stderr


def test_the_texts_of_held_out_images_are_their_own(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path))
    flags = [*FLAGS, *NANO, "--data", "demo:size=32,per_class=6,surroundings=fixed", "--texts", "demo:0"]
    for held, split in (
        ([], "val"),
        (["--val-share", "0.4"], "train"),
        (["--val", f"folder:{image_folder}"], ""),
    ):
        cfg = read(hcast.Config, [*flags, *held])
        images, held_out = hcast.open_both(cfg)
        assert isinstance(held_out, Images)
        images = hcast.with_texts(cfg, images)
        own = {"texts": texts_only(images, hcast.with_texts(cfg, held_out, split))} if split else {}
        assert hcast.measure_texts(cfg, images, held_out) == own


def test_pseudo_labels_go_on_where_they_were(tmp_path: Path, image_folder: Path, recipe: Runner) -> None:
    """taxon-ssl within an epoch: the averages, the confidences and the rising share are in the checkpoint."""
    flags = [*FLAGS, *NANO, "--method", "taxon-ssl:memory=40,rise=1,hidden=16", "--free-grain", "0.5"]
    flags += ["--epochs", "2", "--knn-every", "0", "--eval-every", "0", "--optimizer", "sgd-nesterov"]
    for name, limits in (("whole", ("0",)), ("parts", ("2", "0"))):
        for limit in limits:
            out = ("--out", str(tmp_path / name), "--max-steps", limit)
            done = recipe("hcast", "--data", f"folder:{image_folder}", *flags, *out)
            assert done.returncode == 0, done.stderr[-3000:]
    expected, got = (load_file(tmp_path / run / "encoder.safetensors") for run in ("whole", "parts"))
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (["--method", "hkast"], "no method 'hkast'"),
        (["--data", "cub:/nowhere"], "/nowhere"),
        (["--weights", "/nowhere"], "/nowhere"),
        (["--texts", "/nowhere.csv"], "there is no file of texts /nowhere.csv"),
        (["--texts", "demo"], "expected demo or demo:NOISE"),
        (["--method", "hcast:text_dim=7"], "text_dim is that of --texts and --text-encoder, got"),
        (["--texts", "README.md", "--method", "fgn"], "--texts is for hcast, hier-vit and taxon-ssl"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(
    flags: list[str], output: str, tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    done = recipe("hcast", "--data", f"folder:{image_folder}", *FLAGS, *NANO, "--out", str(tmp_path), *flags)
    assert done.returncode in (1, 2)
    assert output in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("checkpoints/*"))
