"""A recipe's settings: frozen dataclass <-> command line flags (tyro) <-> JSON beside the run.

A field's docstring is its help text.  ``--config run.json`` (or the folder of a run) starts from saved
settings, and every other flag overrides them.  The folder that holds a run's ``config.json`` is the run,
wherever it was copied to, unless ``--out`` names another.  A field marked :data:`TYPED` gets its value from
the command line alone.  A config that inherits from :class:`Settings` can check what its types cannot say,
and have defaults that depend on other flags.  This module does not import torch.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

from castssl import fresh_folders
from castssl.errors import CastError, ConfigError
from castssl.fields import build
from castssl.files import write_text
from castssl.system_errors import explain
from castssl.terminal import ignore_closed_streams

if TYPE_CHECKING:
    from typing_extensions import Self

C = TypeVar("C")
FILE = "config.json"
SEEDS = 2**32 - 1
"""The largest seed that Python's, NumPy's and PyTorch's generators all take."""
USAGE = 2
"""The exit code of a bad command line."""
PRESET = "--preset"
"""The flag that names defaults of other flags."""
COMMAND_LINE = "the command line"
"""The name of the program in messages of tyro."""
FREE = {"resume": "free"}
"""Field metadata: a run may be continued with another value."""
MEASURES = {**FREE, "results": "others"}
"""Field metadata: as :data:`FREE`, and another value may give other results on held-out images."""
GROWS = {"resume": "grows"}
"""Field metadata: a run may be continued with a larger value."""
MOVES = {"resume": "moves"}
"""Field metadata: a run may be continued with another value, but not with None for some or some for None."""
TYPED = {"resume": "typed"}
"""Field metadata: only the command line gives it a value, for one start; no file of settings may hold it or
keeps it, and no preset sets it."""


class Settings:
    """The methods of settings beside their fields, with defaults."""

    @classmethod
    def starting(cls, argv: Sequence[str]) -> Self | None:
        """Defaults that depend on other flags (:func:`flag_value` finds these); None: those of the fields.

        It accepts any command line, also one that is wrong.
        """
        return None

    def problems(self) -> list[str]:
        """What is wrong beyond types, in words; a subclass adds its own to those of ``super()``."""
        return []

    def below(self, **least: int) -> list[str]:
        """A problem for each field whose value is below the given one, in words."""
        return [
            f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least {low}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]

    def fitted(self, typed: Collection[str]) -> Self:
        """These settings with defaults that depend on other settings; a subclass's own come on top.

        Args:
            typed: the names of the fields that the command line gives a value; those stay as they are.
        """
        return self

    def backend(self, seeds: str = "seeds") -> str:
        """The spec of the superpixels, with ``seeds`` where they are SEEDS; "" without superpixels."""
        return ""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """What every training run needs; a recipe's config inherits it and adds its own fields."""

    out: str = field(default="", metadata=FREE)
    """Folder of the run; by default runs/RECIPE-DATA-SEED. The same command continues what it finds there."""
    overwrite: bool = field(default=False, metadata=TYPED)
    """Replace files in --out that castssl did not make."""
    seed: int = 0
    """Seed of weights, data order, augmentation and dropout, 0 to 2^32 - 1."""
    epochs: int = field(default=100, metadata=GROWS)
    """Passes over the data; the schedules span all of them."""
    max_steps: int = field(default=0, metadata=FREE)
    """Stop after so many optimizer steps in all, the schedules unchanged; 0 = no limit."""
    accumulate: int = 1
    """Batches whose gradients are added up for one optimizer step."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass (autocast); weights stay in fp32."""
    save_every: int = field(default=0, metadata=FREE)
    """Optimizer steps between checkpoints, besides the one at each epoch's end; 0 = only that."""
    keep: int = field(default=2, metadata=FREE)
    """How many of the latest checkpoints stay on disk."""
    log_every: int = field(default=10, metadata=FREE)
    """Optimizer steps between two lines of log.jsonl."""
    max_bad: float = field(default=0.01, metadata=FREE)
    """Stop when more than this share of the data set's images proved unreadable; they are listed in
    log.jsonl, and the next readable ones take their places. 0 = the first one stops, 1 = none does."""
    other_images: bool = field(default=False, metadata=FREE)
    """Continue the run in --out although the data holds other images than it began with."""
    start_method: Literal["auto", "fork", "spawn", "forkserver"] = field(default="auto", metadata=FREE)
    """How the data-loading processes begin; auto is the system's own. fork is the fastest; spawn and
    forkserver copy no state of the main process, and take seconds to start."""
    track: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = field(default="none", metadata=FREE)
    """Where else the reports go."""

    def total_steps(self, batches: int) -> int:
        """The optimizer steps of the whole run, which the schedules span.

        Args:
            batches: of one epoch.
        """
        return self.epochs * batches // self.accumulate

    def problems(self) -> list[str]:
        """Faults of these settings that their types allow."""
        problems = self.below(seed=0, epochs=0, max_steps=0, accumulate=1, save_every=0, keep=1, log_every=1)
        if self.seed > SEEDS:
            problems.append(
                f"--seed: got {self.seed}, expected 0 to {SEEDS}: NumPy's generator takes no larger one"
            )
        if not 0 <= self.max_bad <= 1:
            problems.append(f"--max-bad: got {self.max_bad}, expected a share from 0 to 1")
        return [*super().problems(), *problems]


def launch(main: Callable[[C], object], config: type[C], argv: Sequence[str] | None = None) -> None:
    """Run a recipe, ``main(parse(config, argv))``; an error of castssl, or a fault of the system that
    :mod:`castssl.system_errors` knows, becomes a message and an exit code.

    The folder of a run that such an error ends before its log has a line is removed, if it is new.

    Raises:
        SystemExit: 2 for a :class:`ConfigError`, 1 for any other :class:`CastError` and for such a fault.
    """
    settings = parse(config, argv)
    from castssl.leaving import leaving  # It imports torch, and wrong flags are reported at once.

    with leaving():
        _run(main, settings)


def _run(main: Callable[[C], object], settings: C) -> None:
    try:
        main(settings)
    except CastError as error:
        fresh_folders.discard()
        print(f"error{_whose()}: {error}{_cause(error)}", file=sys.stderr)
        raise SystemExit(USAGE if isinstance(error, ConfigError) else 1) from None
    except (RuntimeError, OSError) as error:
        if not (fault := explain(error)):
            raise
        goes_on = isinstance(settings, RunConfig)
        remedy = ". The same command goes on from the last checkpoint" if goes_on else ""
        print(f"error{_whose()}: {fault}{remedy}", file=sys.stderr)
        raise SystemExit(1) from None


def parse(config: type[C], argv: Sequence[str] | None = None) -> C:
    """The settings that a command line asks for.

    Args:
        config: a dataclass whose fields have types and docstrings.
        argv: the arguments after the program's name; by default those of this process.

    Raises:
        SystemExit: 0 after ``--help``, 2 after saying on stderr everything that is wrong.
    """
    ignore_closed_streams()
    try:
        return read(config, argv)
    except ConfigError as error:
        if os.environ.get("RANK", "0") == "0":  # All processes of a launcher have the same command line.
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USAGE) from None


def read(config: type[C], argv: Sequence[str] | None = None) -> C:
    """Like :func:`parse`, for use from Python.

    Raises:
        ConfigError: with everything that is wrong.
    """
    path, rest, problems = _take_config(list(sys.argv[1:] if argv is None else argv))
    start: C | None = None
    settings: C | None
    if path is not None:
        try:
            start = _in_folder(load(config, path), path)
        except ConfigError as error:
            problems.append(str(error))
        if flag_value(rest, PRESET) is not None:
            problems.append(f"{PRESET}: --config gives all settings; leave one of them out")
    elif issubclass(config, Settings):
        start = config.starting(rest)
    start = _untyped(start)
    messages = io.StringIO()
    default: dict[str, Any] = {} if start is None else {"default": start}
    try:
        if {"-h", "--help"} & set(rest):
            tyro.cli(config, args=["--help"], description=_help(config), **default)
        with redirect_stderr(messages):
            settings = tyro.cli(config, prog=COMMAND_LINE, args=rest, **default)
    except SystemExit as stop:
        if not stop.code:
            raise
        if path is None or start is not None:  # Else flags would be missing that the file shall give.
            problems += _unboxed(messages.getvalue())
        settings = start
    if path is None and isinstance(settings, Settings):
        settings = settings.fitted(_typed_names(rest))
    if isinstance(settings, Settings) and not problems:
        problems += settings.problems()
    if problems or settings is None:
        listed = "\n  ".join(["the settings do not fit:", *problems])
        raise ConfigError(f"{listed}\n--help lists every option")
    return settings


def _unboxed(message: str) -> list[str]:
    """The lines of a message of tyro without its frame and its reference to ``--help``."""
    lines = (line.strip(" │╭╮╰╯─") if "─" in line else line.strip(" │") for line in message.splitlines())
    return [line for line in lines if line and not line.startswith(("For full", f"{COMMAND_LINE} --help"))]


def check_least(settings: object, **least: float) -> None:
    """Refuse numbers of settings that are too small, and lists that are empty.

    Args:
        settings: a dataclass.
        least: the smallest value of each field, by its name.  None is not compared; each number of a list is,
            and of a list of text only whether it is empty.

    Raises:
        ConfigError: with the first field that is at fault.
    """
    for name, low in least.items():
        value = getattr(settings, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values:
            raise ConfigError(f"--{name.replace('_', '-')}: got nothing, expected one value or more")
        if small := [one for one in values if isinstance(one, int | float) and not one >= low]:
            raise ConfigError(f"--{name.replace('_', '-')}: got {small[0]}, expected {low:g} or more")


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """The value that a command line gives ``flag``, as ``--flag VALUE`` or ``--flag=VALUE``; the last one."""
    values = [word.partition("=")[2] for word in argv if word.startswith(f"{flag}=")]
    values += [value for word, value in pairwise(argv) if word == flag]
    return values[-1] if values else None


def _typed_names(argv: Sequence[str]) -> set[str]:
    """The names of the fields that a command line gives a value: ``{"lr"}`` for ``--lr 1``."""
    flags = [word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")]
    return {*flags, *(flag.removeprefix("no_") for flag in flags)}


def _in_folder(settings: C, path: Path) -> C:
    """The settings with the run's folder where its ``config.json`` lies now.

    Leave to continue with other images is given for one start only.
    """
    folder = path if path.is_dir() else path.parent
    if not isinstance(settings, RunConfig) or not (path.is_dir() or path.name == FILE):
        return settings
    return replace(settings, out=str(folder), other_images=False)


def typed(settings: Any) -> list[str]:
    """The switches of these settings that no file keeps, to be typed again at another start."""
    return [_flag(part) for part in _typed(settings) if getattr(settings, part.name) is True]


def load(config: type[C], path: str | Path) -> C:
    """The settings saved in a JSON file, or in the ``config.json`` of a run's folder.

    Raises:
        ConfigError: if it cannot be read, or with every unknown key, missing key and misfitting value, and
            every key that only the command line may give.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    saved = load_plain(path)
    problems = [
        f"{part.name}: no file of settings may give this; remove it, and type {_flag(part)} if you mean it"
        for part in _typed(config)
        if part.name in saved
    ]
    settings: C = build(config, saved, "", problems)
    if problems:
        raise ConfigError("\n  ".join([f"{path}:", *problems]))
    return settings


def load_plain(path: Path) -> dict[str, Any]:
    """The JSON object in a file, unchecked.

    Raises:
        ConfigError: if there is no such file, or it holds no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip("\0 \n"):
            raise ConfigError(
                f"{path} is empty, as a power cut may leave a file; give the flags of the run and --out"
                f" {path.parent} instead of --config (the first line of its log.jsonl has them)"
            )
        settings = json.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}); --config takes a run's {FILE}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); --config takes a run's {FILE}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}, expected an object of settings")
    return settings


def save(config: Any, path: str | Path, what: str = "settings") -> None:
    """Write a config as JSON; an existing file is replaced whole or not at all.

    Raises:
        CastError: if the system refuses to write it; ``what`` names the content.
    """
    write_text(Path(path), json.dumps(plain(config), indent=2) + "\n", what)


def plain(value: Any) -> Any:
    """``value`` as JSON has it: dataclasses become objects (less :data:`TYPED`), tuples lists, paths text."""
    if is_dataclass(value):
        left_out = _typed(value)
        return {part.name: plain(getattr(value, part.name)) for part in fields(value) if part not in left_out}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def differences(saved: Mapping[str, Any], config: Any) -> list[str]:
    """What of ``config`` forbids to continue a run that was saved with other settings; empty if nothing does.

    Fields marked :data:`FREE` or :data:`TYPED` never do, those marked :data:`GROWS` only if the value is
    smaller than the saved one, those marked :data:`MOVES` only if one of both is None.  A field that the
    saved settings lack had its default then.
    """
    differing = []
    for part in fields(config):
        new, old = plain(getattr(config, part.name)), saved.get(part.name, _default(part))
        rule = part.metadata.get("resume")
        if new == old or rule in ("free", "typed") or old is MISSING or (rule == "grows" and new >= old):
            continue
        if rule == "moves" and new is not None and old is not None:
            continue
        differing.append(f"{_flag(part)}: the run has {old!r}, asked for {new!r}")
    return differing


def measured_with(config: Any) -> str:
    """The fields marked :data:`MEASURES` that differ from their defaults, as flags that begin with a space.

    ``" --window 512"``, for example; "" if all have their defaults.
    """
    chosen = [part for part in fields(config) if part.metadata.get("results") == MEASURES["results"]]
    values = {_flag(part): (plain(getattr(config, part.name)), _default(part)) for part in chosen}
    return "".join(f" {flag} {value}" for flag, (value, default) in values.items() if value != default)


def _typed(config: Any) -> list[Field[Any]]:
    return [part for part in fields(config) if part.metadata.get("resume") == TYPED["resume"]]


def _untyped(settings: Any) -> Any:
    """The settings without what only the command line gives, whatever a preset says; None as it is."""
    return settings and replace(settings, **{part.name: _default(part) for part in _typed(settings)})


def _flag(part: Field[Any]) -> str:
    return f"--{part.name.replace('_', '-')}"


def _default(part: Field[Any]) -> Any:
    return plain(part.default_factory() if part.default_factory is not MISSING else part.default)


def _whose() -> str:
    return f" of process {os.environ['RANK']}" if os.environ.get("RANK", "0") != "0" else ""


def _cause(error: CastError) -> str:
    """The cause of an error as a line of its own; "" if the message has its text already."""
    cause = error.__cause__
    text = (cause.strerror or str(cause)) if isinstance(cause, OSError) else str(cause)
    return "" if cause is None or (text and text in str(error)) else f"\ncaused by {cause!r}"


def _help(config: type[Any]) -> str:
    text = (config.__doc__ or config.__name__).strip()
    if not issubclass(config, RunConfig):
        return f"{text}\n\n--config PATH starts from the settings in a JSON file."
    return (
        f"{text}\n\n--config PATH starts from the settings of an earlier run, and"
        " continues it in the folder of PATH unless --out names another."
    )


def _take_config(argv: list[str]) -> tuple[Path | None, list[str], list[str]]:
    """``--config`` apart from the other arguments: (path, the others, problems)."""
    paths, rest, waiting = [], [], False
    for token in argv:
        if waiting or token.startswith("--config="):
            paths.append(token if waiting else token.partition("=")[2])
            waiting = False
        elif token == "--config":
            waiting = True
        else:
            rest.append(token)
    problems = ["--config: got nothing, expected the path of a saved config"] if waiting else []
    if len(paths) > 1:
        problems.append(f"--config: got {' and '.join(paths)}, expected one")
    return (Path(paths[0]) if paths else None), rest, problems
