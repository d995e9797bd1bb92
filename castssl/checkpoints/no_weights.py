"""Paths that hold no weights: what lies there, and what to give instead."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from PIL import Image

from castssl import config, step_files
from castssl.models.weight_files import NAMES

KINDS = {
    ".json": "JSON",
    ".jsonl": "a log",
    ".html": "a page",
    ".csv": "a table",
    ".md": "text",
    ".txt": "text",
    ".py": "a program",
}
"""Endings of files that are often beside weights, and what these files are."""
EXPECTED = "a run's folder, a .safetensors, .pth, .pth.tar or .pt file, or hf:USER/NAME"
END = "run the command of the run again: it goes on, and writes encoder.safetensors at its end"
"""The next step where checkpoints are of no use."""
SHARDED = f"is sharded over the processes of a run (FSDP, DeepSpeed); {END}"
RUN = (config.FILE, "log.jsonl")
"""Files by which a run's folder is known."""


def kind_of(path: Path) -> str:
    """What a file is that holds no weights, by its first bytes and its ending; "" if that is not clear."""
    with suppress(Exception), Image.open(path):  # A stranger's file fails in many ways.
        return "a picture"
    with suppress(OSError), open(path, "rb") as file:
        begin = file.read(64).lstrip()
        if not begin:
            return "an empty file"
        text = b"\0" not in begin and not begin.startswith(b"\x80")
        if text and path.suffix in KINDS:
            return KINDS[path.suffix]
        if begin.startswith((b"{", b"[")):
            return "JSON"
        if begin.lower().startswith((b"<!doctype html", b"<html")):
            return "a page"
    return ""


def has_weights(folder: Path) -> bool:
    """True for a folder with weights, or with checkpoints of a run."""
    return any((folder / name).is_file() for name in NAMES) or step_files.exist(folder / step_files.FOLDER)


def instead(path: Path) -> str:
    """What to give in place of a path without weights: a folder with weights near it, or what is expected."""
    around = [path, *list(path.parents)[:2]]
    with suppress(OSError):
        around += sorted(path.iterdir()) if path.is_dir() else []
    for folder in around:
        if folder.is_dir() and has_weights(folder):
            return f"give the folder {folder}, which has weights"
    return f"expected {EXPECTED}"


def missing(source: str | Path, path: Path) -> str:
    """The message where neither ``path`` nor, if it is a folder, a file in it holds weights.

    Args:
        source: as the user gave it.
        path: the place on this machine.
    """
    if (path / step_files.STATE).is_file():
        return f"{source} {SHARDED}"
    if all((path / name).is_file() for name in RUN):
        return (
            f"no weights at {source}: its run has written no checkpoint yet; run its command again, or wait"
            " for the end of its first epoch"
        )
    return f"no weights at {source}; {instead(path)}"
