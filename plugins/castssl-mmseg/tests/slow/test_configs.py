"""Every config, as it is, trains two iterations on a tiny data set in its layout, and validates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mmengine.runner import Runner

from castssl_mmseg_command import CONFIGS

NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))


def test_there_is_one_for_each_data_set_and_model() -> None:
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_two_iterations_and_validates(settings: Callable[..., Any], name: str) -> None:
    config = settings(name, size=(160, 120), **{"train_dataloader.batch_size": 2})
    config.experiment_name = name
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 2
    assert 0 <= runner.message_hub.get_scalar("val/mIoU").current() <= 100
