from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from castssl.config import RunConfig
from castssl.training import progress
from castssl.training.configs import PretrainConfig
from castssl.training.progress import LIMIT, Display, Pace, advice, free_cores
from castssl.training.supervised import SupervisedConfig
from tests.plugins.packages import Package
from tests.training.processes import QUICK, Toy, lines


def _console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=120), text


def _pace(images: int = 100, waited: float = 0.5) -> Pace:
    pace = Pace(RunConfig())
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
    pace = Pace(RunConfig())
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
    monkeypatch.setattr(progress, "EVERY", 0.0)
    shown.report(40, "1/5", None, pace)
    monkeypatch.setattr(progress, "EVERY", 1000.0)
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


@dataclass(frozen=True, kw_only=True)
class Recipe(PretrainConfig):
    """A recipe without flags of its own."""

    data: str = "demo"


FAST = Package(
    "castssl-seeds-fast",
    points={"superpixels": {"seeds-fast": "fast_seeds:Fast"}},
    sources={"fast_seeds.py": "class Fast: ..."},
)


def test_a_run_that_waits_says_so_once_with_a_flag(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "slow", f"{QUICK} --slow 0.05")
    assert toy.code() == 0
    found = [line for line in lines(toy.out) if line.get("event") == "waiting"]
    assert len(found) == 1
    assert found[0]["step"] > 1
    assert LIMIT < found[0]["share"] <= 1
    assert "--workers" in found[0]["text"]
    assert toy.output().count("waiting for data: --workers") == 1


def test_a_run_that_does_not_wait_says_nothing(unbroken: Path) -> None:
    assert not [line for line in lines(unbroken) if line.get("event") == "waiting"]


def test_reports_have_the_peak_of_memory(unbroken: Path) -> None:
    peaks = [line["memory_gib"] for line in lines(unbroken) if "loss" in line]
    assert peaks == sorted(peaks)
    assert 0.05 < peaks[0] < 64, "GiB of a process that has imported torch"


def test_the_first_report_does_not_count_and_the_rest_adds_up() -> None:
    pace = Pace(Recipe(workers=0))
    assert pace.note(100.0, 1.0) == ""
    assert pace.share == 0.0
    assert pace.note(90.0, 0.05) == ""
    assert pace.note(10.0, 0.5) == "", "9.5 of 100 seconds"
    output = pace.note(10.0, 0.5)
    assert output.startswith("13% of the time")
    assert pace.share == pytest.approx(14.5 / 110)
    assert pace.note(100.0, 1.0) == "", "it was said"


@pytest.mark.parametrize(
    ("cfg", "free", "word"),
    [
        (Recipe(workers=0), 3, "--workers 3 "),
        (Recipe(workers=0), 0, "--workers 1 "),
        (Recipe(workers=2), 6, "--workers 6 "),
        (Recipe(workers=6), 6, "--superpixels seeds-fast"),
        (Recipe(workers=6, superpixels="seeds-fast"), 6, "--superpixel-cache DIR"),
        (Recipe(workers=6, model="nano"), 6, "--superpixel-cache DIR"),
        (Recipe(workers=6, superpixel_cache="kept"), 6, "faster disk"),
        (Recipe(workers=6, model="vit_small"), 6, "faster disk"),
        (RunConfig(), 6, "faster disk"),
        # RandAugment refuses cached superpixels, so they must not be recommended with it.
        (SupervisedConfig(data="demo", workers=6, model="nano"), 6, "faster disk"),
        (SupervisedConfig(data="demo", workers=6, model="nano", augment="none"), 6, "--superpixel-cache DIR"),
    ],
)
def test_the_flag_that_helps(
    cfg: RunConfig, free: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FAST.write(tmp_path)))
    assert word in advice(cfg, free)


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert free_cores() == 15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_cores() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert free_cores() == 0
