"""Data-loading processes that begin by each method; by spawn each imports everything anew, which is slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.small_runs import MOCO

ROOT = Path(__file__).parents[2]
METHODS = ("fork", "spawn", "forkserver")
WORKERS = """
import atexit, sys
from castssl.data.evaluation_views import CenterView
from castssl.datasets.open import open_images
from castssl.data.loader import load

if __name__ == "__mp_main__":
    print("a worker has begun", flush=True)
    atexit.register(print, "its interpreter has ended", flush=True)
else:
    import multiprocessing

    multiprocessing.set_start_method(sys.argv[2])
    images = open_images(sys.argv[1])
    list(load(images, views=CenterView(16), superpixels=None, batch_size=8, workers=1, train=False))
"""


def results(method: str, image_folder: Path, folder: Path) -> bytes:
    """``results.json`` of a small run whose workers begin by this method."""
    flags = ["--data", f"folder:{image_folder}", *MOCO, "--workers", "1", "--start-method", method]
    command = [sys.executable, "recipes/moco_in1k.py", *flags, "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "config.json").read_text())["start_method"] == method
    return (folder / "results.json").read_bytes()


def test_a_run_has_the_same_results_by_each_method(image_folder: Path, tmp_path: Path) -> None:
    found = {method: results(method, image_folder, tmp_path / method) for method in METHODS}
    assert found["spawn"] == found["forkserver"] == found["fork"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_end_without_the_end_of_their_interpreter(
    method: str, image_folder: Path, tmp_path: Path
) -> None:
    # Once that has begun, the thread that sends batches may abort the process, and the run with it.
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    command = [sys.executable, str(script), f"folder:{image_folder}", method]
    # From 3.13 on, forked processes call the functions of atexit, too, but do not end their interpreter.
    called = method == "forkserver" and sys.version_info >= (3, 13)
    printed = "a worker has begun\n" + "its interpreter has ended\n" * called
    with tempfile.TemporaryDirectory() as folder:  # Shorter than pytest's.
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stdout) == (0, printed), done.stderr
        assert not list(Path(folder).glob("pymp-*"))


def test_the_interpreter_of_pairs_ends_in_silence() -> None:
    # A library whose objects are frozen at the end reports them as leaked, line by line.
    command = [sys.executable, "-m", "castssl.testing.processes"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stderr == ""
