"""Data-loading processes that begin by spawn: each imports everything anew, so this takes a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKERS = """
import atexit, sys
from castssl.data.views import CenterView
from castssl.datasets.open import open_images
from castssl.data.loader import load

if __name__ == "__mp_main__":
    print("a worker has begun", flush=True)
    atexit.register(print, "its interpreter has ended", flush=True)
else:
    import multiprocessing

    multiprocessing.set_start_method("spawn")
    images = open_images(sys.argv[1])
    list(load(images, views=CenterView(16), superpixels=None, batch_size=8, workers=1, train=False))
"""


def test_a_run_trains_with_spawned_workers(image_folder: Path, tmp_path: Path) -> None:
    flags = [
        *(
            "--data",
            f"folder:{image_folder}",
            "--model",
            "nano",
            "--image-size",
            "32",
            "--sizes",
            "16",
            "8",
            "4",
        ),
        *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--hidden", "16", "--out-dim", "8"),
        *("--batch-size", "16", "--lr", "1e-3", "--epochs", "2", "--warmup-epochs", "1", "--max-steps", "2"),
        *("--knn-every", "0", "--workers", "1", "--start-method", "spawn", "--out", str(tmp_path)),
    ]
    command = [sys.executable, "recipes/moco_in1k.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "config.json").read_text())["start_method"] == "spawn"
    assert (tmp_path / "results.json").is_file()


def test_spawned_workers_end_without_the_end_of_their_interpreter(image_folder: Path, tmp_path: Path) -> None:
    # Once that has begun, the thread that sends batches may abort the process, and the run with it.
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    command = [sys.executable, str(script), f"folder:{image_folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "a worker has begun\n"), done.stderr


def test_the_interpreter_of_pairs_ends_in_silence() -> None:
    # A library whose objects are frozen at the end reports them as leaked, line by line.
    command = [sys.executable, "-m", "castssl.testing.processes"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stderr == ""
