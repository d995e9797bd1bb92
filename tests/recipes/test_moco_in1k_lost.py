"""The main recipe, killed, told to stop, diverging, prolonged and starved: nothing is lost."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from castssl.checkpoints import load_encoder
from castssl.training import STOPPED
from tests.recipes.conftest import Started, Starter, children
from tests.recipes.test_moco_in1k import FLAGS
from tests.training.processes import PATIENCE, Toy, lines, same, state

pytestmark = pytest.mark.recipe
EVERY = ["--epochs", "2", "--save-every", "1", "--log-every", "1", "--keep", "9", "--knn-every", "0"]
STEPS = 6
WITHIN = (1, 2, 4, 5)
"""Steps after which an epoch is not at its end."""


def start(out: Path, image_folder: Path, *flags: str, **options: Any) -> Toy:
    words = ["--data", f"folder:{image_folder}", *FLAGS, *EVERY, *flags]
    return Toy(out, shlex.join(words), recipe="recipes.moco_in1k", **options)


def equal(out: Path, straight: Path) -> None:
    """Weights, optimizer, random streams and counters, and the encoder: the same to the last bit."""
    ours, theirs = state(out), state(straight)
    for part in ("module", "optimizer", "random", "step", "batch", "batches"):
        assert same(ours[part], theirs[part]), part
    assert ours["step"] == STEPS
    assert same(*(load_file(folder / "encoder.safetensors") for folder in (out, straight)))
    output = [[line.get("loss") for line in lines(folder) if "loss" in line] for folder in (out, straight)]
    assert output[0] == output[1]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> dict[int, Path]:
    """By the number of processes, the folder of a run that nothing disturbed."""
    made = {}
    for world in (1, 2):
        made[world] = tmp_path_factory.mktemp("straight") / f"of-{world}"
        toy = start(made[world], image_folder, world=world)
        assert toy.code() == 0, toy.output()
    return made


def wait_for_step(process: Toy | Started, out: Path, step: int) -> None:
    end = time.monotonic() + PATIENCE
    while not (out / "checkpoints" / f"step-{step:08d}.pt").exists():
        assert process.running(), process.output()
        assert time.monotonic() < end, f"no step {step}: {process.output()}"
        time.sleep(0.002)


@pytest.mark.parametrize(
    "case",
    [
        (1, 0, "all"),
        (1, 2, "all"),
        (1, 2, "the main process"),
        pytest.param((2, 0, "one rank"), marks=pytest.mark.distributed),
        pytest.param((2, 2, "all"), marks=pytest.mark.distributed),
    ],
    ids=lambda case: "processes {}, workers {}, killed: {}".format(*case),
)
def test_killed_within_an_epoch_it_ends_as_if_nothing_had_happened(
    case: tuple[int, int, str], tmp_path: Path, image_folder: Path, straight: dict[int, Path]
) -> None:
    (world, workers, victims), out, step = case, tmp_path / "run", random.choice(WITHIN)
    toy = start(out, image_folder, "--workers", str(workers), world=world)
    wait_for_step(toy, out, step)
    if victims == "all":
        toy.signal_group(signal.SIGKILL)
        for process in toy.processes[1:]:
            process.kill()
    else:
        toy.processes[-1].kill()
    assert toy.code() != 0
    found = max(int(path.stem[5:]) for path in (out / "checkpoints").glob("step-*.pt"))
    assert found >= step
    again = start(out, image_folder, "--workers", str(workers), world=world)
    assert again.code() == 0, again.output()
    assert f"goes on after step {found}" in again.output()
    equal(out, straight[world])


def test_ctrl_c_saves_and_prints_the_command_that_goes_on(
    tmp_path: Path, image_folder: Path, starter: Starter, straight: dict[int, Path]
) -> None:
    out = tmp_path / "my run"
    flags = ["--data", f"folder:{image_folder}", *FLAGS, *EVERY, "--workers", "2", "--out", str(out)]
    process = starter(["recipes/moco_in1k.py", *flags])
    wait_for_step(process, out, 2)
    process.interrupt()
    assert process.code() == STOPPED
    assert lines(out)[-1]["event"] == "stopped"
    assert lines(out)[-1]["reason"] == "SIGINT"
    assert load_encoder(out).config.name == "cast_nano"
    again = starter(_printed_command(process.output()), python=False)
    assert again.code() == 0, again.output()
    assert re.search(r"goes on after step [2-5]", again.output())
    equal(out, straight[1])


SRUN = """#!/bin/bash
# Runs its command once for each node, and hands signals on to all of them.
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do SLURM_NODEID=$node "$@" & started+=($!); done
trap 'kill -USR1 "${started[@]}"' USR1
code=0
for one in "${started[@]}"; do
  wait "$one"
  while kill -0 "$one" 2>/dev/null; do wait "$one"; done
  wait "$one" || code=1
done
exit $code
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$(dirname "$0")/asked"
if [[ $1 == show ]]; then echo 127.0.0.1; fi
"""
JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "cpu[1-2]", "SLURM_NNODES": "2", "PROCESSES": "1"}
ACCELERATE = f"""#!{sys.executable}
# Listens to SIGUSR1 as the launcher does, and writes what it was started with.  No shell script: a shell
# cannot listen to a signal that was ignored when it began.
import os, signal, sys, time
def write(text):
    with open(os.environ["OUT"], "a") as file:
        file.write(os.environ["SLURM_NODEID"] + ": " + text + chr(10))
def stop(number, frame):
    write("USR1")
    sys.exit(1)
signal.signal(signal.SIGUSR1, stop)
names = ("PET_SIGNALS_TO_HANDLE", "PET_SHUTDOWN_TIMEOUT")
write(" ".join([os.environ[name] for name in names] + sys.argv[1:]))
while True:
    time.sleep(0.05)
"""


def write_programs(folder: Path, **programs: str) -> Path:
    """A folder of scripts that stand in for installed programs."""
    folder.mkdir()
    for name, content in programs.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    return folder


def test_the_slurm_script_starts_one_launcher_on_each_node_and_passes_the_signal_on(
    tmp_path: Path, starter: Starter
) -> None:
    """With a launcher that trains nothing; ``make slow`` has one that does, and a job that starts again."""
    out = tmp_path / "out"
    programs = write_programs(tmp_path / "programs", srun=SRUN, scontrol=SCONTROL, accelerate=ACCELERATE)
    batch = ["bash", "recipes/launch/slurm.sbatch", "recipes/moco_in1k.py", "--data", "a b"]
    process = starter(batch, python=False, path=programs, PORT="1234", OUT=str(out), **JOB)
    end = time.monotonic() + PATIENCE
    while not out.exists() or len(out.read_text().splitlines()) < 2:
        assert process.running(), process.output()
        assert time.monotonic() < end, process.output()
        time.sleep(0.02)
    for child in children(process.pid, "srun"):
        os.kill(child, signal.SIGUSR1)
    assert process.code() != 0
    written = sorted(out.read_text().splitlines())
    for node in range(2):
        started, signaled = written[2 * node : 2 * node + 2]
        assert started == (
            f"{node}: SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 110 launch --config_file recipes/launch/ddp.yaml "
            f"--num_machines 2 --machine_rank {node} --num_processes 2 --main_process_ip 127.0.0.1 "
            "--main_process_port 1234 recipes/moco_in1k.py --data a b"
        )
        assert signaled == f"{node}: USR1"
    assert (programs / "asked").read_text() == "show hostnames cpu[1-2]\n"


def _printed_command(output: str) -> list[str]:
    (found,) = re.findall(r"goes on from there, and so does: (.*)", output)
    return shlex.split(found)


def test_more_epochs_continue_a_finished_run_and_write_its_results_anew(
    tmp_path: Path, image_folder: Path, straight: dict[int, Path]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight[1], out)
    toy = start(out, image_folder, "--epochs", "3")
    assert toy.code() == 0, toy.output()
    assert f"goes on after step {STEPS}" in toy.output()
    assert state(out)["step"] == 9
    ours, theirs = (load_file(folder / "encoder.safetensors") for folder in (out, straight[1]))
    assert not same(ours, theirs)
    module = {name.removeprefix("model."): value for name, value in state(out)["module"].items()}
    parts = {"projector", "predictor", "momentum_model"}
    kept = {f"extra.{name}": value for name, value in module.items() if name.partition(".")[0] in parts}
    kept |= {n.removeprefix("encoder."): v for n, v in module.items() if n.startswith("encoder.")}
    assert same(ours, kept)
    rates = {line["step"]: line["rate"] for line in lines(out) if "rate" in line}
    assert rates[6] < rates[7], "the schedule spans all epochs, also those that were added"
    assert rates[9] < rates[8] < rates[7]
    assert json.loads((out / "config.json").read_text())["epochs"] == 3
    assert same(*(json.loads((folder / "once.json").read_text()) for folder in (out, straight[1])))


def test_a_run_that_diverges_names_the_images(tmp_path: Path, image_folder: Path) -> None:
    toy = start(tmp_path / "run", image_folder, "--lr", "1e30", "--save-every", "0")
    assert toy.code() == 1
    output = toy.output()
    found = re.search(
        r"the loss of step (\d) is (nan|inf)|the weights are not finite after step (\d)", output
    )
    assert found, output
    named = (tmp_path / "run" / "diverged.txt").read_text().splitlines()
    assert len(named) == 16
    assert ", ".join(named[:4]) in output
    assert all((image_folder / "train" / name).is_file() for name in named)


def test_an_encoder_that_finds_no_room_loses_no_checkpoint(
    tmp_path: Path, image_folder: Path, straight: dict[int, Path]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight[1], out)
    (out / "encoder.safetensors").unlink()
    (out / "encoder.safetensors").mkdir()  # What cannot be replaced, as on a full disk.
    (out / "encoder.safetensors" / "file").touch()
    toy = start(out, image_folder)
    assert toy.code() == 1
    assert "cannot write the encoder" in toy.output()
    assert "run the same command again" in toy.output()
    assert "Traceback" not in toy.output()
    shutil.rmtree(out / "encoder.safetensors")
    again = start(out, image_folder)
    assert again.code() == 0, again.output()
    equal(out, straight[1])


def _shard(path: Path) -> None:
    """A WebDataset shard of 48 images of noise."""
    with tarfile.open(path, "w") as archive:
        for number in range(48):
            image = BytesIO()
            Image.effect_noise((32, 32), 64).convert("RGB").save(image, "png")
            for kind, content in (("png", image.getvalue()), ("cls", b"0")):
                entry = tarfile.TarInfo(f"{number:04d}.{kind}")
                entry.size = len(content)
                archive.addfile(entry, BytesIO(content))


def test_a_stream_goes_on_by_count_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    (tmp_path / "shards").mkdir()
    _shard(tmp_path / "shards" / "train-0.tar")
    out, data = tmp_path / "run", ["--data", f"wds/noise:{tmp_path}/shards"]
    toy = start(out, tmp_path, *data)
    wait_for_step(toy, out, 2)
    toy.signal_group(signal.SIGKILL)
    toy.code()
    again = start(out, tmp_path, *data)
    assert again.code() == 0, again.output()
    for output in (toy.output() or again.output(), again.output()):
        assert output.count("cannot go on exactly: it goes on by count") == 1
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, STEPS + 1))
    assert "stream" in [line.get("event") for line in lines(out)]
