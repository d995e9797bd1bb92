"""Curves of logs: places, pauses, damage and thinning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castssl.training.history import Curve, read_history
from castssl.training.runs import columns, number, summarize
from tests.training.processes import reports


def write(folder: Path, *lines: dict[str, Any] | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "log.jsonl").write_text("".join(f"{text}\n" for text in texts))
    return folder


def report(time: float, step: int, **values: float) -> dict[str, Any]:
    return {"time": time, "step": step, "images_per_second": 9.0, **values}


def test_a_real_log(unbroken: Path) -> None:
    history = read_history(unbroken)
    expected = [(line["step"], line["epoch"], line["loss"]) for line in reports(unbroken) if "loss" in line]
    loss = history.training["loss"]
    assert list(zip(loss.steps, loss.epochs, loss.values, strict=True)) == expected
    assert loss.hours == sorted(loss.hours)
    assert loss.hours[-1] <= history.hours < 0.1
    assert [start["after"] for start in history.starts] == [0]


def test_results_have_the_epoch_of_their_step_and_pauses_do_not_count(tmp_path: Path) -> None:
    lines = [
        {"time": 0.0, "event": "start", "after": 0},
        report(3600.0, 10, epoch=1.0, loss=2.0),
        {"time": 7200.0, "step": 15, "knn": 0.25},
        {"time": 7200.0, "event": "stopped", "step": 15},
        {"time": 90000.0, "event": "start", "after": 15},
        report(93600.0, 20, epoch=2.0, loss=1.0),
        {"time": 10.0, "step": 20, "knn": 0.5},
    ]
    history = read_history(write(tmp_path, *lines))
    knn = history.measured["knn"]
    assert (knn.steps, knn.epochs, knn.values) == ([15.0, 20.0], [1.5, 2.0], [0.25, 0.5])
    assert history.training["loss"].hours == [1.0, 3.0]
    assert history.hours == knn.hours[-1] == 3.0, "a clock that goes back stands still"
    assert [event["event"] for event in history.events] == ["stopped"]


def test_results_with_other_evaluation_settings_are_a_curve_of_their_own(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"time": 0.0, "event": "start", "measured_with": " --val folder:a"},
        {"time": 1.0, "step": 1, "knn": 0.75, "top1": 0.5},
        {"time": 2.0, "event": "start", "measured_with": ""},
        report(3.0, 2, loss=1.0),
        {"time": 3.0, "step": 2, "knn": 0.25},
        {"time": 4.0, "event": "start", "measured_with": " --val folder:a"},
        {"time": 5.0, "step": 3, "knn": 0.5},
    ]
    history = read_history(write(tmp_path / "a", *lines))
    assert (history.settings, {*history.measured}) == (" --val folder:a", {"knn", "top1"})
    assert (history.measured["knn"].steps, history.measured["knn"].values) == ([1.0, 3.0], [0.75, 0.5])
    assert {name: part["knn"].values for name, part in history.earlier.items()} == {"": [0.25]}
    found = summarize(tmp_path / "a")
    assert (found.results, found.measured_with) == ({"knn": 0.5, "top1": 0.5}, " --val folder:a")
    found = summarize(write(tmp_path / "b", *lines[:5]))
    assert (found.results, found.measured_with) == ({"knn": 0.25}, ""), "nothing of the other --val"
    unknown = read_history(write(tmp_path / "c", {"time": 0.0, "event": "start"}, *lines[1:2], *lines[5:]))
    assert unknown.measured["knn"].values == [0.75, 0.5], "a start of an earlier version"
    assert not unknown.earlier
    odd = read_history(write(tmp_path / "d", {"time": 0.0, "event": "start", "measured_with": [1]}, lines[1]))
    assert (odd.settings, odd.measured["knn"].values) == ("", [0.75])


def test_what_is_no_number_has_no_point(tmp_path: Path) -> None:
    deep = '{"time": 1, "step": 2, "images_per_second": 1, "loss": ' + "[" * 100_000
    lines = [
        "\0\0\0",
        deep,
        '{"time": 1, "step": 1, "images_per_second": 1, "loss": NaN, "match": true, "rate": "x"}',
        '{"time": 2, "step": "x", "epoch": [], "images_per_second": null, "loss": 3}',
        f'{{"time": 3, "step": 3, "images_per_second": 1, "loss": 1{"0" * 400}}}',
        '{"time": NaN, "step": 4, "images_per_second": 1, "loss": 7}',
        '{"time": 5, "step": 5, "images_per_second": 1, "lo',
    ]
    folder = write(tmp_path, *lines)
    history = read_history(folder)
    assert history.training["loss"].values == [3.0]
    assert history.training.keys() == {"loss", "images_per_second"}
    found = summarize(folder)
    assert (found.state, found.step, found.epoch) == ("stopped", 3, 0.0)
    assert [number(value) for value in (True, None, "1", float("inf"), 10**400, 2)] == [None] * 5 + [2.0]


def test_results_before_the_end_are_those_that_a_run_keeps(tmp_path: Path) -> None:
    assert columns(tmp_path) == {}
    (tmp_path / "once.json").write_text('{"untrained": {"knn": 0.25, "bad": "x"}, "other": 3}')
    assert columns(tmp_path) == {"untrained": {"knn": 0.25}}
    (tmp_path / "once.json").write_text(
        '{"untrained": {"knn": 0.5}, "untrained --val a --b": {"knn": 0.25}, "pixels --val a": {"knn": 0}}'
    )
    assert columns(tmp_path) == {"untrained": {"knn": 0.25}, "pixels": {"knn": 0.0}}, "the latest settings"
    assert columns(tmp_path, "") == {"untrained": {"knn": 0.5}}
    assert columns(tmp_path, " --val a") == {"pixels": {"knn": 0.0}}
    (tmp_path / "once.json").write_text('{"untrained": {"knn": 0.25}}')
    (tmp_path / "results.json").write_text('{"trained": {"knn": 1}')
    assert columns(tmp_path) == {"untrained": {"knn": 0.25}}, "a half-written file"
    (tmp_path / "results.json").write_text('{"trained": {"knn": 1}}')
    assert columns(tmp_path) == {"trained": {"knn": 1.0}}


@pytest.mark.parametrize("count", [3, 499, 500, 501, 12_345])
def test_a_thinned_curve_keeps_its_ends_and_its_extremes(count: int) -> None:
    values = np.random.default_rng(0).standard_normal(count).tolist()
    steps = [float(step) for step in range(count)]
    thin = Curve(steps, steps, steps, values).thinned()
    assert len(thin.values) <= 500
    assert (len(thin.values) == count) is (count <= 500)
    assert (thin.steps[0], thin.steps[-1]) == (0.0, count - 1.0)
    assert (min(thin.values), max(thin.values)) == (min(values), max(values))
    assert thin.steps == sorted(set(thin.steps))
    assert all(values[int(step)] == value for step, value in zip(thin.steps, thin.values, strict=True))
