"""A study: a grid over recipes' flags, as steps (one run of one recipe each) that cells share."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from castssl.errors import ConfigError
from castssl.shipped import folder

SEED = "seed"
"""The key whose values are repetitions of one cell, and not rows of their own."""
RESULTS = "results.json"
"""What a finished run leaves in its folder."""
WEIGHTS = "encoder.safetensors"
"""What a pretraining run leaves for the recipe that follows it."""
ALLOW = "--allow-commands"
LONGEST = 200
"""Bytes of a run's folder's name before the hash; file systems take 255 in all."""
LEAVES = (
    "DIR receives table.md (with each cell's command), table.tex, table.csv, cells.csv, table.png, and a"
    " folder a run."
)


def is_seed(key: str) -> bool:
    """True for the keys of a grid whose values are repetitions."""
    return key.rpartition(".")[2] == SEED


@dataclass(frozen=True)
class Step:
    """One run of one recipe."""

    recipe: Path
    name: str
    """Of its folder below the study's."""
    flags: tuple[str, ...]
    """Its command line, without ``--out``."""
    after: Step | None = None
    """The run whose encoder it starts from."""

    def folder(self, out: Path) -> Path:
        """Where it runs."""
        return out / self.name

    def command(self, out: Path, launcher: Sequence[str] = ()) -> list[str]:
        """What to type, exactly; ``launcher`` takes the place of the Python interpreter."""
        start = list(launcher) or [sys.executable]
        weights = ["--weights", str(self.after.folder(out) / WEIGHTS)] if self.after else []
        return [*start, _short(self.recipe), *self.flags, *weights, "--out", str(self.folder(out))]

    def results(self, out: Path) -> dict[str, dict[str, float]] | None:
        """What the run found; None if it is not finished, or a power cut left the file damaged."""
        path = self.folder(out) / RESULTS
        if not path.is_file():
            return None
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        return dict(content) if isinstance(content, dict) else None


@dataclass(frozen=True)
class Cell:
    """One combination of the grid's values, and the steps that lead to its results."""

    values: Mapping[str, str]
    steps: tuple[Step, ...]
    part: str = "trained"
    """The column of the runs' results that counts."""

    @property
    def row(self) -> tuple[str, ...]:
        """The values but the seed: cells of one row are repetitions."""
        return tuple(value for key, value in self.values.items() if not is_seed(key))

    @property
    def seeds(self) -> tuple[str, ...]:
        """The values of the seed: cells of two rows with the same seeds are a pair."""
        return tuple(value for key, value in self.values.items() if is_seed(key))


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared.

    Args:
        title: the table's heading.
        recipe: a recipe's file.
        grid: values by flag, in the order of the table's columns.  A key ``NAME.FLAG`` is a flag of the
            recipe NAME, for a study of two recipes.  A value of several words is several arguments;
            ``True`` and ``False`` are ``--flag`` and ``--no-flag``.
        flags: arguments of every run of ``recipe``.
        then: a recipe that takes the first one's encoder by ``--weights``, such as the linear probe.
        then_flags: arguments of every run of ``then``.
        columns: the results and costs of the table, in this order, or ``all``; if empty, the three most
            important results of :mod:`castssl.evaluation.report`, as far as they fit into 80 characters.
        data: False if the recipe reads no images and so takes no ``--data``.
        tables: a folder of the tables below the study's, for studies that share runs.
        references: baselines in the table's last rows; None is all that the runs have.
        published: Markdown of others' numbers, by how ``--data`` begins; below the table, those of the data,
            or all if none are.

    Raises:
        ConfigError: if a key has no value or is there twice, or a recipe's file is missing.
    """

    title: str
    recipe: Path
    grid: Mapping[str, Sequence[str]]
    flags: Sequence[str] = ()
    then: Path | None = None
    then_flags: Sequence[str] = ()
    columns: Sequence[str] = ()
    data: bool = True
    tables: str = ""
    references: Sequence[str] | None = None
    published: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for recipe in filter(None, (self.recipe, self.then)):
            if not recipe.is_file():
                raise ConfigError(f"there is no recipe {recipe}; give its file, such as recipes/moco_in1k.py")
        for key, values in self.grid.items():
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"--grid {key}: got {list(values)}, expected values that differ")

    def cells(self) -> list[Cell]:
        """All combinations, the last key varying fastest."""
        return [
            self._cell(dict(zip(self.grid, values, strict=True))) for values in product(*self.grid.values())
        ]

    def _cell(self, values: dict[str, str]) -> Cell:
        first = {key: value for key, value in values.items() if "." not in key}
        steps = [step(self.recipe, first, self.flags)]
        if self.then:
            second = {key.partition(".")[2]: value for key, value in values.items() if "." in key}
            steps.append(step(self.then, second, self.then_flags, steps[0]))
        return Cell(values, tuple(steps))


def _short(path: Path) -> str:
    """Relative to the working directory if it lies below: tables quote commands that are typed elsewhere."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def step(recipe: Path, values: Mapping[str, str], flags: Sequence[str], after: Step | None = None) -> Step:
    """The run of a recipe.

    Args:
        recipe: its file.
        values: flags by name, which also name the run's folder.
        flags: further arguments.
        after: the run whose encoder it starts from.
    """
    arguments = (*flags, *(word for key, value in values.items() for word in _argument(key, value)))
    # The hash keeps runs with other common flags apart; a run's folder holds one configuration for ever.
    parts = [*arguments, after.name if after else "", *_own(recipe)]
    mark = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    words = [re.sub(r"[^\w.=-]+", "_", f"{key}={value}") for key, value in values.items()]
    name = "-".join([recipe.stem, *words]).encode("utf-8", "surrogateescape")
    if len(name) > LONGEST:
        name = name[:LONGEST].decode("utf-8", "ignore").encode()
    return Step(recipe, f"{name.decode('utf-8', 'surrogateescape')}-{mark}", arguments, after)


def _own(recipe: Path) -> list[str]:
    """The path of a recipe that does not come with castssl: another one may have its name."""
    path = recipe.resolve()
    return [] if path.is_relative_to(folder("recipes").resolve()) else [str(path)]


def _argument(key: str, value: str) -> list[str]:
    flag = key.replace("_", "-")
    if value in ("True", "False"):
        return [f"--{flag}" if value == "True" else f"--no-{flag}"]
    return [f"--{flag}", *split(value, f"--grid {key}")]


def split(text: str, flag: str) -> list[str]:
    """The words of a text as a shell splits it.

    Raises:
        ConfigError: naming ``flag``, if a quotation is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: got {text!r} ({error}); quote it as for a shell") from error


def parse(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``key=value,value`` texts as a grid; a comma inside a plugin's options belongs to them.

    ``pooling=graph:centroids=random,exact=True,tome`` has the values ``graph:centroids=random,exact=True``
    and ``tome``.

    Raises:
        ConfigError: if a text is not of this form, or a key is given twice.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, rest = text.partition("=")
        if not equals or not key or not rest:
            raise ConfigError(f"--grid {text}: expected KEY=VALUE,VALUE,... such as pooling=graph,tome")
        if key in grid:
            raise ConfigError(f"--grid {key} is given twice; put all its values into one")
        grid[key] = tuple(_values(rest))
    return grid


def _values(text: str) -> list[str]:
    values: list[str] = []
    for piece in text.split(","):
        option = "=" in piece and ":" not in piece.partition("=")[0]
        if option and values and ":" in values[-1]:
            values[-1] += f",{piece}"
        else:
            values.append(piece)
    return values


def from_one(text: str) -> int:
    """The whole number from 1 that an argument is.

    Raises:
        ArgumentTypeError: if it is none.
    """
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number from 1")
    return int(text)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-commands``: only the command line allows to run commands in names of data."""
    text = "run pipe:COMMAND in the name of data, and read what it prints"
    parser.add_argument(ALLOW, action="store_true", help=text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every study."""
    parser.epilog = parser.epilog or LEAVES
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/ablations/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace files that no study made")
    parser.add_argument("--jobs", type=from_one, default=1, metavar="N", help="runs at once (default: 1)")
    cluster = "where submitit runs them (default: local, this machine)"
    parser.add_argument("--cluster", choices=("local", "slurm"), default="local", help=cluster)
    job = "submitit's, as gpus_per_node=8"
    parser.add_argument("--job", action="append", default=[], metavar="KEY=VALUE", help=job)
    parser.add_argument("--launcher", default="", metavar="'COMMAND'", help="such as 'accelerate launch'")
    add_commands(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    columns = "results by their names in results.json, GFLOPs, ms, or all (default: those of the study)"
    parser.add_argument("--columns", nargs="+", default=(), metavar="NAME", help=columns)
    parser.add_argument("rest", nargs="*", metavar="-- FLAGS", help="arguments of every run of the recipe")
