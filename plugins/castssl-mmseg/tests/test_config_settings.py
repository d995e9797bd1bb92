"""The configs have the settings of the code released with CAST, computed here from its epochs and images."""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import PolyLR

from castssl_mmseg_command import CONFIGS


class Published(NamedTuple):
    """A column of the released Segmenter code's settings; ``steps`` of VOC are those of the VOC code."""

    classes: int
    scale: tuple[int, int]
    crop: int
    stride: int
    batch: int
    lr: float
    steps: int


def epochs(count: int, images: int, batch: int) -> int:
    """Steps of epochs whose last batch may be smaller."""
    return count * ceil(images / batch)


PUBLISHED = {
    "ade20k": Published(150, (2048, 512), 512, 512, 8, 1e-3, epochs(64, 20_210, 8)),
    "pascal_context": Published(60, (4160, 520), 480, 320, 16, 1e-3, epochs(256, 4_996, 16)),
    "cityscapes": Published(19, (2048, 1024), 768, 512, 8, 1e-2, epochs(216, 2_975, 8)),
    "voc": Published(21, (2048, 512), 512, 512, 16, 1e-3, 30_000),
}


def only(pipeline: Any, kind: str) -> Any:
    """The one transform of a type in a pipeline."""
    (found,) = (transform for transform in pipeline if transform.type == kind)
    return found


@pytest.mark.parametrize("data", PUBLISHED)
@pytest.mark.parametrize("model", ["cast_small", "vit_small"])
def test_settings_are_the_published_ones(model: str, data: str) -> None:
    config: Any = Config.fromfile(CONFIGS / f"{model}_{data}.py")
    expected, crop = PUBLISHED[data], (PUBLISHED[data].crop,) * 2
    train, test = config.train_dataloader.dataset.pipeline, config.test_dataloader.dataset.pipeline
    assert only(train, "RandomResize").scale == only(test, "Resize").scale == expected.scale
    assert only(train, "RandomCrop").crop_size == only(train, "Pad").size == crop
    assert config.model.data_preprocessor.size == config.model.test_cfg.crop_size == crop
    assert config.model.test_cfg.stride == (expected.stride,) * 2
    assert config.model.decode_head.num_classes == expected.classes
    assert config.train_dataloader.batch_size == expected.batch
    assert config.train_cfg.max_iters == expected.steps
    assert config.optim_wrapper.optimizer.lr == expected.lr
    assert config.optim_wrapper.optimizer.nesterov
    assert config.test_dataloader == config.val_dataloader
    assert config.model.backbone.sizes[0] == expected.crop**2 // 256
    if model == "cast_small":
        spec = f"seeds:count={expected.crop**2 // 256},bins=5,iterations=15"
        spec += "" if data == "voc" else ",mode=segmenter"
        assert config.model.backbone.superpixels == train[-1].superpixels == spec


def test_the_learning_rate_falls_as_published() -> None:
    steps, lr = 40, 1e-3
    settings = dict(Config.fromfile(CONFIGS / "cast_small_ade20k.py").param_scheduler[0])
    assert settings.pop("type") == "PolyLR"
    assert settings["end"] == epochs(64, 20_210, 8) + 1
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr)
    scheduler = PolyLR(optimizer, **{**settings, "end": steps + 1})
    for step in range(steps):
        expected = (lr - 1e-5) * (1 - step / steps) ** 0.9 + 1e-5
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        scheduler.step()
