"""What has never run on a GPU, in ten minutes: a table to paste.

    python recipes/benchmarks/device.py                # or: make gpu
    python recipes/benchmarks/device.py --items fp16 bf16 --also "python mine.py"
    python recipes/benchmarks/device.py --device cpu --model nano --image-size 64 --batch 4

Each item is a process of its own with a limit of its own, so that one that fails or hangs costs one row.  The
exit code is 0 if no row failed, 1 if one did, and 2 without a GPU.  Several GPUs take part where an item is
about several processes.  `--device cpu` runs what needs none.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
import torch

from castssl.config import TYPED, launch
from castssl.devices import machine
from castssl.errors import ConfigError
from castssl.shipped import recipe

ROOT = Path(__file__).resolve().parents[2]
MMSEG = Path("plugins", "castssl-mmseg", "tests", "slow", "test_configs.py")
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no")
TOGETHER = 600.0  # Seconds of all items, of which the limit of each is a part.
ENDED: list[int] = []
"""Signals that asked for the end: an exception in the start of an item would leave its session behind."""
SHOWN = 20  # Lines of the output of an item that failed.


class Item(NamedTuple):
    """A process, and how its figure is read."""

    command: tuple[str, ...]
    seconds: float
    figure: str = r"(.+)\s*\Z"
    """A pattern of the figure, which may occur several times; by default the last line of what it printed."""
    form: str = "{}"
    """How the groups of the pattern are shown."""
    gpus: int = 0  # How many it needs.


class Row(NamedTuple):
    """What became of an item."""

    name: str
    verdict: str
    figure: str
    seconds: float
    output: str = ""

    @property
    def failed(self) -> bool:
        """True if it is a reason for the exit code 1."""
        return self.verdict in ("FAILED", "OUT OF TIME")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Run each item for itself, and print a table."""

    device: Literal["cpu", "cuda"] = "cuda"
    """What to run on; cpu runs the items that need no GPU."""
    items: tuple[str, ...] = ("all",)
    """Names of items, as the table has them, "all" or "none"."""
    also: tuple[str, ...] = field(default=(), metadata=TYPED)
    """Further commands, each of which has a row; the last line that it prints is its figure."""
    seconds: float = 600.0
    """For all items together; the limit of each is a share of it."""
    model: str = "cast_small"
    """What fp32, fp16, bf16, compile and MoCo run."""
    image_size: int = 224
    """Side of their images in pixels."""
    batch: int = 64
    """Images of one pass."""


def items(cfg: Config, folder: Path) -> dict[str, Item]:
    """All items by name; ``folder`` is for what they write."""
    gpus = torch.cuda.device_count() if cfg.device != "cpu" else 0
    several = max(1, gpus) if cfg.device != "cpu" else 2
    shape = ("--model", cfg.model, "--image-size", str(cfg.image_size))
    both = ("--device", cfg.device, *shape, "--batch", str(cfg.batch))
    parts = (str(recipe("benchmarks/device_parts")), *both, "--part")
    together = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(several), *parts)
    precision = ("--precision", "bf16") if gpus else ()
    moco = shlex.join([*shape, "--batch-size", str(4 * cfg.batch), *precision])
    # An epoch of the demo has 9 batches of 256; its end would count as training time.
    train = (sys.executable, str(recipe("benchmarks/train")), "--steps", "8", "--every", "4", "--processes")
    counts = tuple(map(str, sorted({1, max(1, gpus)})))
    speed = (r"│ (\d+) +│ ([\d.]+) +│ ([\d.]+%)", "{} processes: {} images/s, {} waiting")
    fsdp = ("-m", "accelerate.commands.launch", "--config_file", str(recipe("launch/fsdp.yaml", runs=False)))
    quick = shlex.split("--data demo --model nano --image-size 64 --batch-size 32 --knn-every 0")
    steps = ("--num_processes", str(several), str(recipe("moco_in1k")), *quick, "--max-steps", "4")
    passed = r"(\d+ (?:passed|failed).*?) in [\d.]+s"
    return {
        "collectives": Item((sys.executable, *together, "collectives"), 31),
        "SyncBN": Item((sys.executable, *together, "sync-bn"), 31, gpus=1),
        "fp32": Item((sys.executable, *parts, "fp32"), 31),
        "fp16": Item((sys.executable, *parts, "fp16"), 31),
        "bf16": Item((sys.executable, *parts, "bf16"), 31),
        "device-slic": Item((sys.executable, *parts, "device-slic"), 31),
        "tests marked gpu": Item((*PYTEST, "-m", "gpu", *marked()), 90, passed, gpus=1),
        "an mm config": Item((*PYTEST, str(ROOT / MMSEG), "-k", "cast_small_ade20k"), 70, passed, gpus=1),
        "MoCo": Item((*train, *counts, f"--flags={moco}"), 80, *speed),
        "MoCo, device-slic": Item(
            (*train, *counts, f"--flags={moco} --superpixels device-slic:count=196"), 60, *speed, gpus=1
        ),
        "compile": Item((sys.executable, *parts, "compile"), 70, gpus=1),
        "FSDP": Item((sys.executable, *fsdp, *steps, "--out", str(folder / "fsdp")), 40, gpus=2),
    }


def marked() -> tuple[str, ...]:
    """The files of tests that are marked ``gpu``; none without a checkout."""
    paths = (path for top in ("tests", "plugins") for path in sorted((ROOT / top).rglob("test_*.py")))
    return tuple(str(path) for path in paths if "mark.gpu" in path.read_text(encoding="utf-8"))


def run(name: str, item: Item, left: float, limit: float = math.inf) -> Row:
    """Start an item, and wait for it for at most ``left`` and ``limit`` seconds."""
    if left <= 0:
        return Row(name, "OUT OF TIME", "not begun", 0.0)
    until = (began := time.monotonic()) + min(limit, left)
    # A file: the end of a pipe waits for what the command leaves in the background.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        try:
            child = subprocess.Popen(
                item.command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return Row(name, "FAILED", f"cannot start {item.command[0]}: {error.strerror}", 0.0)
        try:
            while (late := child.poll() is None) and not ENDED and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            end(child)
        file.seek(0)
        output = file.read()
    took = time.monotonic() - began
    if ENDED:
        raise SystemExit(128 + ENDED[0])
    if late:
        return Row(name, "OUT OF TIME", f"ended after {took:.0f} s", took, output)
    found = [item.form.format(*match.groups()) for match in re.finditer(item.figure, output)]
    good = child.returncode == 0 and bool(found)
    figure = "; ".join(found) if good else f"exit code {child.returncode}" + ", no figure" * (not found)
    return Row(name, "ok" if good else "FAILED", figure, took, output)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, also in the background, and the sessions of torchrun's workers."""
    pids = [-child.pid]
    with suppress(psutil.Error):
        pids += [process.pid for process in psutil.Process(child.pid).children(recursive=True)]
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    child.wait()


def words(command: str) -> tuple[str, ...]:
    """A command of ``--also``, as a shell splits it."""
    with suppress(ValueError):
        if found := tuple(shlex.split(command)):
            return found
    raise ConfigError(f"--also: got {command!r}, expected a command with closed quotation marks")


def rows(cfg: Config, folder: Path) -> Iterator[Row]:
    """What became of each item that is asked for."""
    if not 0 < cfg.seconds < math.inf:
        raise ConfigError(f"--seconds: got {cfg.seconds}, expected a number above 0")
    known = items(cfg, folder)
    names = {"all": (*known,), "none": ()}.get(cfg.items[0], cfg.items) if cfg.items else ()
    if unknown := set(names) - set(known):
        raise ConfigError(
            f"--items: got {', '.join(sorted(unknown))}, expected {', '.join(known)}, all or none"
        )
    chosen = {name: known[name] for name in names}
    chosen |= {command: Item(words(command), TOGETHER) for command in cfg.also}
    end_of_all = time.monotonic() + cfg.seconds
    for name, item in chosen.items():
        if item.gpus > (torch.cuda.device_count() if cfg.device != "cpu" else 0):
            yield Row(name, "not run", f"needs {item.gpus} GPU{'s' * (item.gpus > 1)}", 0.0)
        elif item.command[: len(PYTEST)] == PYTEST and not (ROOT / MMSEG).is_file():
            yield Row(name, "not run", "needs a checkout", 0.0)
        else:
            print(f"{name} ...", file=sys.stderr, flush=True)
            limit = item.seconds * cfg.seconds / TOGETHER
            yield run(name, item, end_of_all - time.monotonic(), limit)


def place(device: str) -> Iterator[str]:
    """The machine, its driver and libraries, and the commit."""
    yield machine(device)
    if device != "cpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        yield from dict.fromkeys(_said(query).splitlines())
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        yield f"{torch.cuda.device_count()} GPUs, CUDA {torch.version.cuda}, NCCL {nccl}"
    commit = _said(["git", "rev-parse", "--short", "HEAD"]).strip()
    yield f"castssl at {commit or 'no commit'}, {date.today()}"


def _said(command: list[str]) -> str:
    with suppress(OSError):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return ""


def main(cfg: Config) -> None:
    """Print the table, and what the items printed that failed."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        why = "torch finds no GPU" if torch.version.cuda else "torch is for CPUs"
        raise ConfigError(f"no GPU ({why}); see `castssl doctor`. --device cpu runs the items that need none")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, frame: ENDED.append(number))
    with tempfile.TemporaryDirectory() as folder:
        done = list(rows(cfg, Path(folder)))
    print("; ".join(place(cfg.device)))
    print("\n| item | verdict | figure | s |\n| --- | --- | --- | --: |")
    for row in done:
        figure = row.figure.strip().replace("|", "\\|")
        print(f"| {row.name} | {row.verdict} | {figure} | {row.seconds:.0f} |")
    for row in done:
        if row.failed and row.output:
            print(f"\n{row.name}:\n\n```\n" + "\n".join(row.output.splitlines()[-SHOWN:]) + "\n```")
    if any(row.failed for row in done):
        raise SystemExit(1)


if __name__ == "__main__":
    launch(main, Config)
