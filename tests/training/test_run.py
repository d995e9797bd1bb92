from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from castssl.training import STOPPED
from castssl.training.run import synchronize
from castssl.training.signals import APART
from tests.training.processes import QUICK, STEPS, Toy, finished, lines, reports, same, state


def test_a_run_trains_and_leaves_its_folder(unbroken: Path) -> None:
    output = reports(unbroken)
    assert [line["step"] for line in output if "loss" in line] == list(range(1, STEPS + 1))
    assert output[-2]["loss"] < 0.5 * output[0]["loss"]
    assert output[0]["rate"] == 0.0
    assert [line["step"] for line in output if "score" in line] == [12, 18]
    assert sorted(path.name for path in unbroken.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.json",
        "log.jsonl",
        "once.json",
        "pictures",
        "results.json",
    ]
    images = [path.name for path in sorted((unbroken / "pictures").iterdir())]
    assert images == ["step-00000012.png", "step-00000018.png"]
    assert [path.name for path in sorted((unbroken / "checkpoints").iterdir())] == [
        "step-00000012.pt",
        "step-00000018.pt",
    ]


def test_what_is_measured_once_is_of_the_settings_of_the_start(unbroken: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(unbroken, tmp_path / "run"))
    earlier = {"untrained": {"score": 2.0}}
    (out / "once.json").write_text(json.dumps(earlier))
    finished(out, f"{QUICK} --center 3")
    starts = [line["measured_with"] for line in lines(out) if line.get("event") == "start"]
    assert starts == ["", " --center 3"]
    kept = json.loads((out / "once.json").read_text())
    assert list(kept) == ["untrained", "untrained --center 3"]
    assert kept["untrained --center 3"] == json.loads((unbroken / "once.json").read_text())["untrained"]
    finished(out)
    assert list(json.loads((out / "once.json").read_text()).items()) == [*reversed(kept.items())]


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --pause 30")
    toy.wait_for(1)
    toy.signal(signal.SIGINT)
    while "Ctrl-C again" not in toy.output():
        assert toy.processes[0].is_alive()
    time.sleep(1.2 * APART)
    toy.signal(signal.SIGINT)
    assert toy.code() not in (0, STOPPED)
    assert "KeyboardInterrupt" in toy.output()


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


def test_max_steps_stops_early_and_leaves_the_schedule_alone(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    finished(out, f"{QUICK} --max-steps 7")
    assert [line.get("rate") for line in reports(out)][:7] == [
        line.get("rate") for line in reports(unbroken)
    ][:7]
    assert reports(out)[-1] == {"step": 7, "score": 6.0}


def test_a_loader_that_gives_fewer_batches_than_it_says_is_told(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --promise 1")
    assert toy.code() == 1
    assert "says that it has 7 batches but ended after 6" in toy.output()


@pytest.mark.parametrize("promise", [-2, 2])
def test_a_stream_has_as_many_batches_as_it_says_on_every_rank(promise: int, tmp_path: Path) -> None:
    done = finished(tmp_path / "run", f"{QUICK} --stream --promise {promise}")
    assert done["step"] == done["batch"] == 3 * (6 + promise)
    assert reports(tmp_path / "run")[-1]["step"] == done["step"]


def test_an_empty_loader_is_told(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --images 3")
    assert toy.code() == 1
    assert "fewer images than a batch" in toy.output()


def test_a_run_folder_belongs_to_one_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = Toy(out, f"{QUICK} --pause 30")
    first.wait_for(1)
    second = Toy(out.parent / "." / "run", QUICK)
    assert second.code() == 2
    assert f"(process {first.processes[0].pid} on " in second.output()
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
    output = toy.output()
    assert "the loss of step 6 is nan" in output
    assert "Its images on this process: picture 0.5 of 0" in output
    assert (out / "diverged.txt").read_text() == "picture 0.5 of 0\n"
    assert f"{reports(out)[4]['loss']:.4g} (step 5)" in output
    assert "--lr" in output
    assert state(out)["step"] == 5
    assert all(part.isfinite().all() for part in state(out)["module"].values())


def test_of_accumulated_batches_the_bad_ones_are_named(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --accumulate 4 --nan-at 2 --save-every 1")
    assert toy.code() == 1
    named = (tmp_path / "run" / "diverged.txt").read_text().splitlines()
    assert named == ["picture 0.4 of 0", "picture 0.5 of 0", "picture 1.0 of 0", "picture 1.1 of 0"]


def test_a_stream_cannot_name_its_images(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --stream --nan-at 2")
    assert toy.code() == 1
    assert "images are not known: the data is a stream" in toy.output()
    assert not (tmp_path / "run" / "diverged.txt").exists()


def test_a_stream_says_at_every_start_that_it_cannot_go_on_exactly(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for most in (2, 4):
        toy = Toy(out, f"{QUICK} --stream --max-steps {most}")
        assert toy.code() == 0
        assert toy.output().count("cannot go on exactly: it goes on by count") == 1
    assert [line["event"] for line in lines(out) if "event" in line] == ["start", "stream"] * 2
    toy = Toy(tmp_path / "other", f"{QUICK} --max-steps 1")
    assert toy.code() == 0
    assert "by count" not in toy.output()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", [".once.json", "pictures/.step-00000004.png"])
def test_a_disk_too_full_for_a_small_file_is_told(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "pictures").mkdir(parents=True)
    (out / f"{name}.partial").symlink_to("/dev/full")
    toy = Toy(out, f"{QUICK} --save-every 2 --max-steps 4")
    assert toy.code() == 1
    assert f"{out / name.replace('.', '', 1)} (No space left on device); earlier files" in toy.output()
    assert "Traceback" not in toy.output()
    if "step" in name:
        assert state(out)["step"] == 2
    assert finished(out, f"{QUICK} --save-every 2 --max-steps 4")["step"] == 4


def test_a_log_that_takes_no_more_ends_the_run_and_the_next_mends_it(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    finished(out, f"{QUICK} --max-steps 1")
    size = (out / "log.jsonl").stat().st_size
    toy = Toy(out, f"{QUICK} --save-every 99", file_size=size + 200)
    assert toy.code() == 1
    assert "log.jsonl (File too large); fix this and run the same command again" in toy.output()
    assert "Traceback" not in toy.output()
    assert state(out)["step"] == 1
    assert not (out / "log.jsonl").read_bytes().endswith(b"\n")
    assert same(finished(out)["module"], state(unbroken)["module"])
    assert len(lines(out)) == len((out / "log.jsonl").read_text().splitlines()), "all lines are JSON"


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
def test_a_loss_that_is_no_number_on_one_rank_ends_all(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} --nan-at 3 --nan-rank 1", world=2)
    assert toy.code() == 1
    assert [process.exitcode for process in toy.processes] == [1, 1]
    output = toy.output()
    assert "error: the loss of step 3 is nan" in output
    assert "Another process had this loss and names its images" in output
    assert "error of process 1: the loss of step 3 is nan" in output
    assert "Its images on this process: picture 0.2 of 1" in output
    assert [path.name for path in (tmp_path / "run").glob("diverged*")] == ["diverged-1.txt"]


def test_norms_that_are_synchronized_keep_timms_activations() -> None:
    """torch's own conversion makes plain norms of those of timm that have an activation in them."""
    network, image = timm.create_model("test_efficientnet").eval(), torch.randn(2, 3, 32, 32)
    expected = network(image)
    synchronized = synchronize(network)
    torch.testing.assert_close(synchronized(image), expected)
    norms = [part for part in synchronized.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) and not norm.training for norm in norms)
