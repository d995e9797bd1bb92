from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from tests.forked import Forked
from tests.training.processes import PATIENCE, Toy, lines, reports, same, state

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "recipes" / "launch"
TOY = ROOT / "tests" / "training" / "toy.py"


def launch(tmp_path: Path, *arguments: object) -> Forked:
    """``accelerate launch`` with these arguments; it is forked, what it starts is not."""
    command = ["-m", "accelerate.commands.launch", *map(str, arguments)]
    return Forked(command, tmp_path / "out.txt", tmp_path / "err.txt")


def wait_for_step(out: Path, launcher: Forked) -> None:
    end = time.monotonic() + PATIENCE
    while not reports(out):
        assert time.monotonic() < end
        assert launcher.poll() is None
        time.sleep(0.05)


def wait_for_the_end(out: Path) -> dict[str, object]:
    """The line with which the run stopped; its processes may outlive the launcher."""
    end = time.monotonic() + PATIENCE
    while lines(out)[-1].get("event") != "stopped":
        assert time.monotonic() < end, lines(out)[-1]
        time.sleep(0.05)
    return lines(out)[-1]


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=GPU)])
def test_half_precision_trains_and_goes_on_exactly(precision: str, tmp_path: Path) -> None:
    flags = f"--precision {precision} --epochs 3 --log-every 1"
    straight, halted = tmp_path / "straight", tmp_path / "halted"
    for out, more in ((straight, ""), (halted, "--max-steps 8"), (halted, "")):
        toy = Toy(out, f"{flags} {more}", cpu=precision == "bf16")
        assert toy.code() == 0, toy.output()
    losses = [line["loss"] for line in reports(straight) if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    assert (state(straight)["scaler"] is not None) is (precision == "fp16")
    for part in ("module", "optimizer", "scaler"):
        assert same(state(halted)[part], state(straight)[part]), part


def test_a_precision_that_the_machine_lacks_is_refused_before_any_work(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", "--precision fp16")
    assert toy.code() == 2
    assert "--precision fp16 needs a GPU" in toy.output()
    assert not (tmp_path / "run").exists()


def test_a_missing_tracker_is_told_before_any_work(tmp_path: Path) -> None:
    absent = [name for name in ("wandb", "trackio", "mlflow") if not _is_installed(name)]
    if not absent:
        pytest.skip("every tracker is installed")
    toy = Toy(tmp_path / "run", f"--track {absent[0]}")
    assert toy.code() == 2
    assert f"pip install {absent[0]}" in toy.output()
    assert not (tmp_path / "run").exists()


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@pytest.mark.parametrize(
    ("name", "kind", "section"),
    [
        ("ddp", "MULTI_GPU", None),
        ("fsdp", "FSDP", "fsdp_config"),
        ("deepspeed", "DEEPSPEED", "deepspeed_config"),
    ],
)
def test_the_launch_files_say_only_what_accelerate_knows(name: str, kind: str, section: str | None) -> None:
    path = LAUNCH / f"{name}.yaml"
    found = load_config_from_file(str(path))
    assert found.distributed_type == kind
    known = set(vars(launch_command_parser().parse_args(["--config_file", str(path), "recipe.py"])))
    output = getattr(found, section) if section else {}
    assert set(output) <= known, "accelerate ignores keys that it does not know"
    assert bool(output) is (section is not None)


@pytest.mark.distributed
@pytest.mark.skipif(torch.accelerator.is_available(), reason="the launch file would take the GPUs")
def test_ddp_starts_two_processes_that_save_when_their_launcher_is_told_to_stop(tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = [TOY, "--out", out, "--log-every", 1, "--pause", 0.1]
    launcher = launch(
        tmp_path,
        "--config_file",
        LAUNCH / "ddp.yaml",
        "--num_processes",
        2,
        "--main_process_port",
        0,
        *recipe,
    )
    wait_for_step(out, launcher)
    assert lines(out)[0]["processes"] == 2
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(PATIENCE) != 0
    assert wait_for_the_end(out)["reason"] == "SIGTERM"
    assert list((out / "checkpoints").glob("step-*.pt"))


def test_a_run_whose_launcher_is_killed_saves_and_ends(tmp_path: Path) -> None:
    out = tmp_path / "run"
    launcher = launch(tmp_path, "--num_processes", 1, TOY, "--out", out, "--log-every", 1, "--pause", 0.1)
    wait_for_step(out, launcher)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait(PATIENCE)
    assert wait_for_the_end(out)["reason"] == "the end of its launcher"
    assert list((out / "checkpoints").glob("step-*.pt"))
