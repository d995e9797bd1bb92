from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from castssl.config import RunConfig
from castssl.training.configs import PretrainConfig
from castssl.training.supervised import SupervisedConfig
from castssl.training.waiting import LIMIT, WaitingMonitor, advice, free_cores
from tests.plugins.packages import Package
from tests.training.processes import QUICK, Toy, lines


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
    patience = WaitingMonitor(Recipe(workers=0))
    assert patience.note(100.0, 1.0) == ""
    assert patience.share == 0.0
    assert patience.note(90.0, 0.05) == ""
    assert patience.note(10.0, 0.5) == "", "9.5 of 100 seconds"
    output = patience.note(10.0, 0.5)
    assert output.startswith("13% of the time")
    assert patience.share == pytest.approx(14.5 / 110)
    assert patience.note(100.0, 1.0) == "", "it was said"


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
