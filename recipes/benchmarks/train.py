"""How fast a whole run is: images/s of the recipe with its real loader, how long it waits, memory.

    python recipes/benchmarks/train.py --data folder:/path/to/imagenet
    python recipes/benchmarks/train.py --flags="--model nano --image-size 64 --batch-size 64"

The recipe itself is started, in a temporary folder, and ended after so many steps; the figures are those of
its log.jsonl without the first report, before which workers start.  Memory is the most that torch held on a
GPU, else that of all processes together, where what they share counts once where the system has that figure.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from castssl.config import TYPED, Settings, check_least, launch
from castssl.devices import machine
from castssl.errors import CastError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Measure a recipe at work."""

    data: str = "demo"
    """What to train on, as the recipe's --data."""
    recipe: str = field(default="moco_in1k", metadata=TYPED)
    """The recipe, a file beside this folder."""
    flags: str = field(default="", metadata=TYPED)
    """Its other flags, as one word: --flags="--model nano --workers 2"."""
    processes: tuple[int, ...] = (1, 2)
    """Numbers of training processes, each measured in a run of its own."""
    steps: int = 30
    """Optimizer steps of each run."""
    every: int = 5
    """Steps of a report; the first report does not count."""
    seconds: float = 1800.0
    """A run that takes longer is given up."""

    def problems(self) -> list[str]:
        """What the types cannot say."""
        if 1 <= self.every <= self.steps // 2:
            return super().problems()
        return [f"--every: got {self.every}, expected 1 to half of the {self.steps} steps"]


def command(cfg: Config, processes: int, out: Path) -> list[str]:
    """The command line of a run."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    flags = ["--data", cfg.data, *shlex.split(cfg.flags), "--knn-every", "0", "--log-every", str(cfg.every)]
    start = [sys.executable, *(several if processes > 1 else []), str(ROOT / "recipes" / f"{cfg.recipe}.py")]
    return [*start, *flags, "--max-steps", str(cfg.steps), "--out", str(out)]


def measure(words: list[str], out: Path, cfg: Config) -> tuple[list[dict[str, Any]], int]:
    """Start a run and end it after its last report: the lines of its log, and its peak of memory in bytes.

    Raises:
        CastError: with the end of what it printed, if it fails or takes too long.
    """
    most, end = 0, time.monotonic() + cfg.seconds
    with (
        open(out.with_suffix(".txt"), "w+b") as output,
        subprocess.Popen(words, stdout=output, stderr=output) as child,
    ):
        family = [psutil.Process(child.pid)]
        try:
            while not (lines := reports(out, cfg.steps)) and child.poll() is None and time.monotonic() < end:
                with suppress(psutil.Error):
                    family = [family[0], *family[0].children(recursive=True)]
                most = max(most, sum(map(memory, family)))
                time.sleep(1.0)
        finally:
            for process in family:
                with suppress(psutil.Error):
                    process.kill()
        output.seek(0)
        if not lines:
            shown = output.read().decode(errors="replace")[-3000:]
            raise CastError(f"this gave no report of step {cfg.steps}: {shlex.join(words)}\n{shown}")
    return lines, most


def reports(out: Path, steps: int) -> list[dict[str, Any]]:
    """The lines of a run's log; none before it has reported the last step."""
    with suppress(OSError, ValueError):
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        if any(line.get("step", 0) >= steps and "waiting" in line for line in lines):
            return lines
    return []


def memory(process: psutil.Process) -> int:
    """Bytes of a process; of what it shares with others its part, where the system has that figure."""
    with suppress(psutil.Error):
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.rss))
    return 0


def figures(lines: list[dict[str, Any]], peak_bytes: int) -> tuple[str, ...]:
    """Images/s, waiting, memory and advice, over the reports but the first."""
    reports = [line for line in lines if "images_per_second" in line][1:]
    speed = len(reports) / sum(1 / line["images_per_second"] for line in reports)
    gpu = lines[0]["device"].startswith("cuda")
    most = max(line["memory_gib"] for line in reports) if gpu else peak_bytes / 2**30
    advice = [line["text"].partition(": ")[2] for line in lines if line.get("event") == "waiting"]
    return (f"{speed:.1f}", f"{mean(line['waiting'] for line in reports):.1%}", f"{most:.2f}", *advice)


def main(cfg: Config) -> None:
    """Print the table."""
    check_least(cfg, processes=1, seconds=1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Else the recipe would outlive this process.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    heads = "processes", "images/s", "waiting", "memory, GiB", "what the run says of it"
    table = Table(*heads, title=machine(device), caption=f"{cfg.recipe} --data {cfg.data} {cfg.flags}")
    for processes in cfg.processes:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            table.add_row(str(processes), *figures(*measure(command(cfg, processes, out), out, cfg)))
    Console(width=130).print(table)


if __name__ == "__main__":
    launch(main, Config)
