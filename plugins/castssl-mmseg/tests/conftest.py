"""Configs with tiny data, which a CPU trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

import castssl_mmseg
from castssl_mmseg_command import CONFIGS

assert castssl_mmseg.__all__
Settings = Callable[..., Any]
QUICK = {
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "train_cfg.max_iters": 2,
    "train_cfg.val_interval": 2,
    "default_hooks.checkpoint.interval": 2,
    "default_hooks.logger.interval": 1,
    "env_cfg.dist_cfg.backend": "gloo",
    "env_cfg.mp_cfg.mp_start_method": "fork",
}
NANO = {
    "model.backbone.model": "nano_seg",
    "model.backbone.superpixels": "seeds:count=64,bins=5,iterations=4",
    "model.backbone.sizes": (64, 32, 16, 8),
    "model.backbone.image_size": 64,
    "model.data_preprocessor.size": (64, 64),
    "model.decode_head.in_channels": 64,
    "model.test_cfg.crop_size": (64, 64),
    "model.test_cfg.stride": (48, 48),
}
"""The same config with a small model and crops of 64 pixels."""


RNG = np.random.default_rng(0)


def _pair(image: Path, label: Path, *, size: tuple[int, int], classes: range) -> None:
    """A photograph-like image of two halves, and their classes."""
    image.parent.mkdir(parents=True, exist_ok=True)
    label.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    split = int(RNG.integers(width // 4, 3 * width // 4))
    pixels = RNG.integers(0, 60, (height, width, 3))
    pixels[:, split:] += 120
    left, right = (int(RNG.integers(classes.start, classes.stop)) for _ in range(2))
    values = np.full((height, width), left)
    values[:, split:] = right
    values[: height // 8] = 255 if 255 not in classes else 0
    Image.fromarray(pixels.astype(np.uint8)).save(image)
    Image.fromarray(values.astype(np.uint8)).save(label)


def ade20k(root: Path, *, size: tuple[int, int]) -> None:
    """``ADEChallengeData2016``: images/training/ADE_train_00000001.jpg, annotations/training/....png."""
    for split, short in (("training", "train"), ("validation", "val")):
        for number in (1, 2):
            name = f"{split}/ADE_{short}_{number:08d}"
            _pair(
                root / f"images/{name}.jpg", root / f"annotations/{name}.png", size=size, classes=range(151)
            )


def pascal_context(root: Path, *, size: tuple[int, int]) -> None:
    """``VOC2010`` with SegmentationClassContext."""
    _voc(
        root,
        "SegmentationContext",
        {"train": "SegmentationClassContext", "val": "SegmentationClassContext"},
        60,
        size,
    )


def voc(root: Path, *, size: tuple[int, int]) -> None:
    """``VOC2012`` with SegmentationClassAug."""
    _voc(root, "Segmentation", {"trainaug": "SegmentationClassAug", "val": "SegmentationClass"}, 21, size)


def _voc(root: Path, lists: str, folders: dict[str, str], classes: int, size: tuple[int, int]) -> None:
    for start, (split, folder) in enumerate(folders.items()):
        names = [f"2008_00000{2 * start + number}" for number in (1, 2)]
        for name in names:
            _pair(
                root / f"JPEGImages/{name}.jpg",
                root / f"{folder}/{name}.png",
                size=size,
                classes=range(classes),
            )
        listed = root / "ImageSets" / lists / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{name}\n" for name in names))


def cityscapes(root: Path, *, size: tuple[int, int]) -> None:
    """leftImg8bit/train/CITY/*_leftImg8bit.png, gtFine/train/CITY/*_gtFine_labelTrainIds.png."""
    for split, city in (("train", "aachen"), ("val", "frankfurt")):
        for number in (0, 1):
            name = f"{split}/{city}/{city}_{number:06d}_000019"
            _pair(
                root / f"leftImg8bit/{name}_leftImg8bit.png",
                root / f"gtFine/{name}_gtFine_labelTrainIds.png",
                size=size,
                classes=range(19),
            )


TREES = {"ade20k": ade20k, "pascal_context": pascal_context, "voc": voc, "cityscapes": cityscapes}


@pytest.fixture(autouse=True)
def scope() -> None:
    """Names of mmsegmentation's modules are found without a prefix."""
    torch.manual_seed(0)
    DefaultScope.get_instance("mmseg", scope_name="mmseg")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The config of a name, for a tiny data set in its layout; ``nano=True`` makes the model tiny, too."""

    def make(name: str, *, nano: bool = False, size: tuple[int, int] = (96, 72), **more: Any) -> Any:
        # A runner formats its config four times, which takes longer than the training.
        config: Any = Config.fromfile(CONFIGS / f"{name}.py", format_python_code=False)
        root = tmp_path / "data"
        if not root.exists():
            TREES[name.split("_small_")[1]](root, size=size)
        options = QUICK | {
            f"{part}.dataset.data_root": str(root) for part in ("train_dataloader", "val_dataloader")
        }
        config.merge_from_dict(options | (NANO if nano else {}) | more)
        if nano:
            _shrink(config)
        config.test_dataloader = config.val_dataloader
        config.work_dir = str(tmp_path / "work")
        # mmengine keeps one visualizer of each name, which writes to the folder of its first run.
        config.visualizer.name = config.work_dir
        return config

    return make


def _shrink(config: Any) -> None:
    """Crops of 64 pixels of images whose shorter side has 64."""
    for pipeline in (config.train_dataloader.dataset.pipeline, config.val_dataloader.dataset.pipeline):
        for transform in pipeline:
            if transform["type"] in ("RandomResize", "Resize"):
                transform["scale"] = (256, 64)
            if transform["type"] == "RandomCrop":
                transform["crop_size"] = (64, 64)
            if transform["type"] == "Pad":
                transform["size"] = (64, 64)
            if transform["type"] == "ComputeSuperpixels":
                transform["superpixels"] = NANO["model.backbone.superpixels"]
