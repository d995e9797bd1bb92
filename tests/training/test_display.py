from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from castssl.training import display
from castssl.training.display import Display, Pace


def _console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=120), text


def _pace(images: int = 100, waited: float = 0.5) -> Pace:
    pace = Pace()
    pace.restart(10.0)
    time.sleep(0.05)
    for _ in range(4):
        pace.add(images // 4)
    pace.measure(10.0 + waited * 0.05)
    return pace


def test_pace_measures_since_the_last_measure() -> None:
    pace = _pace()
    assert 100 / 0.5 < pace.images_per_second <= 100 / 0.05
    assert pace.batches_per_second == pytest.approx(pace.images_per_second / 25)
    assert 0.05 <= pace.waiting <= 0.51
    before = pace.images_per_second
    pace.measure(11.0)
    assert pace.images_per_second == before, "an empty stretch says nothing"


def test_restarting_forgets_a_pause() -> None:
    pace = Pace()
    pace.add(1_000_000)
    pace.restart(99.0)
    pace.add(1)
    time.sleep(0.01)
    pace.measure(99.0)
    assert pace.images_per_second <= 100
    assert pace.waiting == 0.0


def test_without_a_terminal_a_plain_line_comes_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    console, text = _console(False)
    shown = Display(True, console)
    shown.start(0, 100, 1)
    pace = _pace()
    for done in (10, 20, 30):
        shown.report(done, "1/5", 0.25, pace)
    monkeypatch.setattr(display, "EVERY", 0.0)
    shown.report(40, "1/5", None, pace)
    monkeypatch.setattr(display, "EVERY", 1000.0)
    shown.report(90, "1/5", 0.1, pace)
    shown.report(100, "5/5", 0.125, pace)
    lines = text.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 10/100", "step 40/100", "step 100/100"]
    assert "loss 0.2500" in lines[0]
    assert "images/s" in lines[0]
    assert "waiting for data" in lines[0]
    assert lines[2].endswith("0:00:00 left")
    assert "\x1b" not in text.getvalue()


def test_the_time_left_knows_how_many_batches_a_step_takes() -> None:
    console, text = _console(False)
    shown = Display(True, console)
    shown.start(0, 1000, 4)
    pace = _pace()
    pace.batches_per_second = 8.0
    shown.report(280, "1/5", 0.25, pace)
    assert text.getvalue().rstrip().endswith("0:06:00 left")


def test_on_a_terminal_there_is_a_bar_with_the_figures() -> None:
    console, text = _console(True)
    shown = Display(True, console)
    shown.start(20, 100, 1)
    shown.report(30, "2/5", 0.25, _pace())
    shown.say("a [line] above")
    shown.step(31)
    shown.stop()
    shown.stop()
    output = text.getvalue()
    assert "31/100" in output
    assert "epoch 2/5" in output
    assert "loss 0.2500" in output
    assert "a [line] above" in output


def test_other_ranks_show_nothing() -> None:
    console, text = _console(True)
    shown = Display(False, console)
    shown.start(0, 10, 1)
    shown.report(10, "1/1", 0.5, _pace())
    shown.say("x")
    shown.stop()
    assert text.getvalue() == ""
