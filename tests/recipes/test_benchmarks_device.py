"""The table of `make gpu`: a row for each item, whatever becomes of it."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist

from castssl.errors import CastError, ConfigError
from recipes.benchmarks import device, device_parts
from tests.recipes.conftest import Runner, Starter

pytestmark = pytest.mark.recipe
CPU = torch.device("cpu")
WITHOUT = pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")


def cells(printed: str) -> list[list[str]]:
    """The rows of the table: item, verdict, figure, seconds."""
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@WITHOUT
def test_without_a_gpu_it_says_so(recipe: Runner) -> None:
    done = recipe("benchmarks/device")
    assert done.returncode == 2
    assert "no GPU (" in done.stderr
    assert "--device cpu runs the items that need none" in done.stderr
    assert "|" not in done.stdout


def test_an_item_that_fails_or_hangs_is_one_row_and_the_exit_code(recipe: Runner) -> None:
    left = 'sh -c "sleep 50 & echo 4"'
    also = ("echo 3 images/s", left, "no-such-program", 'sh -c "echo seen; exit 3"', "sleep 60", "echo late")
    flags = ["--device", "cpu", "--items", "none", "--seconds", "2", "--also", *also]
    done = recipe("benchmarks/device", *flags)
    assert done.returncode == 1, done.stderr
    rows = cells(done.stdout)
    assert [row[:3] for row in rows] == [
        [also[0], "ok", "3 images/s"],
        [left, "ok", "4"],
        [also[2], "FAILED", "cannot start no-such-program: No such file or directory"],
        [also[3], "FAILED", "exit code 3"],
        [also[4], "OUT OF TIME", "ended after 2 s"],
        [also[5], "OUT OF TIME", "not begun"],
    ]
    assert 'exit 3":\n\n```\nseen\n```' in done.stdout
    assert f"torch {torch.__version__}" in done.stdout


def test_an_item_without_a_figure_has_failed() -> None:
    row = device.run("silent", device.Item(("true",), 5), 5)
    assert (row.verdict, row.failed) == ("FAILED", True)
    skipped = device.Item(("echo", "3 skipped in 0.1s"), 5, r"(\d+ (?:passed|failed).*?) in [\d.]+s")
    assert device.run("tests that are all skipped", skipped, 5).failed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"also": ("echo 1", 'an "open')}, "--also: got 'an \"open', expected a command with"),
        ({"also": (" ",)}, "--also: got ' ', expected a command"),
        ({"seconds": math.nan}, "--seconds: got nan, expected a number above 0"),
        ({"seconds": math.inf}, "--seconds: got inf"),
        ({"seconds": -1.0}, "--seconds: got -1.0"),
    ],
    ids=["quote", "empty", "nan", "inf", "negative"],
)
def test_what_cannot_run_is_refused_before_the_first_item(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        list(device.rows(device.Config(device="cpu", items=("none",), **values), tmp_path))


def test_sigterm_ends_the_item_that_runs(starter: Starter, tmp_path: Path) -> None:
    here = tmp_path / "pid"
    also = f"sh -c {shlex.quote(f'echo $$ > {here}; exec sleep 60')}"
    run = starter(["recipes/benchmarks/device.py", "--device", "cpu", "--items", "none", "--also", also])
    while run.running() and not (here.is_file() and here.read_text().strip()):
        time.sleep(0.02)
    run.signal(signal.SIGTERM)
    assert run.code() == 128 + signal.SIGTERM, run.output()
    with pytest.raises(ProcessLookupError):
        os.kill(int(here.read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs setsid")
def test_a_process_in_a_session_of_its_own_is_ended_with_its_item(tmp_path: Path) -> None:
    """As torchrun starts its workers: one that hangs would hold its GPU."""
    here = tmp_path / "pid"
    inner = f"echo $$ > {here}; exec sleep 60"
    command = ("sh", "-c", f"setsid sh -c {shlex.quote(inner)} & wait")
    child = subprocess.Popen(command, start_new_session=True)
    while child.poll() is None and not (here.is_file() and here.read_text().strip()):
        time.sleep(0.01)
    worker = psutil.Process(int(here.read_text()))
    device.end(child)
    _, alive = psutil.wait_procs([worker], timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@WITHOUT
def test_what_needs_a_gpu_is_not_run_on_a_processor(recipe: Runner) -> None:
    names = ["SyncBN", "tests marked gpu", "an mm config", "MoCo, device-slic", "compile", "FSDP"]
    done = recipe("benchmarks/device", "--device", "cpu", "--items", *names)
    assert done.returncode == 0, done.stderr
    needs = [f"needs {gpus} GPU{'s' * (gpus > 1)}" for gpus in (1, 1, 1, 1, 1, 2)]
    assert [row[:3] for row in cells(done.stdout)] == [
        [n, "not run", why] for n, why in zip(names, needs, strict=True)
    ]


def test_an_unknown_item_is_refused(recipe: Runner) -> None:
    done = recipe("benchmarks/device", "--device", "cpu", "--items", "fp8")
    assert done.returncode == 2
    assert "--items: got fp8, expected collectives, SyncBN, fp32, fp16" in done.stderr


def test_each_item_may_use_its_limit_within_ten_minutes(tmp_path: Path) -> None:
    found = device.items(device.Config(), tmp_path)
    assert sum(item.seconds for item in found.values()) <= device.TOGETHER == device.Config().seconds


def test_the_tests_that_are_marked_are_found() -> None:
    marked = {Path(path).relative_to(device.ROOT).as_posix() for path in device.marked()}
    assert {"tests/training/test_signals.py", "plugins/castssl-slic/tests/test_device.py"} <= marked
    assert "tests/test_types.py" not in marked


def test_parts_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    small: Any = {"device": "cpu", "model": "nano", "image_size": 32, "batch": 2}
    for part in ("fp16", "bf16"):
        cfg = device_parts.Config(part=part, **small)
        assert device_parts.half(cfg, CPU).startswith("nano: error 0.0")
        monkeypatch.setitem(device_parts.LARGEST, part, 1e-9)
        with pytest.raises(CastError, match="off float32"):
            device_parts.half(cfg, CPU)
    assert "100.00% of the pixels as on a processor" in device_parts.device_slic(
        device_parts.Config(part="device-slic", **small), CPU
    )


@pytest.mark.parametrize(("scale", "message"), [(1.0, ""), (1.5, "off those of a processor")])
def test_a_forward_pass_that_differs_from_a_processors_is_found(
    scale: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(model: torch.nn.Module) -> torch.nn.Module:
        copied = deepcopy(model)
        for weights in copied.parameters():
            weights.data *= scale
        return copied

    monkeypatch.setattr(device_parts, "deepcopy", copy)
    cfg = device_parts.Config(part="fp32", device="cpu", model="nano", image_size=32, batch=2)
    if not message:
        assert device_parts.single(cfg, CPU) == "nano: error 0, of the gradient 0"
        return
    with pytest.raises(CastError, match=message):
        device_parts.single(cfg, CPU)


def test_a_gradient_that_differs_from_a_processors_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(model: torch.nn.Module) -> torch.nn.Module:
        copied = deepcopy(model)
        for weights in (p for p in copied.parameters() if p.requires_grad):
            weights.register_hook(lambda gradient: 2 * gradient)
        return copied

    monkeypatch.setattr(device_parts, "deepcopy", copy)
    cfg = device_parts.Config(part="fp32", device="cpu", model="nano", image_size=32, batch=2)
    with pytest.raises(CastError, match="tokens are 0, the gradient is 1 off those of a processor"):
        device_parts.single(cfg, CPU)


def test_two_processes_sum_and_gather(recipe: Runner) -> None:
    done = recipe("benchmarks/device_parts", "--part", "collectives", "--device", "cpu", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("gloo, 2 processes, sum of 4 MiB in ")


def test_a_sum_that_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_parts, "all_reduce", lambda rows: rows * 2)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(CastError, match=r"the sum is \[4.0, 4.0, 4.0\], expected 2.0"):
            device_parts.collectives(device_parts.Config(part="collectives"), CPU)
    finally:
        dist.destroy_process_group()
