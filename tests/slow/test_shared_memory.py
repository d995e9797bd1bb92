"""A recipe whose /dev/shm is truly full, in a mount namespace of its own, which takes rights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
"""What a shell does before a command that shall have one MiB of shared memory."""


def confined(*command: str) -> subprocess.CompletedProcess[str]:
    """The end of a command that has little shared memory; the rest of the system keeps its own."""
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare")
    whole = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL, "sh", *command]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def test_full_shared_memory_is_named_with_the_flag(image_folder: Path, tmp_path: Path) -> None:
    allowed = confined("true")
    if allowed.returncode:
        pytest.skip(f"no mount namespace of its own: {allowed.stderr.strip()}")
    flags = [
        *("--data", f"folder:{image_folder}", "--model", "nano", "--image-size", "64", "--hidden", "16"),
        *("--superpixels", "seeds:count=64,bins=5,iterations=2", "--out-dim", "8", "--batch-size", "48"),
        *("--lr", "1e-3", "--epochs", "2", "--warmup-epochs", "1", "--max-steps", "1", "--knn-every", "0"),
        *("--out", str(tmp_path)),
    ]
    full = confined(sys.executable, "recipes/moco_in1k.py", *flags, "--workers", "1")
    assert full.returncode == 1, full.stderr
    assert "shared memory in /dev/shm (1.0 MiB)" in full.stderr
    assert "is full: give fewer --workers" in full.stderr
    assert "Traceback" not in full.stderr
    helped = confined(sys.executable, "recipes/moco_in1k.py", *flags, "--workers", "0")
    assert helped.returncode == 0, helped.stderr
