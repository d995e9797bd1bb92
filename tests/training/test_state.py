from __future__ import annotations

import signal
from pathlib import Path

import pytest

from castssl.training import STOPPED
from tests.training.processes import QUICK, STEPS, Toy, agree, finished, lines, reports, same, state


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stopped_run_goes_on_exactly(number: int, tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --pause 0.05")
    toy.wait_for(3)
    toy.signal(number)
    assert toy.code() == STOPPED, toy.output()
    assert f"stopped by {signal.Signals(number).name} after step" in toy.output()
    assert f"python tests/training/toy.py --config {out}/config.json" in toy.output()
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
    assert toy.code() == STOPPED, toy.output()
    finished(out)
    agree(out, unbroken)


def test_steps_may_span_epochs_and_stop_in_the_middle(tmp_path: Path) -> None:
    flags = f"{QUICK} --accumulate 4 --save-every 1 --keep 9"
    straight = finished(tmp_path / "straight", flags)
    assert (straight["step"], straight["batch"]) == (4, 16)
    halted = finished(tmp_path / "halted", f"{flags} --max-steps 3")
    assert (halted["step"], halted["batch"]) == (3, 12)
    resumed = finished(tmp_path / "halted", flags)
    for part in ("module", "optimizer", "random", "step", "batch"):
        assert same(resumed[part], straight[part]), part


def test_between_two_epochs_a_run_goes_on_exactly(tmp_path: Path, unbroken: Path) -> None:
    """There the loader starts anew in both runs, before or after the random streams are restored."""
    out = tmp_path / "run"
    finished(out, f"{QUICK} --max-steps 6")
    assert same(finished(out)["module"], state(unbroken)["module"])


def test_a_finished_run_says_so_and_can_be_prolonged(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = Toy(out, "--epochs 1")
    assert first.code() == 0
    toy = Toy(out, "--epochs 1")
    assert toy.code() == 0
    assert toy.output().splitlines()[-2:] == first.output().splitlines()[-2:], "what is made once is kept"
    assert toy.output().splitlines()[-1] == f"everything lies in {out}"
    assert "all 6 steps are done; raise --epochs" in toy.output()
    assert finished(out, "--epochs 2")["step"] == 12
    toy = Toy(out, "--epochs 1")
    assert toy.code() == 2
    assert "--epochs: the run has 2, asked for 1" in toy.output()


def test_another_config_is_refused_and_named(unbroken: Path) -> None:
    before = (unbroken / "config.json").read_text()
    toy = Toy(unbroken, f"{QUICK} --lr 0.1 --seed 7 --keep 5 --workers 1")
    assert toy.code() == 2
    output = toy.output()
    assert "--lr: the run has 0.05, asked for 0.1" in output
    assert "--seed: the run has 0, asked for 7" in output
    assert "another --out" in output
    assert "--keep" not in output
    assert (unbroken / "config.json").read_text() == before


def test_other_batches_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finished(out, "--epochs 1")
    toy = Toy(out, "--epochs 2 --promise 1")
    assert toy.code() == 2
    assert "has a run with 6 batches per epoch, now there are 7" in toy.output()


def test_a_weight_that_is_not_finite_reaches_no_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --poison-at 6 --save-every 2")
    assert toy.code() == 1
    assert "the weights are not finite after step 6" in toy.output()
    assert "Its images on this process: picture 0.5 of 0" in toy.output()
    assert state(out)["step"] == 4


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, unbroken: Path) -> None:
    """A limit on the size of files stands for the disk: the kernel refuses the write in the same place."""
    out = tmp_path / "run"
    finished(out, f"{QUICK} --max-steps 4")
    before = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    toy = Toy(out, QUICK, file_size=20_000)
    assert toy.code() == 1
    output = toy.output()
    assert "cannot write the checkpoint" in output
    assert "File too large" in output
    assert "earlier files are whole" in output
    assert {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()} == before
    assert same(finished(out)["module"], state(unbroken)["module"])


@pytest.mark.distributed
def test_two_ranks_stop_together_when_one_is_told_and_go_on_exactly(tmp_path: Path) -> None:
    finished(tmp_path / "straight", QUICK, world=2)
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --pause 0.05", world=2)
    toy.wait_for(3)
    toy.signal(signal.SIGTERM)
    assert toy.code() == STOPPED, toy.output()
    assert [process.exitcode for process in toy.processes] == [STOPPED, STOPPED]
    finished(out, QUICK, world=2)
    agree(out, tmp_path / "straight")


@pytest.mark.distributed
def test_sharded_ranks_train_as_one_and_go_on_from_a_folder_of_shards(tmp_path: Path) -> None:
    still = f"{QUICK} --dropout 0 --plain"
    out = tmp_path / "sharded"
    finished(tmp_path / "one", still)
    for flags in (f"{still} --max-steps 8", still):
        toy = Toy(out, flags, world=2, sharded=True)
        assert toy.code() == 0, toy.output()
    shards = out / "checkpoints" / "step-00000018"
    assert (shards / "place.pt").is_file()
    assert len(list(shards.glob("pytorch_model_fsdp_0/*.distcp"))) == 2
    ours, theirs = (
        {line["step"]: line["loss"] for line in reports(folder) if "loss" in line}
        for folder in (out, tmp_path / "one")
    )
    assert ours == pytest.approx(theirs, rel=1e-3)
    alone = Toy(out, still)
    assert alone.code() == 2
    assert "was written by FSDP or DeepSpeed; go on with the same launch file" in alone.output()
