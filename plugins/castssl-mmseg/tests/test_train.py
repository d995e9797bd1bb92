"""A config trains, validates whole and by windows, and resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner

from castssl.errors import ConfigError
from castssl_mmseg_command import main

Settings = Callable[..., Any]


def train(config: Any, name: str) -> Any:
    """The runner after training; a name for each, since mmengine keeps its loggers."""
    config.experiment_name = name
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def scores(runner: Any) -> float:
    """The mIoU of the last validation."""
    return float(runner.message_hub.get_scalar("val/mIoU").current())


def test_it_trains_validates_by_windows_and_resumes(settings: Settings, tmp_path: Path) -> None:
    mode = {"model.test_cfg.mode": "slide"}
    first = train(settings("cast_small_voc", nano=True, **mode), "first")
    assert first.iter == 2
    assert 0 <= scores(first) <= 100
    history = first.message_hub.log_scalars["train/loss"].data[0]
    weights = {name: value.clone() for name, value in first.model.state_dict().items()}
    config = settings("cast_small_voc", nano=True, **mode)
    config.resume, config.train_cfg.max_iters = True, 3
    config.experiment_name = "second"
    runner = Runner.from_cfg(config)
    runner.load_or_resume()
    assert runner.iter == 2
    assert runner.message_hub.log_scalars["train/loss"].data[0].tolist() == history.tolist()
    assert all(torch.equal(value, weights[name]) for name, value in runner.model.state_dict().items())
    runner.train()
    assert runner.iter == 3


def test_it_validates_on_whole_images(settings: Settings, tmp_path: Path) -> None:
    config = settings("cast_small_voc", nano=True, **{"model.test_cfg.mode": "whole"})
    assert 0 <= scores(train(config, "whole")) <= 100


def test_the_command_trains_a_named_config(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["configs"]) == 0
    assert "cast_small_ade20k" in capsys.readouterr().out
    config = settings("vit_small_ade20k", nano=True, **{"model.backbone.model": "nano_vit_seg"})
    config.model.backbone.update(superpixels="grid:cell=8", sizes=(64,))
    path = tmp_path / "own.py"
    config.dump(path)
    work = tmp_path / "folder"
    flags = ["--work-dir", str(work), "--cfg-options", "train_cfg.max_iters=1"]
    assert main(["train", str(path), *flags]) == 0
    assert (work / "iter_1.pth").is_file()
    with pytest.raises(ConfigError, match="castssl mmseg configs"):
        main(["train", "no_such_config"])
