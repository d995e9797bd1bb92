"""Transfer to segmentation: a few steps for real, continued, on two processes, by windows, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints import load_encoder
from castssl.checkpoints.native import save_encoder
from castssl.checkpoints.segmenter import HEAD, load_segmenter
from castssl.cli import main
from castssl.errors import DataError
from castssl.evaluation.windows import Windows
from castssl.models.create import create
from castssl.types import View
from tests import forked
from tests.recipes.conftest import Runner, keeps_what_it_leaves

pytestmark = pytest.mark.recipe
SEEDS = "seeds:count=64,bins=5,iterations=2"
FLAGS = ["--batch-size", "4", "--epochs", "2", "--workers", "0", "--image-size", "32"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder as a finished run of pretraining leaves it: not made for segmentation."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    return save_encoder(create("nano", superpixels=SEEDS, image_size=32), path)


def state(folder: Path) -> dict[str, Any]:
    """Of the last checkpoint."""
    found: dict[str, Any] = torch.load(max((folder / "checkpoints").iterdir()), weights_only=True)["module"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, weights: Path, pairs: str, recipe: Runner) -> Path:
    """The folder of a run of two epochs, never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = recipe("segment", "--data", pairs, "--weights", str(weights.parent), *FLAGS, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(word in done.stdout for word in ("mIoU", "boundary F", "pixel accuracy", "untrained", "bound"))
    found = json.loads((out / "results.json").read_text())
    assert found["chance"]["miou"] < found["majority"]["pixel_accuracy"] < found["bound"]["miou"] <= 1
    keeps_what_it_leaves(out)
    return out


def test_the_classes_of_pixels_are_learned(weights: Path, pairs: str, recipe: Runner, tmp_path: Path) -> None:
    flags = [*FLAGS, "--lr", "0.01", "--epochs", "20", "--eval-every", "0"]
    done = recipe("segment", "--data", pairs, "--weights", str(weights), *flags, "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "a" / "results.json").read_text())
    assert found["trained"]["miou"] > found["untrained"]["miou"] + 0.2


def test_the_run_leaves_encoder_and_head(whole: Path) -> None:
    saved, segmenter = state(whole), load_segmenter(whole)
    for name, value in load_encoder(whole).state_dict().items():
        assert torch.equal(saved[f"model.encoder.{name}"], value)
    for name, value in segmenter.model.head.state_dict().items():
        assert torch.equal(saved[f"model.{HEAD}{name}"], value)
    assert segmenter.labels.names == (("sky", "sea", "land"),)
    assert segmenter.palette == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert segmenter.shorter == 32


def test_class_maps_have_the_size_of_the_image(
    whole: Path, weights: Path, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = next(Path(pairs.removeprefix("pairs:"), "images", "val").iterdir())
    arguments = ["segment", str(photo), "--out", str(tmp_path), "--classes", "--weights"]
    assert main([*arguments, str(whole), "--window", "24", "--stride", "16", "--device", "cpu"]) == 0
    found = castssl.segment_classes(photo, whole, windows=Windows(24, 16))
    written = Image.open(tmp_path / f"{photo.stem}-classes.png")
    assert written.mode == "P"
    assert written.size == found.image.size == Image.open(photo).size
    assert np.array_equal(np.asarray(written), found.labels.numpy())
    assert written.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # type: ignore[index]
    assert Image.open(tmp_path / f"{photo.stem}-overlay.png").size == written.size
    assert sum(found.shares().values()) == pytest.approx(1)
    once = ["--window", "24", "--stride", "16", "--superpixels-once", "--overwrite"]
    assert main([*arguments, str(whole), *once, "--device", "cpu"]) == 0
    cut = castssl.segment_classes(photo, whole, windows=Windows(24, 16, once=True)).labels.numpy()
    assert not np.array_equal(cut, found.labels.numpy())
    with Image.open(tmp_path / f"{photo.stem}-classes.png") as written:
        assert np.array_equal(np.asarray(written), cut)
    assert main([*arguments, str(whole), "--superpixels-once"]) == 1
    assert main([*arguments[:4], "--superpixels-once", "--weights", str(whole)]) == 1
    assert "need --window" in (errors := capsys.readouterr().err)
    assert "add --classes" in errors
    assert main([*arguments, str(weights)]) == 1
    assert "without a head for segmentation; recipes/segment.py" in capsys.readouterr().err
    with pytest.raises(DataError, match="an encoder without a head for segmentation"):
        castssl.segment_classes(photo, weights)


def test_a_stopped_run_goes_on_exactly(
    whole: Path, weights: Path, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    """One epoch, which a second start continues to two; a wrong label map stops the run before each."""
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS, "--out", str(tmp_path / "run")]
    flags += ["--save-every", "1", "--keep", "99"]
    path = Path(pairs.removeprefix("pairs:"), "labels", "train", "1.png")
    intact = path.read_bytes()

    def refused() -> None:
        Image.fromarray(np.asarray(Image.open(path)) + np.uint8(2)).save(path)
        done = recipe("segment", *flags)
        path.write_bytes(intact)
        assert done.returncode == 1
        assert f"{path} has the value 4" in done.stderr, done.stderr[-3000:]

    refused()
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert recipe("segment", *flags).returncode == 0
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == 6
    for checkpoint in checkpoints[2:]:
        checkpoint.unlink()
    refused()  # The check of all label maps is done once, so this one is met in training.
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) >= 2
    assert recipe("segment", *flags).returncode == 0
    for name, value in state(whole).items():
        assert torch.equal(state(tmp_path / "run")[name], value), name


@pytest.mark.parametrize("head", ["linear", "fused", "segmenter", "queries"])
def test_a_frozen_encoder_has_the_tokens_of_its_run(
    head: str, weights: Path, pairs: str, tmp_path: Path
) -> None:
    """And windows of both kinds measure, and with ``--compile`` each step calls what is compiled."""
    more = ["--window", "24", "--stride", "16", *(["--superpixels-once"] if head == "linear" else [])]
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS, "--frozen", "--head", head, *more]
    count = ["tests/recipes/count_compiled.py", str(tmp_path / "calls"), "recipes/segment.py"]
    done = forked.run([*count, *flags, "--compile", "--epochs", "1", "--out", str(tmp_path / "run")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "calls").read_text() == "3"
    at = torch.arange(32) // 4
    view = View(torch.randn(1, 3, 32, 32), (at[:, None] * 8 + at).int()[None])
    with torch.no_grad():
        ours, theirs = (load_encoder(path).dense(view).x for path in (tmp_path / "run", weights))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_mask_queries_learn_resume_and_segment(
    weights: Path, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    """A run that loses its last checkpoint ends as before, also in what it draws for masked attention."""
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS, "--head", "queries", "--lr", "0.002"]
    flags += [
        "--eval-every",
        "0",
        "--log-every",
        "1",
        "--save-every",
        "1",
        "--keep",
        "99",
        "--out",
        str(tmp_path / "run"),
    ]
    assert recipe("segment", *flags).returncode == 0
    first, log = state(tmp_path / "run"), (tmp_path / "run" / "log.jsonl").read_text()
    losses = [row["loss"] for row in map(json.loads, log.splitlines()) if "loss" in row]
    assert losses[-1] < losses[0]
    for checkpoint in sorted((tmp_path / "run" / "checkpoints").iterdir())[3:]:
        checkpoint.unlink()
    (tmp_path / "run" / "results.json").unlink()
    assert recipe("segment", *flags).returncode == 0
    assert first["queries.keep"].tolist() == [0.0] * 3
    for name, value in state(tmp_path / "run").items():
        assert torch.equal(value, first[name]), name
    photo = next(Path(pairs.removeprefix("pairs:"), "images", "val").iterdir())
    arguments = ["segment", str(photo), "--out", str(tmp_path), "--classes", "--weights"]
    assert main([*arguments, str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert Image.open(tmp_path / f"{photo.stem}-classes.png").size == Image.open(photo).size


@pytest.mark.parametrize("pooling", [[], ["--pooling", "tome"]])
def test_a_named_model_takes_over_what_the_weights_have(
    pooling: list[str], weights: Path, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    """The fusion and a pooling of another kind begin afresh, and the report lists them."""
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS, "--frozen", "--model", "nano_seg", *pooling]
    more = ["--superpixels", "grid:cell=4", "--max-steps", "1", "--out", str(tmp_path / "run")]
    done = recipe("segment", *flags, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "begin afresh: fusion.*" in done.stdout
    encoder, source = load_encoder(tmp_path / "run"), load_encoder(weights)
    assert encoder.config.superpixels == "grid:cell=4"
    assert encoder.config.pooling == (pooling[1] if pooling else "graph")
    kept = [name for name in source.state_dict() if not pooling or not name.startswith("poolings.")]
    own = encoder.state_dict()
    for name in set(kept) & set(own):
        assert torch.equal(own[name], source.state_dict()[name]), name
    assert all(name.startswith(("fusion.", "poolings.")) for name in set(own) - set(kept))


def test_two_processes_train_and_measure(pairs: str, weights: Path, recipe: Runner, tmp_path: Path) -> None:
    flags = ["--data", pairs, "--weights", str(weights), *FLAGS, "--precision", "bf16"]
    done = recipe("segment", *flags, "--head", "segmenter", "--out", str(tmp_path / "run"), processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["trained"]["miou"] >= 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "type --weights RUN to transfer an encoder, or --model NAME for a new one"),
        (["--model", "nano", "--frozen"], "give --weights"),
        (["--model", "nano", "--window", "8", "--stride", "9"], "the stride is 1 to 8"),
        (["--model", "nano", "--superpixels-once"], "need --window"),
        (["--model", "nano", "--superpixels", "grid:cell=2"], "room for 64"),
        (["--model", "nano", "--head", "queries", "--mean", "process"], "leave --mean out"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], words: str, pairs: str, recipe: Runner, tmp_path: Path
) -> None:
    done = recipe("segment", "--data", pairs, *FLAGS, *flags, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert words in done.stderr


def test_data_without_label_maps_is_refused(image_folder: Path, recipe: Runner, tmp_path: Path) -> None:
    data = ["--data", f"folder:{image_folder}", "--model", "nano"]
    done = recipe("segment", *data, *FLAGS, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "label maps" in done.stderr
