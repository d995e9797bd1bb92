"""A study that is told to stop, by whichever signal, lets its runs save; the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.forked import ENVIRONMENT, ROOT

RECIPE = """
import argparse, json, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--seed", type=int)
given = parser.parse_args()
given.out.mkdir(parents=True, exist_ok=True)
saved = given.out / "saved.txt"
log = (given.out / "log.txt").open("a", buffering=1)

def save(number, frame):
    print("told", file=log)
    time.sleep(1.2)
    saved.write_text("all of it")
    sys.exit(75)

signal.signal(signal.SIGTERM, save)
print("devices", os.environ.get("CUDA_VISIBLE_DEVICES"), file=log)
if not saved.exists():
    time.sleep(float(os.environ["HOLD"]))
(given.out / "results.json").write_text(json.dumps({"trained": {"top1": 0.5 + given.seed / 10}}))
"""
FLAGS = "--grid seed=0,1,2 --jobs 2"
SLURM = {
    "sbatch": """
id=$(($(ls $SLURM | grep -c sh$) + 1))
cp $1 $SLURM/$id.sh
if ((id <= ROOM)); then
  SLURM_JOB_ID=$id setsid bash $SLURM/$id.sh > /dev/null 2>&1 < /dev/null &
fi
echo Submitted batch job $id
""",
    "srun": """
while [[ $1 == --* ]]; do
  case $1 in --output) out=$2; shift;; --error) err=$2; shift;; esac; shift
done
fill() { path=${1//%j/$SLURM_JOB_ID}; echo ${path//%t/0}; }
echo $$ > $SLURM/$SLURM_JOB_ID.pid
SLURM_PROCID=0 exec "$@" >> $(fill $out) 2>> $(fill $err)
""",
    "scontrol": """
echo "$@" >> $SLURM/requeued
SLURM_JOB_ID=$2 setsid bash $SLURM/$2.sh > /dev/null 2>&1 < /dev/null &
""",
    "scancel": 'echo "$@" >> $SLURM/cancelled',
    "sacct": "",
}
"""SLURM in miniature: what submitit calls, with room for the first $ROOM jobs."""


def start(folder: Path, *words: str, flags: str = "", **variables: str) -> subprocess.Popen[str]:
    (folder / "recipe.py").write_text(RECIPE)
    command = ["ablate", "--recipe", str(folder / "recipe.py"), "--out", str(folder / "out")]
    environment: Mapping[str, str] = os.environ | ENVIRONMENT | {"HOLD": "60"} | variables
    return subprocess.Popen(
        [*words, sys.executable, "-m", "castssl.cli", *command, *flags.split()],
        cwd=ROOT,
        env={name: value for name, value in environment.items() if value != "unset"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(autouse=True)
def _hangups() -> Iterator[None]:
    """Tests that are started with nohup ignore this signal, and so would their studies."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"no {what} within a minute"
        time.sleep(0.05)


def logs(folder: Path) -> list[str]:
    """What each run was told, of those that have begun."""
    return sorted(path.read_text() for path in folder.glob("out/*/log.txt"))


def interrupt(folder: Path, number: signal.Signals, devices: str) -> str:
    """Send a signal to a study of three runs, two at once; what each log begins with comes back."""
    study = start(folder, flags=FLAGS, CUDA_VISIBLE_DEVICES=devices)
    wait_until(lambda: len(logs(folder)) == 2 and all(logs(folder)), "two runs at once")
    # A terminal sends Ctrl-C, and its end, to the whole group.
    os.killpg(study.pid, number)
    _, output = study.communicate(timeout=60)
    assert study.returncode == 130, output
    assert "the same command continues" in output
    seen = f"devices {None if devices == 'unset' else devices}\n"
    assert logs(folder) == [f"{seen}told\n"] * 2
    assert [path.read_text() for path in folder.glob("out/*/saved.txt")] == ["all of it"] * 2
    return seen


@pytest.mark.parametrize(("number", "devices"), [(signal.SIGTERM, "unset"), (signal.SIGHUP, "")])
def test_all_runs_save(tmp_path: Path, number: signal.Signals, devices: str) -> None:
    interrupt(tmp_path, number, devices)


def test_the_same_command_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    seen = interrupt(tmp_path, signal.SIGINT, "3,5")
    study = start(tmp_path, "nohup", flags=FLAGS, CUDA_VISIBLE_DEVICES="3,5", HOLD="0")
    wait_until(lambda: any(log.count("devices") == 2 for log in logs(tmp_path)), "run that goes on")
    os.killpg(study.pid, signal.SIGHUP)  # Means nothing to what nohup started.
    _, output = study.communicate(timeout=60)
    assert study.returncode == 0, output
    assert logs(tmp_path) == sorted([f"{seen}told\n{seen}"] * 2 + [seen])
    assert "60.0 ± 10.0" in (tmp_path / "out" / "table.md").read_text()


def test_jobs_of_slurm_save_before_their_time_is_over_and_are_queued_again(tmp_path: Path) -> None:
    for name, text in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    flags = "--grid seed=0,1 --cluster slurm --job timeout_min=60"
    first = start(tmp_path, flags=flags, PATH=path, SLURM=str(slurm), ROOM="1")
    wait_until(lambda: any(logs(tmp_path)) and (slurm / "2.sh").exists(), "run beside a queued one")
    first.send_signal(signal.SIGTERM)
    _, output = first.communicate(timeout=60)
    assert first.returncode == 130, output
    assert (slurm / "cancelled").read_text() == "2\n"
    (log,) = logs(tmp_path)
    assert log.count("told") == 1
    again = start(tmp_path, flags=flags, PATH=path, SLURM=str(slurm), ROOM="9")
    wait_until(lambda: len(logs(tmp_path)) == 2 and all(logs(tmp_path)), "second run")
    # As SLURM does some time before the end of a job.
    os.kill(int((slurm / "4.pid").read_text()), signal.SIGUSR2)
    _, output = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert (slurm / "requeued").read_text() == "requeue 4\n"
    assert [log.count("told") for log in logs(tmp_path)] == [1, 1]
