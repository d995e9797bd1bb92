from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from castssl.errors import CastError, ConfigError
from castssl.training import logging
from castssl.training.logging import Log, Means, best, check_tracker


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / logging.FILE).read_text().splitlines()]


def test_a_line_is_on_the_disk_at_once_and_is_strict_json(tmp_path: Path) -> None:
    output = Log(tmp_path)
    output.write(step=3, loss=0.123456789, name="a\nb", bad=math.nan, worse=-math.inf, argv=["x"])
    (line,) = _lines(tmp_path)
    assert line.pop("time") > 1e9
    assert line == {"step": 3, "loss": 0.123457, "name": "a\nb", "bad": None, "worse": None, "argv": ["x"]}


def test_a_log_goes_on_where_a_checkpoint_was_made(tmp_path: Path) -> None:
    first = Log(tmp_path)
    first.write(step=1)
    place = first.position()
    first.write(step=2)
    first.close()
    second = Log(tmp_path)
    second.rewind(place)
    second.write(step=22)
    assert second.position() == (tmp_path / logging.FILE).stat().st_size
    assert [line["step"] for line in _lines(tmp_path)] == [1, 22]


def test_a_log_that_was_shortened_is_left_alone(tmp_path: Path) -> None:
    output = Log(tmp_path)
    output.rewind(1000)
    output.write(step=1)
    assert len(_lines(tmp_path)) == 1


def test_a_line_without_its_end_is_cut_off(tmp_path: Path) -> None:
    output = Log(tmp_path)
    output.write(step=1)
    output.close()
    with open(tmp_path / logging.FILE, "ab") as file:
        file.write(b'{"time": 1, "st')
    Log(tmp_path).write(step=2)
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2]


def test_without_a_folder_nothing_happens() -> None:
    silent = Log(None)
    silent.write(step=1)
    silent.rewind(0)
    assert silent.position() == 0
    silent.close()


def test_a_link_in_place_of_the_log_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("a line\nhalf a li")
    (tmp_path / logging.FILE).symlink_to(other)
    with pytest.raises(CastError, match=r"log\.jsonl \(it is a link\); remove"):
        Log(tmp_path)
    assert other.read_text() == "a line\nhalf a li"


def test_means_are_over_what_came_since_the_last_time() -> None:
    means = Means()
    assert means.take(torch.device("cpu")) == {}
    means.add({"b": torch.tensor(1.0), "a": torch.tensor(10, dtype=torch.int64)})
    means.add({"b": torch.tensor(2.0, dtype=torch.float64)})
    assert means.take(torch.device("cpu")) == {"a": 10.0, "b": 1.5}
    means.add({"b": torch.tensor(7.0)})
    assert means.take(torch.device("cpu")) == {"b": 7.0}


def test_means_do_not_follow_a_tensor_that_changes_later() -> None:
    means, value = Means(), torch.tensor(1.0)
    means.add({"a": value})
    value += 5
    assert means.take(torch.device("cpu")) == {"a": 1.0}


def test_a_missing_tracker_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tracker("none")
    monkeypatch.setitem(logging.TRACKERS, "wandb", ("no_such_package_of_wandb",))
    with pytest.raises(ConfigError, match=r"--track wandb .*: .*pip install no_such_package_of_wandb"):
        check_tracker("wandb")
    with pytest.raises(ConfigError, match="expected one of none, tensorboard, wandb, trackio, mlflow"):
        check_tracker("wandv")


def test_the_best_report_is_found_among_those_that_count(tmp_path: Path) -> None:
    assert best(tmp_path, "top1") == {}
    output = Log(tmp_path)
    for step, top1 in ((1, 0.25), (2, 0.5), (3, 0.125)):
        output.write(step=step, top1=top1)
    output.write(step=3, loss=9.0, top1=float("nan"))
    assert best(tmp_path, "top1") == {"top1": 0.5}
    position = output.position()
    output.write(step=4, top1=1.0)
    output.rewind(position)
    assert best(tmp_path, "top1") == {"top1": 0.5}
    assert best(tmp_path, "top5") == {}
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(bytes(100) + b'\n{"top1": 0.75}\n{"to')
    assert best(tmp_path, "top1") == {"top1": 0.75}


def test_the_best_report_is_of_the_settings_of_the_last_start(tmp_path: Path) -> None:
    output = Log(tmp_path)
    output.write(event="start")  # As earlier versions wrote it.
    output.write(step=1, miou=0.25)
    window = " --window 512"
    for settings, before, measured, after in (
        ("", 0.25, 0.75, 0.75),
        (window, 0.25, 0.5, 0.5),
        ("", 0.75, 0.625, 0.75),
        (window, 0.5, 0.375, 0.5),
    ):
        output.write(event="start", measured_with=settings)
        assert best(tmp_path, "miou") == {"miou": before}
        output.write(step=2, miou=measured)
        assert best(tmp_path, "miou") == {"miou": after}
