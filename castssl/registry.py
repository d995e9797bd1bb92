"""The plugin doors: what is installed, one plugin by name, and its options.

A plugin is an entry point of the group ``castssl.<kind>`` in any installed distribution; castssl's own are no
different.  A factory is called ``factory(**options)`` for superpixels, ``factory(dim, **options)`` for
poolings, ``factory(encoder, labels, **options)`` for objectives, ``factory()`` for data sets,
``factory(config)`` for encoders and ``factory(source, **options)`` for segmenters.  Options are written
``"name:key=value,key=value"``.  This module does not import torch, and listing imports no plugin.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import metadata
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from castssl.errors import AmbiguousPlugin, BrokenPlugin, CastError, ConfigError, ContractError, UnknownPlugin
from castssl.installer import install_plugin, uninstall

if TYPE_CHECKING:
    from castssl.contracts import DataSet, Encoder, Objective, Pooling, Superpixels
    from castssl.encoder_config import EncoderConfig
    from castssl.segmenter import Segmenter

Factory = Callable[..., Any]
Kind = Literal["superpixels", "pooling", "objectives", "datasets", "encoders", "segmenters"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The doors.  ``castssl.contracts.BASES`` names them too, but imports torch."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "superpixels": (),
    "pooling": ("dim",),
    "objectives": ("encoder", "labels"),
    "datasets": (),
    "encoders": ("config",),
    "segmenters": ("source",),
}
"""What a factory of each kind is called with, before its options."""

SHELF: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "castssl-baselines": {
        "objectives": ("clip", "fgn", "flat", "hrn", "transhp"),
        "encoders": ("clip", "colors"),
    },
    "castssl-clustering": {"pooling": ("ctm", "finch", "kmeans", "kmedoids", "token-pooling", "tome")},
    "castssl-lightly": {"objectives": ("barlow-twins", "byol", "dino", "simclr", "vicreg")},
    "castssl-multilabel": {"objectives": ("multilabel",), "encoders": ("timm-features",)},
    "castssl-sam": {"segmenters": ("sam",)},
    "castssl-slic": {"superpixels": ("device-slic", "skimage-slic", "slic")},
}
"""What the distributions of ``plugins/`` register, for the command that installs a missing one."""


class Entry(NamedTuple):
    """One registered plugin, by the metadata of its distribution."""

    name: str
    distribution: str
    version: str


class _Point(NamedTuple):
    point: metadata.EntryPoint
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.point.value})"


def names(kind: str) -> list[Entry]:
    """All plugins registered for ``kind``, by name; a name registered twice is listed twice.

    Imports none of them.

    Raises:
        ConfigError: if there is no such kind.
    """
    return [Entry(p.point.name, p.distribution, p.version) for p in _points(kind)]


def require(kind: str, name: str) -> None:
    """Refuse a name that cannot be loaded, without importing it.

    Raises:
        ConfigError, UnknownPlugin, AmbiguousPlugin: as :func:`load` does.
    """
    _one(kind, name)


def load(kind: str, name: str) -> Factory:
    """The factory registered as ``name``; imports this one plugin only.

    Raises:
        ConfigError: if there is no such kind.
        UnknownPlugin: if no installed distribution registers it.
        AmbiguousPlugin: if it is registered more than once.
        BrokenPlugin: if it does not import (the cause is chained), or if it cannot be called as its kind is.
    """
    plugin = _one(kind, name)
    try:
        factory = plugin.point.load()
    except (Exception, SystemExit) as cause:
        raise BrokenPlugin(
            f"{kind} {name!r} of {plugin} does not import: {type(cause).__name__}: {cause}; "
            f"repair that, or remove it with `{uninstall(plugin.distribution)}`"
        ) from cause
    fault = _fault(kind, factory)
    if fault:
        raise BrokenPlugin(f"{kind} {name!r} of {plugin} {fault}")
    return factory  # type: ignore[no-any-return]


@overload
def build(kind: Literal["superpixels"], spec: str, *args: Any, **options: Any) -> Superpixels: ...
@overload
def build(kind: Literal["pooling"], spec: str, *args: Any, **options: Any) -> Pooling: ...
@overload
def build(kind: Literal["objectives"], spec: str, *args: Any, **options: Any) -> Objective: ...
@overload
def build(kind: Literal["datasets"], spec: str, *args: Any, **options: Any) -> DataSet: ...
@overload
def build(kind: Literal["encoders"], spec: str, *args: Any, **options: Any) -> Encoder: ...
@overload
def build(kind: Literal["segmenters"], spec: str, *args: Any, **options: Any) -> Segmenter: ...
@overload
def build(kind: str, spec: str, *args: Any, **options: Any) -> Any: ...
def build(kind: str, spec: str, *args: Any, **options: Any) -> Any:
    """Build a plugin from ``"name"`` or ``"name:key=value,key=value"``.

    Args:
        kind: one of :data:`KINDS`.
        spec: name and options; values are Python literals, anything else is text.
        args: what the kind's factories are called with: nothing, ``dim``, ``encoder, labels``,
            ``config`` (an :class:`castssl.EncoderConfig`), or ``source``, see :func:`build_segmenter`.
        options: further options, as Python values.

    Raises:
        ConfigError: naming every option that does not fit the factory's signature, and those that do.
        UnknownPlugin, AmbiguousPlugin, BrokenPlugin: as :func:`load` does; BrokenPlugin also if building it
            needs a library that is not installed.
        ContractError: if what it builds does not inherit from the base class of its kind.
    """
    factory, wanted = bind(kind, spec, args, options)
    return _checked(kind, wanted.name, _call(kind, wanted, factory, args, options))


def build_superpixels(config: EncoderConfig, spec: str | None = None) -> Superpixels:
    """The superpixels of an encoder, or others by ``spec``, of those channels that its config names.

    Raises:
        ConfigError, UnknownPlugin, AmbiguousPlugin, BrokenPlugin, ContractError: as :func:`build` does.
    """
    superpixels = build("superpixels", spec or config.superpixels)
    if config.superpixel_channels:
        superpixels.channels = config.superpixel_channels
    return superpixels


def build_segmenter(spec: str) -> Segmenter:
    """Build a segmenter from ``"NAME"``, ``"NAME:SOURCE"`` or ``"NAME:SOURCE,key=value,..."``.

    SOURCE is all that comes before the first ``key=value``; it may contain colons and commas.

    Raises:
        ConfigError, UnknownPlugin, AmbiguousPlugin, BrokenPlugin, ContractError: as :func:`build` does.
        DataError: if the source cannot be read.
    """
    name, _, rest = spec.partition(":")
    parts = list(_split(rest))
    first = next((at for at, part in enumerate(parts) if re.match(r"\s*[A-Za-z_]\w*=", part)), len(parts))
    return build("segmenters", f"{name}:{','.join(parts[first:])}", ",".join(parts[:first]))


def bind(
    kind: str, spec: str, args: tuple[Any, ...] | None = None, options: dict[str, Any] | None = None
) -> tuple[Factory, Spec]:
    """The factory that ``spec`` names, once its options fit; nothing is built.

    Raises:
        ConfigError, UnknownPlugin, AmbiguousPlugin, BrokenPlugin: as :func:`build` does.
    """
    wanted = parse(spec)
    factory = load(kind, wanted.name)
    problems = misfits(factory, ARGUMENTS[kind] if args is None else args, wanted, options or {})
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise ConfigError(f"{kind} {wanted.name!r}:{listed}\n{_accepts(kind, factory)}")
    return factory, wanted


def describe(kind: str, name: str) -> str:
    """Distribution, options with their defaults, and docstring, as text; imports this one plugin.

    Raises:
        ConfigError, UnknownPlugin, AmbiguousPlugin, BrokenPlugin: as :func:`load` does.
    """
    plugin, factory = _one(kind, name), load(kind, name)
    if kind == "datasets":
        data = build(kind, name)
        lines = [
            f"written as {name}:{data.location}" if data.location else f"written as {name}",
            f"splits: {', '.join(data.splits)}",
            "read by index" if data.indexed else "read in order, as a stream",
        ]
    else:
        options = accepted(factory, len(ARGUMENTS[kind]))
        lines = [
            f"called with ({', '.join([*ARGUMENTS[kind], '**options'])})",
            "options:" if options else "no options",
            *(f"  {option}" for option in options),
        ]
    text = inspect.getdoc(factory) or "It has no docstring."
    return "\n".join([f"{kind} {name}: {plugin}", *lines, "", text])


def faults() -> list[str]:
    """One sentence for each distribution whose registrations cannot be read."""
    return [text for distribution, text in _distributions() if distribution is None]


def check_kind(kind: str) -> str:
    """``kind`` itself.

    Raises:
        ConfigError: if there is no such kind.
    """
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise ConfigError(f"there is no kind of plugin {kind!r}{hint}\nkinds: {', '.join(KINDS)}")
    return kind


WORDS = {"true": True, "false": False}
"""Spellings of a command line; as text both would be true."""


class Spec(NamedTuple):
    """A plugin's name and its options as they were written."""

    name: str
    options: Mapping[str, str]


def parse(spec: str) -> Spec:
    """Take ``"name:key=value,key=value"`` apart; a comma within brackets separates nothing.

    Raises:
        ConfigError: if there is no name, a part is not ``key=value``, or a key is given twice.
    """
    name, _, rest = spec.partition(":")
    options: dict[str, str] = {}
    for part in _split(rest):
        key, equals, value = (text.strip() for text in part.partition("="))
        if not equals or not key.isidentifier():
            raise ConfigError(
                f"in {spec!r}: expected key=value, got {part!r}; write name:key=value,key=value"
            )
        if key in options:
            raise ConfigError(f"in {spec!r}: {key!r} is given twice; keep one")
        options[key] = value
    if not name.strip():
        raise ConfigError(f"expected name or name:key=value,key=value, got {spec!r}")
    return Spec(name.strip(), options)


def _split(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for end, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield text[start:end]
            start = end + 1
    if text[start:].strip():
        yield text[start:]


def values(factory: Factory, spec: Spec) -> dict[str, Any]:
    """The options of ``spec`` as Python values: text for options of type ``str``, else literals if valid."""
    hints = _hints(factory)
    return {key: text if hints.get(key) is str else _literal(text) for key, text in spec.options.items()}


def _literal(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def misfits(factory: Factory, args: tuple[Any, ...], spec: Spec, options: Mapping[str, Any]) -> list[str]:
    """Every reason why ``factory`` cannot be called with these arguments, in words; empty if it can."""
    signature = inspect.signature(factory)
    keywords = {**values(factory, spec), **options}
    problems = [f"{key!r} is given as text and as a keyword" for key in spec.options if key in options]
    names = [p.name for p in list(signature.parameters.values())[len(args) :] if p.kind != p.VAR_KEYWORD]
    open_ended = any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())
    hints = _hints(factory)
    for key, value in keywords.items():
        if key not in names and not open_ended:
            problems.append(f"unknown option {key!r}{did_you_mean(key, names)}")
        elif key in hints and not fits(value, hints[key]):
            problems.append(f"{key} = {value!r} is not {_spell(hints[key])}")
    try:
        signature.bind(*args, **{key: value for key, value in keywords.items() if key in names or open_ended})
    except TypeError as fault:
        problems.append(str(fault))
    return problems


def fits(value: object, hint: object) -> bool:
    """True unless ``value`` certainly breaks ``hint``; only plain types, literals and unions are compared."""
    if get_origin(hint) is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return any(fits(value, part) for part in get_args(hint))
    if hint in (int, float):
        allowed = (int, float) if hint is float else (int,)
        return isinstance(value, allowed) and not isinstance(value, bool)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    return True


def accepted(factory: Factory, arguments: int) -> list[str]:
    """``key: type = default`` for each parameter of ``factory`` after its first ``arguments``."""
    hints = _hints(factory)
    parameters = list(inspect.signature(factory).parameters.values())[arguments:]
    return [_show(parameter, hints.get(parameter.name, parameter.annotation)) for parameter in parameters]


def _show(option: inspect.Parameter, hint: object) -> str:
    if option.kind in (option.VAR_KEYWORD, option.VAR_POSITIONAL):
        return str(option)
    spelt = "" if hint is option.empty else f": {_spell(hint)}"
    return f"{option.name}{spelt}" + ("" if option.default is option.empty else f" = {option.default!r}")


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing if no word is close."""
    close = get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _spell(hint: object) -> str:
    text = hint if isinstance(hint, str) else inspect.formatannotation(hint)
    return text.replace("typing.", "").replace("collections.abc.", "")


def _hints(factory: Factory) -> dict[str, Any]:
    target: Any = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return get_type_hints(target)
    except Exception:
        return {}  # Hints may name what only a type checker can see.


def _distributions() -> Iterator[tuple[metadata.Distribution | None, str]]:
    """Distributions that register plugins; (None, reason) for one that cannot be read."""
    for distribution in metadata.distributions():
        try:
            if "castssl." in (distribution.read_text("entry_points.txt") or ""):
                _ = distribution.entry_points, distribution.metadata["Name"], distribution.version
                yield distribution, ""
        except Exception as cause:  # noqa: PERF203
            # One broken distribution must not stop the others.
            where: object = distribution
            if isinstance(distribution, metadata.PathDistribution):
                where = distribution._path
            yield None, f"the metadata in {where} cannot be read: {type(cause).__name__}: {cause}"


def _points(kind: str) -> list[_Point]:
    group = f"castssl.{check_kind(kind)}"
    return [point for point in _points_of(_path_times()) if point.point.group == group]


def _path_times() -> tuple[tuple[str, float], ...]:
    """The folders of sys.path with their times, which change when a distribution is added or removed."""
    folders = [os.path.abspath(entry) for entry in sys.path]
    return tuple((folder, os.path.getmtime(folder) if os.path.exists(folder) else 0.0) for folder in folders)


@lru_cache(maxsize=1)
def _points_of(path_times: tuple[tuple[str, float], ...]) -> list[_Point]:
    """The entry points of all kinds, sorted.  Each model builds several plugins, and reading takes 10 ms."""
    points: dict[tuple[str, ...], _Point] = {}
    for copy, _ in _distributions():
        if copy is None:
            continue
        # Of two copies of one distribution (editable beside installed) Python imports the first on its path.
        first = metadata.distribution(copy.metadata["Name"])
        label = first.metadata["Name"]
        for point in first.entry_points:
            if point.group.startswith("castssl."):
                key = (point.group, point.name, re.sub(r"[-_.]+", "-", label).lower(), point.value)
                points.setdefault(key, _Point(point, label, first.version))
    return [points[key] for key in sorted(points)]


def _one(kind: str, name: str) -> _Point:
    points = _points(kind)
    same = [p for p in points if p.point.name == name]
    if len(same) == 1:
        return same[0]
    if same:
        owners = sorted({p.distribution for p in same})
        raise AmbiguousPlugin(
            f"{kind} {name!r} is registered {len(same)} times: by {' and by '.join(map(str, same))}; "
            f"remove all but one: {' or '.join(f'`{uninstall(owner)}`' for owner in owners)}"
        )
    owner = next((owner for owner, kinds in SHELF.items() if name in kinds.get(kind, ())), None)
    hint = did_you_mean(name, [p.point.name for p in points])
    remedy = f"; {owner} has it: `{install_plugin(owner)}`" if owner else hint
    raise UnknownPlugin(
        f"no {kind} plugin is called {name!r}{remedy}\n"
        f"installed: {', '.join(f'{p.point.name} ({p.distribution} {p.version})' for p in points) or 'none'}"
    )


def _fault(kind: str, factory: object) -> str:
    """Why ``factory`` cannot be called as factories of ``kind`` are; ``""`` if it can."""
    expected = f"expected ({', '.join([*ARGUMENTS[kind], '*', 'option=default, ...'])})"
    if not callable(factory):
        return f"is a {type(factory).__name__}, not a factory that can be called; {expected}"
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as cause:
        return f"has no signature that Python can read ({cause}); {expected}"
    try:
        signature.bind(*ARGUMENTS[kind])
    except TypeError as cause:
        return f"has the signature {signature}, {expected}: {cause}; every option needs a default"
    return ""


def _accepts(kind: str, factory: Factory) -> str:
    return f"it accepts {', '.join(accepted(factory, len(ARGUMENTS[kind]))) or 'no options'}"


def _call(kind: str, wanted: Spec, factory: Factory, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    try:
        return factory(*args, **values(factory, wanted), **options)
    except CastError:
        raise
    except ValueError as cause:
        raise ConfigError(f"{kind} {wanted.name!r}: {cause}; {_accepts(kind, factory)}") from cause
    except ImportError as cause:
        raise BrokenPlugin(f"{kind} {wanted.name!r} needs a library: {cause}") from cause


def _checked(kind: str, name: str, built: Any) -> Any:
    from castssl import contracts  # imports torch

    base = contracts.BASES[check_kind(kind)]
    if not isinstance(built, base):
        raise ContractError(
            f"{kind} {name!r} built a {type(built).__name__}, expected a castssl.contracts.{base.__name__};"
            f" inherit from it, and run `castssl check {kind} {name}`"
        )
    return built
