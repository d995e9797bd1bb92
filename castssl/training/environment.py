"""What a run was computed with: versions, commit and hardware, for its log."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from castssl.devices import machine
from castssl.installer import installed

PACKAGES = (
    *("castssl", "torch", "torchvision", "timm", "lightly", "accelerate", "numpy", "scipy", "pillow"),
    *("opencv-contrib-python-headless", "opencv-contrib-python"),
)
SECONDS = 5.0
"""How long git may take, such as on a slow network file system."""


def environment(device: str) -> dict[str, str | dict[str, str]]:
    """Versions of packages, Python and the system, the machine, and the commit of castssl's checkout.

    Args:
        device: such as ``cpu`` or ``cuda:0``; a GPU is a part of the machine.

    Returns:
        Without ``commit`` if castssl does not lie in a checkout; with the ending ``+changes`` if that differs
        from its commit.
    """
    found: dict[str, str | dict[str, str]] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": machine(device),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
    }
    if commit := commit_of(Path(__file__).parents[2]):
        found["commit"] = commit
    return found


def commit_of(folder: Path) -> str:
    """The commit of a checkout, and ``+changes`` if its files differ; "" if the folder is not its top."""
    if not (folder / ".git").exists():
        return ""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit and commit + "+changes" * bool(changed)


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
