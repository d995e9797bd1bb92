"""The chain: an encoder is pretrained, then transferred to segmentation and to a taxonomy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.checkpoints import load_encoder
from castssl.contracts import Encoder
from castssl.types import View
from tests.acceptance.conftest import Command
from tests.forked import ROOT
from tests.plugins.packages import Package

pytestmark = pytest.mark.recipe
SUPERPIXELS = ("--superpixels", "seeds:count=16,bins=5,iterations=2")
SIZES = ("--image-size", "32", "--sizes", "16", "8", "4")
LAUNCHER = ("--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no")
COMMON = ("--batch-size", "4", "--workers", "0")
SOURCE = '''
"""A pooling of a stranger."""

import torch

from castssl.contracts import Pooling
from castssl.types import Pooled


class Strided(Pooling):
    """Token i joins token i modulo K."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(dim))

    def forward(self, tokens, size):
        count = tokens.x.shape[1]
        assign = torch.eye(size).repeat(count // size + 1, 1)[:count].to(tokens.x)
        assign = assign * (tokens.mass > 0)[..., None]
        mass = assign.sum(1)[..., None].clamp(min=1)
        return Pooled(assign.transpose(1, 2) @ tokens.x / mass * self.scale, tokens.cls, assign)
'''
POINTS = {"pooling": {"strided": "strangers_pooling:Strided"}}
CONFIG = """
custom_imports = dict(imports=["castssl_mmseg"])
default_scope = "mmseg"
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SuperpixelDataPreProcessor", size=(32, 32)),
    backbone=dict(type="CastEncoder", weights="RUN"),
    decode_head=dict(type="CastHead", in_channels=192, num_classes=3),
    test_cfg=dict(mode="slide", crop_size=(32, 32), stride=(16, 16)),
)
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
crop = [dict(type="RandomCrop", crop_size=(32, 32)), dict(type="PackSegInputs")]
classes = dict(classes=["sky", "sea", "land"])
data = dict(type="BaseSegDataset", data_root="ROOT", img_suffix=".png", metainfo=classes)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        **data,
        data_prefix=dict(img_path="images/train", seg_map_path="labels/train"),
        pipeline=[*load, *crop],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **data,
        data_prefix=dict(img_path="images/val", seg_map_path="labels/val"),
        pipeline=[*load, dict(type="PackSegInputs")],
    ),
)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
val_cfg = dict(type="ValLoop")
val_evaluator = dict(type="IoUMetric")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01))
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1))
log_processor = dict(by_epoch=False)
"""
STRANGER = Package("strangers-pooling", POINTS, {"strangers_pooling.py": SOURCE})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images with label maps of three classes."""
    root, draw = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    (root / "classes.txt").write_text("sky\nsea\nland\n")
    for split, count in (("train", 8), ("val", 2)):
        for number in range(count):
            labels = draw.integers(0, 3, (3, 3)).repeat(16, 0).repeat(12, 1)
            image = np.eye(3)[labels] * 200 + draw.integers(0, 50, (*labels.shape, 3))
            for folder, pixels in (("images", image), ("labels", labels)):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(root / folder / split / f"{number}.png")
    return f"pairs:{root}"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The folder of a run of two steps of MoCo v3, started as the documents do."""
    flags = (*COMMON, *SIZES, *SUPERPIXELS, "--model", "nano", "--hidden", "16", "--out-dim", "8")
    out = tmp_path_factory.mktemp("pretrained") / "moco"
    more = ("--max-steps", "2", "--knn-every", "0", "--out", out)
    recipe = ("recipes/moco_in1k.py", "--data", f"folder:{image_folder}", *flags, *more)
    launcher = (sys.executable, "-m", "accelerate.commands.launch", *LAUNCHER)
    done = subprocess.run([*launcher, *recipe], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def check_tokens(folder: Path | Encoder, pretrained: Path) -> None:
    """The backbone's tokens at all stages are those of the pretrained encoder."""
    at = torch.arange(32) // 8
    view = View(torch.randn(2, 3, 32, 32), (at[:, None] * 4 + at).int().expand(2, 32, 32))
    with torch.no_grad():
        found, expected = (load_encoder(path)(view) for path in (folder, pretrained))
    for own, other in zip(found.stages, expected.stages, strict=True):
        torch.testing.assert_close(own.x, other.x, rtol=0, atol=1e-6)
        torch.testing.assert_close(own.cls, other.cls, rtol=0, atol=1e-6)


def left_out(output: str) -> list[str]:
    """The lines of a report on keys that were left out or begin afresh."""
    words = ("ignored:", "note: not in the weights")
    return [line for line in output.splitlines() if line.startswith(words)]


def test_segmentation_begins_from_a_run(
    pretrained: Path, pairs: str, tmp_path: Path, process: Command
) -> None:
    flags = ("--data", pairs, "--weights", pretrained, *COMMON, "--frozen", "--max-steps", "2")
    done = process("recipes/segment.py", *flags, "--out", tmp_path / "own")
    assert done.code == 0, done.err[-3000:]
    assert left_out(done.out) == []
    check_tokens(tmp_path / "own", pretrained)


def test_a_fusion_alone_is_new(pretrained: Path, pairs: str, tmp_path: Path, process: Command) -> None:
    flags = ("--data", pairs, "--weights", pretrained, *COMMON, "--frozen", "--max-steps", "2")
    named = ("--model", "nano_seg", *SIZES, *SUPERPIXELS)
    done = process("recipes/segment.py", *flags, *named, "--out", tmp_path / "fused")
    assert done.code == 0, done.err[-3000:]
    new, lacking = sorted(left_out(done.out), reverse=True)
    assert new.endswith("begin afresh: fusion.*")
    assert lacking.startswith("ignored: norm.*:"), "a fused encoder has no last norm"
    encoder, source = (load_encoder(path).state_dict() for path in (tmp_path / "fused", pretrained))
    assert all(torch.equal(encoder[name], value) for name, value in source.items() if name in encoder)
    assert not {name for name in source.keys() - encoder.keys() if not name.startswith("norm.")}


def test_a_taxonomy_begins_from_a_run(
    pretrained: Path, image_folder: Path, tmp_path: Path, process: Command
) -> None:
    """Steps move the encoder; its average over them, which two steps hardly move, is what they began from."""
    flags = (*COMMON, *SIZES, *SUPERPIXELS, "--model", "nano", "--epochs", "1", "--warmup-epochs", "0")
    steps = ("--max-steps", "2", "--ema", "0.9999999999", "--branch", "ema")
    more = ("--knn-every", "0", "--weights", pretrained, "--repeats", "1", "--out", tmp_path / "hcast")
    done = process("recipes/hcast.py", "--data", f"folder:{image_folder}", *flags, *steps, *more)
    assert done.code == 0, done.err[-3000:]
    assert left_out(done.out) == []
    check_tokens(tmp_path / "hcast", pretrained)
    log = [json.loads(line) for line in (tmp_path / "hcast" / "log.jsonl").read_text().splitlines()]
    (last,) = (line for line in log if "loss" in line)
    assert last["step"] == 2
    assert last["rate"] > 1e-6


def test_a_strangers_pooling_learns_segmentation(
    pretrained: Path, pairs: str, tmp_path: Path, process: Command
) -> None:
    site = STRANGER.write(tmp_path / "site")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    flags = ("--data", pairs, "--weights", pretrained, *COMMON, "--max-steps", "2", "--pooling", "strided")
    done = process("recipes/segment.py", *flags, "--out", tmp_path / "run", PYTHONPATH=path)
    assert done.code == 0, done.err[-3000:]
    assert "begin afresh: poolings" in done.out
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.fixture
def config(pretrained: Path, pairs: str, tmp_path: Path) -> Path:
    """A config of mmsegmentation whose backbone has the weights of the run."""
    path = tmp_path / "own.py"
    path.write_text(CONFIG.replace("RUN", str(pretrained)).replace("ROOT", pairs.removeprefix("pairs:")))
    return path


def test_mmsegmentation_begins_from_a_run(
    pretrained: Path, config: Path, tmp_path: Path, command: Command
) -> None:
    flags = ("mmseg", "train", config, "--work-dir", tmp_path / "work")
    assert command(*flags).code == 0
    assert (tmp_path / "work" / "iter_2.pth").is_file()
    assert command(*flags, "--resume", "--cfg-options", "train_cfg.max_iters=3").code == 0
    logs = [path.read_text() for path in sorted((tmp_path / "work").glob("*/*.log"))]
    assert left_out(logs[0]) == []
    assert "resumed epoch: 0, iter: 2" in logs[-1]
    assert "mIoU" in logs[-1]
    backbone = import_module("castssl_mmseg").CastEncoder(weights=str(pretrained)).eval()
    assert left_out(str(backbone.report)) == []
    check_tokens(backbone.encoder, pretrained)


def test_a_strangers_pooling_learns_in_mmsegmentation(
    config: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(STRANGER.write(tmp_path / "site")))
    options = ("model.backbone.pooling=strided", "model.backbone.superpixels=grid:cell=8")
    done = command("mmseg", "train", config, "--work-dir", tmp_path / "work", "--cfg-options", *options)
    assert done.code == 0, done.err
    assert (tmp_path / "work" / "iter_2.pth").is_file()


@pytest.mark.usefixtures("forked_jobs")
def test_a_study_compares_poolings_by_miou(pairs: str, tmp_path: Path, command: Command) -> None:
    study = ("ablate", "--recipe", "segment", "--grid", "pooling=graph,tome", "--jobs", "1")
    flags = ("--data", pairs, "--model", "nano", *COMMON, *SIZES, *SUPERPIXELS, "--max-steps", "1")
    done = command(*study, "--out", tmp_path / "study", "--", *flags)
    assert done.code == 0, done.out + done.err
    table = (tmp_path / "study" / "table.md").read_text().splitlines()
    assert next(line for line in table if line.startswith("|")).startswith("| pooling | mIoU |")
    assert [line.split("|")[1].strip() for line in table if line.startswith("|")][2:4] == ["graph", "tome"]
