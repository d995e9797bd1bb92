"""What a process of a check does, and where it leaves what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

Purpose = Literal["train", "stop", "gradients", "batches", "compiled", "torch-export", "onnx"]
"""train: some steps; stop: the same, but the process gets a SIGTERM on the way; else what is measured with
the first batch, in place of the first optimizer step."""
EXIT = "exit"
RECORD = "record.json"
"""The steps of a run."""
GRADIENTS = "gradients.pt"
"""Loss, gradients and images of the first optimizer step."""
FINDING = "finding.json"
"""What a measurement found."""


class Job(NamedTuple):
    """What a process does; it is pickled."""

    recipe: str
    """The path of the recipe's file."""
    flags: tuple[str, ...]
    folder: str
    """An empty folder for records, and what the recipe prints."""
    purpose: Purpose
    world: int = 1
    """The number of processes that share each batch."""
    threads: int = 1
    """Of each process."""
    evaluate: bool = False
    """Also evaluate on held-out images, and run the recipe to its end."""

    def output(self, rank: int = 0) -> Path:
        """The file with what a process prints."""
        return Path(self.folder) / f"output-{rank}.txt"
