"""Kill a small run of a recipe again and again, and check that it always continues as if never interrupted.

    python -m tests.soak.soak --recipe moco_in1k --rounds 200 --seed 0

Each round starts the same command and ends it with SIGKILL: in every other round while a checkpoint is being
written, else at a random moment of a random step, sometimes before the first one.  In a third of the rounds
only the main process is killed, and its data workers must notice.  Every start must continue after the latest
whole checkpoint and lose at most one step.  At the end, weights, optimizer, random streams and results must
equal those of a run that was never killed, bit for bit.  Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from tests.forked import Forked
from tests.training.processes import same

SHAPE = ("--model", "nano", "--sizes", "16", "8", "4")
COMMON = (
    *("--image-size", "32"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--batch-size", "16"),
    *("--workers", "2", "--save-every", "1", "--log-every", "1", "--keep", "2"),
)
LABELED = ("--lr", "0.3", "--warmup-epochs", "1", "--ema", "0.5", "--branch", "ema", "--knn-every", "0")
RECIPES: Mapping[str, tuple[str, ...]] = {
    "moco_in1k": (
        *SHAPE,
        *COMMON,
        *("--hidden", "16", "--out-dim", "8", "--lr", "1e-3", "--warmup-epochs", "1", "--knn-every", "0"),
    ),
    "pretrain": (
        *SHAPE,
        *COMMON,
        *("--objective", "moco:hidden=16,out=8", "--lr", "1e-3", "--warmup-epochs", "1", "--knn-every", "2"),
    ),
    "deit_in1k": (*SHAPE, *COMMON, *LABELED, "--eval-every", "1"),
    "hcast": (*SHAPE, *COMMON, *LABELED, "--eval-every", "1", "--repeats", "1", "--free-grain", "0.3"),
    "multilabel": (
        *(*SHAPE, *COMMON, "--warmup-epochs", "1", "--eval-every", "1", "--knn-every", "2"),
        *("--text", "learned:8", "--augment", "none", "--lr", "0.01", "--patience", "0", "--stop-after", "0"),
    ),
    # These take the model from --weights.
    "probe_in1k": (*COMMON, "--lr", "0.8", "--eval-every", "1"),
    "segment": (*COMMON, "--head", "segmenter", "--eval-every", "1"),
    "finetune_voc": (*COMMON, "--eval-every", "1"),
}
"""The flags of a small run of each recipe; between them, every kind of periodic evaluation happens."""
WEIGHTED = ("probe_in1k", "segment", "finetune_voc")
PIXELS = ("segment", "finetune_voc")
"""Recipes that learn label maps."""
PER_EPOCH = 3
"""Steps of an epoch of the demo images made here."""
MOST = 3
"""Steps that a round makes at most before it is killed in the next."""
PATIENCE = 300.0
"""Seconds after which a run that makes no step has failed; machines may be busy."""
ORPHANED = 20.0
"""Seconds after which the data workers of a killed process must have ended."""
KINDS = ("checkpoint", "step", "checkpoint", "step", "checkpoint", "step", "checkpoint", "start")


class Failure(Exception):
    """Something that must not happen."""


@dataclass
class Tally:
    """What happened."""

    recipe: str
    counts: Counter[str] = field(default_factory=Counter)
    """Rounds, kills by moment, starts that went on."""
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def table(self) -> Table:
        """All of it, for the terminal."""
        shown = Table(title=f"kill -9 of {self.recipe}", show_header=False)
        for name in ("rounds", "killed mid-checkpoint", "killed elsewhere", "only the main process killed"):
            shown.add_row(name, str(self.counts[name]))
        shown.add_row("started anew before any checkpoint", str(self.counts["new"]))
        shown.add_row("resumed from the latest whole checkpoint", str(self.counts["resumed"]))
        shown.add_row("failures", str(len(self.failures)))
        shown.add_row("seconds", f"{self.seconds:.0f}")
        return shown

    def closing(self) -> str:
        """One line that states the result."""
        counts = self.counts
        return (
            f"{self.recipe}: {counts['rounds']} kills, {counts['killed mid-checkpoint']} of them while a"
            f" checkpoint was being written, {len(self.failures)} failures, {self.seconds:.0f} s"
        )


class Process:
    """The recipe in a session of its own, so that it can be killed with all its children."""

    def __init__(self, recipe: str, folder: Path, out: Path, *flags: str) -> None:
        self.out = out
        self._output = folder / f"{out.name}.txt"
        self._output.unlink(missing_ok=True)
        self.forked = Forked([f"recipes/{recipe}.py", "--out", str(out), *flags], self._output, self._output)

    def output(self) -> str:
        """What it printed."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def wait_for(self, pattern: str, step: int) -> None:
        """Return when a file of this pattern lies in ``checkpoints/``, or a checkpoint of ``step`` or later.

        The second because on a busy machine this process may sleep while a file is written and renamed.

        Raises:
            Failure: if the process ends before, or takes forever.
        """
        folder, end = self.out / "checkpoints", time.monotonic() + PATIENCE
        while next(folder.glob(pattern), None) is None and not any(
            int(path.stem.removeprefix("step-")) >= step for path in folder.glob("step-*.pt")
        ):
            if (code := self.forked.poll()) is not None:
                raise Failure(f"ended by itself with {code}: {self.output()[-2000:]}")
            if time.monotonic() > end:
                raise Failure(f"no {pattern} after {PATIENCE:.0f} s: {self.output()[-2000:]}")
            time.sleep(0.001)

    def kill(self, *, group: bool) -> None:
        """SIGKILL to the process, or to it and all its children."""
        if group:
            self.forked.send_to_all(signal.SIGKILL)
        else:
            with suppress(ProcessLookupError):
                self.forked.send_signal(signal.SIGKILL)
        self.forked.wait()

    def finish(self) -> None:
        """Wait until it ends well."""
        if code := self.forked.wait(None):
            raise Failure(f"ended with {code}: {self.output()[-2000:]}")

    def children_left(self) -> list[int]:
        """Processes of its session that still run."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.forked.pid and state != "Z":
                    found.append(int(stat.parent.name))
        return found


class Soak:
    """The rounds on one run folder."""

    def __init__(self, recipe: str, folder: Path, rounds: int, seed: int) -> None:
        self.folder, self.out, self.recipe = folder, folder / "killed", recipe
        self.tally = Tally(recipe)
        self._chance = random.Random(seed)
        self._seconds_to_start = 4.0
        self._orphans: list[tuple[float, Process]] = []
        # Twice what the rounds need: on a busy machine a killed run makes some steps more.
        epochs = 2 * (rounds + 2) * (MOST + 1) // PER_EPOCH + 1
        self._flags = (
            *("--data", _data(recipe, folder), "--epochs", str(epochs), "--seed", str(seed)),
            *RECIPES[recipe],
            *(("--weights", str(_weights(folder))) if recipe in WEIGHTED else ()),
        )

    def round(self, number: int) -> str:
        """Start and kill once: what happened, in words.

        Raises:
            Failure: if the run did not go on as it should.
        """
        kind, group = KINDS[number % len(KINDS)], bool(self._chance.randrange(3))
        before, began = _latest(self.out), time.monotonic()
        process = Process(self.recipe, self.folder, self.out, *self._flags)
        try:
            if kind == "start":
                time.sleep(self._chance.uniform(0.0, self._seconds_to_start))
            else:
                self._train(process, kind, before, began)
        finally:
            process.kill(group=group)
        partial = (
            next((self.out / "checkpoints").glob(".step-*.partial"), None) if kind == "checkpoint" else None
        )
        self._note(process, mid=partial is not None, group=group, before=before)
        after = _latest(self.out)
        self._check(before, after)
        self._look_after_orphans()
        where = f"while writing {partial.name}" if partial else "between checkpoints"
        return f"{kind}: step {before} -> {after}, killed {where}{'' if group else ', main process only'}"

    def _look_after_orphans(self) -> None:
        """Data workers look for their parent every 5 seconds."""
        old = [process for since, process in self._orphans if time.monotonic() - since > ORPHANED]
        self._orphans = [(since, process) for since, process in self._orphans if process not in old]
        if pids := [pid for process in old for pid in process.children_left()]:
            raise Failure(f"data workers {pids} still run {ORPHANED:.0f} s after their main process")

    def end(self) -> str:
        """Let the run finish, and compare it with one that was never killed."""
        most = str((_latest(self.out) or 0) + MOST)
        straight = self.folder / "straight"
        for out in (self.out, straight):
            process = Process(self.recipe, self.folder, out, *self._flags, "--max-steps", most)
            process.finish()
        self._look_after_orphans()
        _compare(self.out, straight)
        return f"after {most} steps equal, bit for bit, to a run never killed"

    def _train(self, process: Process, kind: str, before: int | None, began: float) -> None:
        steps = self._chance.randint(1, MOST)
        # The first save clears half-written files of the round before, which would be taken for its own.
        first = (before or 0) + 1
        process.wait_for(f".step-{first:08d}.pt.partial", first)
        self._seconds_to_start = time.monotonic() - began
        if kind == "checkpoint":
            process.wait_for(f".step-{first + steps:08d}.pt.partial", first + steps)
            time.sleep(self._chance.uniform(0.0, 0.004))
        else:
            last = first + steps - 1
            process.wait_for(f"step-{last:08d}.pt", last)
            time.sleep(self._chance.uniform(0.0, 0.3))

    def _note(self, process: Process, *, mid: bool, group: bool, before: int | None) -> None:
        counts = self.tally.counts
        counts["rounds"] += 1
        counts["killed mid-checkpoint" if mid else "killed elsewhere"] += 1
        counts["only the main process killed"] += not group
        if not group:
            self._orphans.append((time.monotonic(), process))
        output = re.search(r"goes on after step (\d+)|a new run", process.output().replace("\n", " "))
        if output is None:
            return  # Killed before it could say so.
        counts["resumed" if output[1] else "new"] += 1
        if (int(output[1]) if output[1] else None) != before:
            raise Failure(f"{output[0]}, but the latest whole checkpoint was {before}")

    def _check(self, before: int | None, after: int | None) -> None:
        if (after or 0) < (before or 0):
            raise Failure(f"went back from step {before} to {after}")
        done = [line["step"] for line in _lines(self.out) if "loss" in line]
        if done != list(range(1, len(done) + 1)):
            raise Failure(f"the log's steps are not 1, 2, 3, ...: {done[-10:]}")
        if len(done) > (after or 0) + 1:
            raise Failure(f"step {len(done)} was done, but only {after} saved")


def _image_files(folder: Path) -> Path:
    os.environ["CASTSSL_CACHE"] = str(folder / "cache")
    from castssl.datasets.demo import dataset as demo

    return demo.root(size=32, per_class=6, surroundings="fixed")


def _data(recipe: str, folder: Path) -> str:
    """The demo's images; for segmentation with label maps: their dark pixels, and the others."""
    root = _image_files(folder)
    if recipe == "multilabel":
        return "demo-many:size=32,images=48"
    if recipe not in PIXELS:
        return f"folder:{root}"
    pairs = folder / "pairs"
    for path in [path for split in ("train", "val") for path in sorted((root / split).rglob("*.png"))]:
        split, *names = path.relative_to(root).parts
        name = "-".join(names)
        with Image.open(path) as photo:
            labels = photo.convert("L").point(lambda value: int(value > 100))
            for kind, image in (("images", photo.convert("RGB")), ("labels", labels)):
                (pairs / kind / split).mkdir(parents=True, exist_ok=True)
                image.save(pairs / kind / split / name)
    return f"pairs:{pairs}?classes=2"


def _weights(folder: Path) -> Path:
    """An untrained encoder, as a finished run leaves it."""
    from castssl.checkpoints.native import save_encoder
    from castssl.models.create import create

    torch.manual_seed(0)
    superpixels = "seeds:count=16,bins=5,iterations=2"
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels=superpixels)
    return save_encoder(encoder, folder / "encoder.safetensors")


def _latest(out: Path) -> int | None:
    """The step of the last checkpoint whose every byte is there, by its check sums."""
    for path in sorted((out / "checkpoints").glob("step-*.pt"), reverse=True):
        with suppress(zipfile.BadZipFile):
            if zipfile.ZipFile(path).testzip() is None:
                return int(path.stem.removeprefix("step-"))
    return None


def _lines(out: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    if not (out / "log.jsonl").exists():
        return found
    for line in (out / "log.jsonl").read_text().splitlines():
        with suppress(ValueError):  # The last one may be cut off.
            found.append(json.loads(line))
    return found


def _compare(killed: Path, straight: Path) -> None:
    names = [sorted(str(p.relative_to(out)) for p in out.rglob("*")) for out in (killed, straight)]
    if names[0] != names[1]:
        raise Failure(f"left over or lost: {set(names[0]) ^ set(names[1])}")
    # The order of a safetensors file's metadata is not fixed, so its bytes are not compared.
    for path in killed.glob("*.safetensors"):
        if not same(load_file(path), load_file(straight / path.name)):
            raise Failure(f"{path.name} differs from that of a run never killed")
    results = [json.loads((out / "results.json").read_text()) for out in (killed, straight)]
    if results[0] != results[1]:
        raise Failure(f"the results {results[0]} differ from those of a run never killed, {results[1]}")
    last = [
        torch.load(max(out.glob("checkpoints/step-*.pt")), weights_only=True) for out in (killed, straight)
    ]
    for part in ("module", "optimizer", "random", "step", "batch", "batches"):
        if not same(last[0][part], last[1][part]):
            raise Failure(f"the checkpoints' {part} differs from that of a run never killed")


def soak(rounds: int, seed: int, folder: Path, recipe: str = "moco_in1k") -> Tally:
    """Run the rounds in ``folder``, a line for each, and compare."""
    began, work = time.monotonic(), Soak(recipe, folder, rounds, seed)
    for number in range(rounds + 1):
        name = f"round {number + 1}/{rounds}" if number < rounds else "end"
        try:
            output = work.round(number) if number < rounds else work.end()
        except Failure as failure:
            work.tally.failures.append(f"{name}: {failure}")
            output = f"FAILED: {failure}"
        work.tally.seconds = time.monotonic() - began
        print(f"{work.tally.seconds:6.0f} s  {name}  {output}", flush=True)
    return work.tally


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=RECIPES, default="moco_in1k")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tally = soak(args.rounds, args.seed, Path(folder), args.recipe)
    Console().print(tally.table())
    for failure in tally.failures:
        print(failure)
    print(tally.closing())
    return 1 if tally.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
