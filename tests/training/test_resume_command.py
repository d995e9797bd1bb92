from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from castssl.training import signals
from tests import forked


def test_outside_of_slurm_nothing_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert signals.requeue() == ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('test "$*" = "requeue 42"', "job 42 is requeued"),
        ("echo Batch jobs only >&2; exit 1", "job 42 could not be requeued (Batch jobs only); submit"),
        (None, "job 42 could not be requeued ([Errno 2] No such file"),
    ],
)
def test_slurm_is_asked_and_its_answer_told(
    body: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if body is not None:
        scontrol = tmp_path / "scontrol"
        scontrol.write_text(f"#!/bin/sh\n{body}\n")
        scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert signals.requeue().startswith(expected)


def test_the_command_begins_as_the_launcher_did(tmp_path: Path) -> None:
    script = tmp_path / "my recipe.py"
    script.write_text(
        "from pathlib import Path\nfrom castssl.training.signals import resume_command\n"
        "print('>', resume_command(Path('a b/config.json'), ['--overwrite']))\n"
    )
    started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-port", "0"]
    launched = subprocess.run([*started, script, "--lr", "1"], capture_output=True, text=True, check=True)
    alone = forked.run([str(script), "--lr", "1"])
    for launcher, output in ((started, launched), ([sys.executable], alone)):
        words = shlex.split(output.stdout.partition("> ")[2])
        if len(words) == 5:
            words[0] = sys.executable  # It is called python where that is the same.
        assert words == [*launcher, str(script), "--config", "a b/config.json", "--overwrite"]
