"""The plugin doors: what is installed, one plugin by name, and its options.

A plugin is an entry point of the group ``castssl.<kind>`` in any installed distribution; castssl's own are no
different.  A factory is called ``factory(**options)`` for superpixels, ``factory(dim, **options)`` for
poolings, ``factory(encoder, labels, **options)`` for objectives, ``factory()`` for data sets and
``factory(config)`` for encoders.  This module does not import torch, and listing imports no plugin.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, overload

from castssl.docstrings import first_line
from castssl.errors import AmbiguousPlugin, BrokenPlugin, CastError, ConfigError, ContractError, UnknownPlugin
from castssl.installer import install_plugin, uninstall
from castssl.options import Spec, accepted, did_you_mean, misfits, parse, values

if TYPE_CHECKING:
    from castssl.contracts import DataSet, Encoder, Objective, Pooling, Superpixels

Kind = Literal["superpixels", "pooling", "objectives", "datasets", "encoders"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The doors.  ``castssl.contracts`` names them too, but imports torch."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "superpixels": (),
    "pooling": ("dim",),
    "objectives": ("encoder", "labels"),
    "datasets": (),
    "encoders": ("config",),
}
"""What a factory of each kind is called with, before its options."""

SHELF: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "castssl-baselines": {
        "objectives": ("clip", "fgn", "flat", "hrn", "transhp"),
        "encoders": ("clip",),
    },
    "castssl-clustering": {"pooling": ("ctm", "finch", "kmeans", "kmedoids", "token-pooling", "tome")},
    "castssl-lightly": {"objectives": ("barlow-twins", "byol", "dino", "simclr", "vicreg")},
    "castssl-slic": {"superpixels": ("device-slic", "skimage-slic", "slic")},
}
"""What the distributions of ``plugins/`` register, to say how one that is missing is installed."""


class Entry(NamedTuple):
    """One registered plugin, as its distribution's metadata tell."""

    name: str
    distribution: str
    version: str
    summary: str
    """The first line of its docstring; ``""`` if there is none to be read."""
    value: str
    """``module:attribute``."""


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
    return [
        Entry(p.point.name, p.distribution, p.version, first_line(*_target(p.point)), p.point.value)
        for p in _points(kind)
    ]


def require(kind: str, name: str) -> None:
    """Refuse a name that cannot be loaded, without importing it.

    Raises:
        ConfigError, UnknownPlugin, AmbiguousPlugin: as :func:`load` does.
    """
    _one(kind, name)


def load(kind: str, name: str) -> Callable[..., Any]:
    """The factory registered as ``name``; imports this one plugin only.

    Raises:
        ConfigError: if there is no such kind.
        UnknownPlugin: if no installed distribution registers it.
        AmbiguousPlugin: if it is registered more than once.
        BrokenPlugin: if it does not import (the cause is chained), or if it cannot be called as its kind is.
    """
    found = _one(kind, name)
    try:
        factory = found.point.load()
    except (Exception, SystemExit) as cause:
        raise BrokenPlugin(
            f"{kind} {name!r} of {found} does not import: {type(cause).__name__}: {cause}; "
            f"repair that, or remove it with `{uninstall(found.distribution)}`"
        ) from cause
    fault = _fault(kind, factory)
    if fault:
        raise BrokenPlugin(f"{kind} {name!r} of {found} {fault}")
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
def build(kind: str, spec: str, *args: Any, **options: Any) -> Any: ...
def build(kind: str, spec: str, *args: Any, **options: Any) -> Any:
    """Build a plugin from ``"name"`` or ``"name:key=value,key=value"``.

    Args:
        kind: one of :data:`KINDS`.
        spec: name and options; values are Python literals, anything else is text.
        args: what the kind's factories are called with: nothing, ``dim``, ``encoder, labels``, or
            ``config``, an :class:`castssl.EncoderConfig`.
        options: further options, as Python values.

    Raises:
        ConfigError: naming every option that does not fit the factory's signature, and those that do.
        UnknownPlugin, AmbiguousPlugin, BrokenPlugin: as :func:`load` does; BrokenPlugin also if building it
            needs a library that is not installed.
        ContractError: if what it builds does not inherit from the base class of its kind.
    """
    factory, wanted = bind(kind, spec, args, options)
    return _checked(kind, wanted.name, _call(kind, wanted, factory, args, options))


def bind(
    kind: str, spec: str, args: tuple[Any, ...] | None = None, options: dict[str, Any] | None = None
) -> tuple[Callable[..., Any], Spec]:
    """The factory that ``spec`` names, once its options fit; nothing is built.

    Raises:
        ConfigError, UnknownPlugin, AmbiguousPlugin, BrokenPlugin: as :func:`build` does.
    """
    wanted = parse(spec)
    factory = load(kind, wanted.name)
    found = misfits(factory, ARGUMENTS[kind] if args is None else args, wanted, options or {})
    if found:
        listed = "".join(f"\n  - {misfit}" for misfit in found)
        raise ConfigError(f"{kind} {wanted.name!r}:{listed}\n{_accepts(kind, factory)}")
    return factory, wanted


def describe(kind: str, name: str) -> str:
    """Distribution, options with their defaults, and docstring, as text; imports this one plugin.

    Raises:
        ConfigError, UnknownPlugin, AmbiguousPlugin, BrokenPlugin: as :func:`load` does.
    """
    found, factory = _one(kind, name), load(kind, name)
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
    return "\n".join([f"{kind} {name}: {found}", *lines, "", text])


def faults() -> list[str]:
    """One sentence for each distribution whose registrations cannot be read."""
    return [text for found, text in _distributions() if found is None]


def check_kind(kind: str) -> str:
    """``kind`` itself.

    Raises:
        ConfigError: if there is no such kind.
    """
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise ConfigError(f"there is no kind of plugin {kind!r}{hint}\nkinds: {', '.join(KINDS)}")
    return kind


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
    found: dict[tuple[str, str, str], _Point] = {}
    for copy, _ in _distributions():
        if copy is None:
            continue
        # Of two copies of one distribution (editable beside installed) Python imports the first on its path.
        first = metadata.distribution(copy.metadata["Name"])
        label = first.metadata["Name"]
        for point in first.entry_points:
            if point.group == group:
                key = (point.name, re.sub(r"[-_.]+", "-", label).lower(), point.value)
                found.setdefault(key, _Point(point, label, first.version))
    return [found[key] for key in sorted(found)]


def _one(kind: str, name: str) -> _Point:
    points = _points(kind)
    found = [p for p in points if p.point.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        owners = sorted({p.distribution for p in found})
        raise AmbiguousPlugin(
            f"{kind} {name!r} is registered {len(found)} times: by {' and by '.join(map(str, found))}; "
            f"remove all but one: {' or '.join(f'`{uninstall(owner)}`' for owner in owners)}"
        )
    known = [p.point.name for p in points]
    owner = next((owner for owner, kinds in SHELF.items() if name in kinds.get(kind, ())), None)
    remedy = f"; {owner} has it: `{install_plugin(owner)}`" if owner else did_you_mean(name, known)
    raise UnknownPlugin(
        f"no {kind} is called {name!r}{remedy}\n"
        f"installed: {', '.join(f'{p.point.name} ({p.distribution} {p.version})' for p in points) or 'none'}"
    )


def _target(point: metadata.EntryPoint) -> tuple[str, str]:
    """Module and attribute of an entry point, whose own properties fail on some malformed values."""
    module, _, attribute = point.value.partition("[")[0].partition(":")
    return module.strip(), attribute.strip()


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


def _accepts(kind: str, factory: Callable[..., Any]) -> str:
    return f"it accepts {', '.join(accepted(factory, len(ARGUMENTS[kind]))) or 'no options'}"


def _call(
    kind: str, wanted: Spec, factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> Any:
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
