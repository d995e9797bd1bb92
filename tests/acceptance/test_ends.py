"""How a process of several ends: with its own exit code, whatever its threads still do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import ENVIRONMENT, ROOT, TIMEOUT, Forked

SCRIPT = """
import atexit, sys
import torch
import torch.distributed as dist
from torch import nn
from castssl import distributed
from castssl.config import RunConfig, launch

rank, meeting = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=meeting, rank=int(rank), world_size=2)
model = nn.parallel.DistributedDataParallel(nn.Linear(3, 3))
atexit.register(print, "the exit functions were called")


def main(cfg):
    # The threads of gloo, which DDP's model keeps, have these to do while the program ends.
    for _ in range(1000):
        dist.all_reduce(torch.ones(100_000), async_op=True)
    assert distributed.world() == 2
    dist.destroy_process_group()
    raise SystemExit(75)


launch(main, RunConfig, [])
"""


@pytest.mark.distributed
def test_threads_of_a_process_group_do_not_abort_the_end_of_a_run(tmp_path: Path) -> None:
    meeting = (tmp_path / "meeting").as_uri()
    (tmp_path / "script.py").write_text(SCRIPT)
    own, out, err = {"GLOO_SOCKET_IFNAME": "lo"}, tmp_path / "out.txt", tmp_path / "err.txt"
    other = Forked([str(tmp_path / "script.py"), "1", meeting], out, err, own)
    process = subprocess.run(
        [sys.executable, tmp_path / "script.py", "0", meeting],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT | own,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert process.returncode == 75, process.stderr
    assert process.stdout == "the exit functions were called\n"
    assert other.wait() == 75, err.read_text()
    assert out.read_text() == "the exit functions were called\n"
