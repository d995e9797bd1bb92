from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from castssl.training import STOPPED
from tests.training.processes import Toy, lines, reports, same, state

QUICK = "--epochs 3 --log-every 1"
STEPS = 18


def finished(out: Path, flags: str = QUICK, **options: Any) -> dict[str, Any]:
    toy = Toy(out, flags, **options)
    assert toy.code() == 0, toy.told()
    return state(out)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    finished(out)
    return out


def agree(out: Path, unbroken: Path) -> None:
    """The run in ``out`` ended exactly as the unbroken one did: weights, random streams, reports."""
    ours, theirs = state(out), state(unbroken)
    for part in ("module", "optimizer", "random", "step", "batch", "batches"):
        assert same(ours[part], theirs[part]), part
    assert reports(out) == reports(unbroken)


def test_a_run_trains_and_leaves_its_folder(unbroken: Path) -> None:
    told = reports(unbroken)
    assert [line["step"] for line in told if "loss" in line] == list(range(1, STEPS + 1))
    assert told[-2]["loss"] < 0.5 * told[0]["loss"]
    assert told[0]["rate"] == 0.0
    assert [line["step"] for line in told if "score" in line] == [12, 18]
    assert sorted(path.name for path in unbroken.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.json",
        "log.jsonl",
    ]
    assert [path.name for path in sorted((unbroken / "checkpoints").iterdir())] == [
        "step-00000012.pt",
        "step-00000018.pt",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stopped_run_goes_on_exactly(number: int, tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --pause 0.05")
    toy.wait_for(3)
    toy.signal(number)
    assert toy.code() == STOPPED, toy.told()
    assert f"stopped by {signal.Signals(number).name} after step" in toy.told()
    assert f"python toy.py --config {out}/config.json" in toy.told()
    stopped = lines(out)[-1]
    assert (stopped["event"], stopped["step"]) == ("stopped", state(out)["step"])
    assert 3 <= state(out)["step"] < STEPS
    finished(out, f"{QUICK} --pause 0")
    agree(out, unbroken)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --pause 0.05 --save-every 4")
    toy.wait_for(9)
    toy.signal(signal.SIGKILL)
    assert toy.code() == -signal.SIGKILL
    assert state(out)["step"] == 8
    (out / "checkpoints" / ".step-00000009.pt.partial").write_bytes(b"half")
    whole = (out / "checkpoints" / "step-00000008.pt").read_bytes()
    (out / "checkpoints" / "step-00000009.pt").write_bytes(whole[: len(whole) // 2])
    finished(out)
    agree(out, unbroken)
    assert not list((out / "checkpoints").glob(".*"))


def test_a_signal_to_the_whole_group_with_data_workers_is_survived(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --pause 0.1 --workers 2")
    toy.wait_for(3)
    toy.signal_group(signal.SIGTERM)
    assert toy.code() == STOPPED, toy.told()
    finished(out)
    agree(out, unbroken)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --pause 30")
    toy.wait_for(1)
    toy.signal(signal.SIGINT)
    while "Ctrl-C again" not in toy.told():
        assert toy.processes[0].is_alive()
    toy.signal(signal.SIGINT)
    assert toy.code() not in (0, STOPPED)
    assert "KeyboardInterrupt" in toy.told()


def test_accumulated_batches_make_one_step_and_one_large_batch(tmp_path: Path) -> None:
    """Without dropout, and with batch norm out of play, the sum of parts is the whole."""
    still = f"{QUICK} --dropout 0 --plain"
    whole = finished(tmp_path / "whole", f"{still} --batch-size 8")
    parts = finished(tmp_path / "parts", f"{still} --batch-size 4 --accumulate 2")
    assert whole["step"] == parts["step"] == 9
    assert parts["batch"] == 18
    for name, value in whole["module"].items():
        torch.testing.assert_close(parts["module"][name], value, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(reports(tmp_path / "parts"), reports(tmp_path / "whole"), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours.get("rate") == theirs.get("rate")
        assert ours.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-4)


def test_steps_may_span_epochs_and_stop_in_the_middle(tmp_path: Path) -> None:
    flags = f"{QUICK} --accumulate 4 --save-every 1 --keep 9"
    straight = finished(tmp_path / "straight", flags)
    assert (straight["step"], straight["batch"]) == (4, 16)
    halted = finished(tmp_path / "halted", f"{flags} --max-steps 3")
    assert (halted["step"], halted["batch"]) == (3, 12)
    resumed = finished(tmp_path / "halted", flags)
    for part in ("module", "optimizer", "random", "step", "batch"):
        assert same(resumed[part], straight[part]), part


def test_max_steps_stops_early_and_leaves_the_schedule_alone(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    finished(out, f"{QUICK} --max-steps 7")
    assert [line.get("rate") for line in reports(out)][:7] == [
        line.get("rate") for line in reports(unbroken)
    ][:7]
    assert reports(out)[-1] == {"step": 7, "score": 6.0}


def test_a_finished_run_says_so_and_can_be_prolonged(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finished(out, "--epochs 1")
    toy = Toy(out, "--epochs 1")
    assert toy.code() == 0
    assert "all 6 steps are done; raise --epochs" in toy.told()
    assert finished(out, "--epochs 2")["step"] == 12
    toy = Toy(out, "--epochs 1")
    assert toy.code() == 2
    assert "--epochs: the run has 2, asked for 1" in toy.told()


def test_another_config_is_refused_and_named(unbroken: Path) -> None:
    before = (unbroken / "config.json").read_text()
    toy = Toy(unbroken, f"{QUICK} --lr 0.1 --seed 7 --keep 5 --workers 1")
    assert toy.code() == 2
    told = toy.told()
    assert "--lr: the run has 0.05, asked for 0.1" in told
    assert "--seed: the run has 0, asked for 7" in told
    assert "another --out" in told
    assert "--keep" not in told
    assert (unbroken / "config.json").read_text() == before


def test_other_batches_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finished(out, "--epochs 1")
    toy = Toy(out, "--epochs 2 --promise 1")
    assert toy.code() == 2
    assert "has a run with 6 batches an epoch, now there are 7" in toy.told()


def test_a_loader_that_gives_fewer_batches_than_it_says_is_told(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --promise 1")
    assert toy.code() == 1
    assert "says that it has 7 batches but ended after 6" in toy.told()


def test_an_empty_loader_is_told(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --images 3")
    assert toy.code() == 1
    assert "fewer images than a batch" in toy.told()


def test_a_run_folder_belongs_to_one_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = Toy(out, f"{QUICK} --pause 30")
    first.wait_for(1)
    second = Toy(out.parent / "." / "run", QUICK)
    assert second.code() == 2
    assert f"(process {first.processes[0].pid} on " in second.told()
    first.signal(signal.SIGKILL)
    first.code()
    finished(out)


def test_a_folder_in_which_nothing_was_trained_is_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert Toy(out, "--epochs 3 --images 3").code() == 1
    finished(out)


def test_a_loss_that_is_no_number_ends_the_run_and_reaches_no_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --nan-at 6 --save-every 1 --keep 9")
    assert toy.code() == 1
    told = toy.told()
    assert "the loss of step 6 is nan" in told
    assert f"{reports(out)[4]['loss']:.4g} (step 5)" in told
    assert "--lr" in told
    assert state(out)["step"] == 5
    assert all(part.isfinite().all() for part in state(out)["module"].values())


def test_a_weight_that_is_not_finite_reaches_no_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --poison-at 6 --save-every 2")
    assert toy.code() == 1
    assert "the weights are not finite after step 6" in toy.told()
    assert state(out)["step"] == 4


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, unbroken: Path) -> None:
    """A limit on the size of files stands for the disk: the kernel refuses the write in the same place."""
    out = tmp_path / "run"
    finished(out, f"{QUICK} --max-steps 4")
    before = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    toy = Toy(out, QUICK, file_size=20_000)
    assert toy.code() == 1
    told = toy.told()
    assert "cannot write the checkpoint" in told
    assert "File too large" in told
    assert "earlier checkpoints are whole" in told
    assert {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()} == before
    assert same(finished(out)["module"], state(unbroken)["module"])


def test_reports_go_to_a_tracker(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finished(out, "--epochs 1 --log-every 2 --track tensorboard")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(out / "track" / "castssl")).Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx(
        {line["step"]: line["loss"] for line in reports(out) if "loss" in line}, rel=1e-4
    )


@pytest.mark.distributed
def test_two_ranks_see_the_same_batches_and_stay_equal(tmp_path: Path) -> None:
    still = f"{QUICK} --dropout 0 --plain"
    one = finished(tmp_path / "one", still)
    two = finished(tmp_path / "two", still, world=2)
    for name, value in one["module"].items():
        torch.testing.assert_close(two["module"][name], value, rtol=1e-4, atol=1e-6)
    assert [line.get("loss", 0) for line in reports(tmp_path / "two")] == pytest.approx(
        [line.get("loss", 0) for line in reports(tmp_path / "one")], rel=1e-4
    )
    assert len(two["random"]) == 2
    assert not same(two["random"][0]["torch"], two["random"][1]["torch"])


@pytest.mark.distributed
def test_two_ranks_stop_together_when_one_is_told_and_go_on_exactly(tmp_path: Path) -> None:
    finished(tmp_path / "straight", QUICK, world=2)
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --pause 0.05", world=2)
    toy.wait_for(3)
    toy.signal(signal.SIGTERM)
    assert toy.code() == STOPPED, toy.told()
    assert [process.exitcode for process in toy.processes] == [STOPPED, STOPPED]
    finished(out, QUICK, world=2)
    agree(out, tmp_path / "straight")


@pytest.mark.distributed
def test_a_loss_that_is_no_number_on_one_rank_ends_all(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --nan-at 3 --nan-rank 1", world=2)
    assert toy.code() == 1
    assert [process.exitcode for process in toy.processes] == [1, 1]
    assert "the loss of step 3 is nan" in toy.told()
