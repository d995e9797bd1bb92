"""The fields of a dataclass against what was written: command line tokens, JSON values, types in words."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from castssl.registry import did_you_mean

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "nothing",
    Path: "a path",
}


def flag_problems(config: type[Any], argv: Sequence[str], *, complete: bool) -> list[str]:
    """Each wrong flag in words, and with ``complete`` each required one that is missing.

    The parser stops at the first fault, so each flag is tried on its own.
    """
    groups: list[list[str]] = []
    for token in argv:
        if token.startswith("--") or not groups:
            groups.append([*token.split("=", 1)] if token.startswith("--") else [token])
        else:
            groups[-1].append(token)
    known = _leaves(config, "")
    problems = [found for group in groups if (found := _flag_problem(known, *group))]
    given = {_name(group[0]) for group in groups}
    for flag, (part, hint) in known.items():
        if complete and flag not in given and part.default is MISSING and part.default_factory is MISSING:
            problems.append(f"{flag}: missing, expected {spell(hint)}")
    return problems


def _name(token: str) -> str:
    return "--" + token[2:].replace("_", "-")


def _leaves(config: type[Any], prefix: str) -> dict[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(config)
    found: dict[str, tuple[Field[Any], Any]] = {}
    for part in fields(config):
        if is_dataclass(hints[part.name]):
            found |= _leaves(hints[part.name], f"{prefix}{part.name}.")
        else:
            found[_name(f"--{prefix}{part.name}")] = part, hints[part.name]
    return found


def _flag_problem(known: Mapping[str, tuple[Field[Any], Any]], token: str, *given: str) -> str | None:
    if not token.startswith("--"):
        return f"got {token!r}, which belongs to no option"
    flag = _name(token)
    opposite = "--" + flag.removeprefix("--no-")
    stem = opposite if opposite in known and known[opposite][1] is bool else flag
    if stem not in known:
        return f"{token}: unknown option{did_you_mean(flag, known)}"
    hint = known[stem][1]
    default: Any = False if hint is bool else MISSING
    alone = make_dataclass("Alone", [("value", hint, field(default=default))])
    try:
        with redirect_stderr(io.StringIO()):
            tyro.cli(alone, args=["--no-value" if stem != flag else "--value", *given])
    except SystemExit:
        got = repr(" ".join(given)) if given else "nothing"
        return f"{token}: got {got}, expected {spell(hint)}"
    return None


def spell(hint: Any) -> str:
    """A type in plain words: ``tuple[int, ...]`` is "a list of whole numbers"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, UnionType):
        return " or ".join(map(spell, args))
    if origin is tuple and Ellipsis not in args:
        return f"{len(args)} values: " + ", ".join(map(spell, args))
    if origin in (tuple, list):
        many = spell(args[0]).removeprefix("a ")
        return f"a list of {many}{'s' if many.endswith('number') else ''}"
    return WORDS.get(hint, hint.__name__ if isinstance(hint, type) else str(hint))


def build(config: type[Any], saved: Any, where: str, problems: list[str]) -> Any:
    """A dataclass from a JSON object; what does not fit is added to ``problems``, and None comes back."""
    if not isinstance(saved, Mapping):
        problems.append(f"{where or config.__name__}: got {saved!r}, expected an object of settings")
        return None
    hints = get_type_hints(config)
    parts = {part.name: part for part in fields(config)}
    strange = [key for key in saved if key not in parts]
    problems += [f"{where}{key}: unknown setting{did_you_mean(key, parts)}" for key in strange]
    for name, part in parts.items():
        if name not in saved and part.default is MISSING and part.default_factory is MISSING:
            problems.append(f"{where}{name}: missing, expected {spell(hints[name])}")
    given = {k: _value(hints[k], v, f"{where}{k}", problems) for k, v in saved.items() if k in parts}
    return None if problems else config(**given)


def _value(hint: Any, saved: Any, where: str, problems: list[str]) -> Any:
    """A JSON value as its type asks; what does not fit is added to ``problems``."""
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return build(hint, saved, f"{where}.", problems)  # type: ignore[arg-type]
    if origin in (Union, UnionType):
        for part in args:
            attempt: list[str] = []
            made = _value(part, saved, where, attempt)
            if not attempt:
                return made
    elif origin in (tuple, list) and isinstance(saved, list):
        kinds = args * len(saved) if origin is list else args[:1] * len(saved) if Ellipsis in args else args
        if len(kinds) == len(saved):
            pairs = enumerate(zip(kinds, saved, strict=True))
            return origin(_value(kind, part, f"{where}[{i}]", problems) for i, (kind, part) in pairs)
    elif origin is dict and isinstance(saved, dict):
        return {key: _value(args[1], value, f"{where}.{key}", problems) for key, value in saved.items()}
    elif _is_a(hint, saved):
        return Path(saved) if hint is Path else float(saved) if hint is float else saved
    problems.append(f"{where}: got {saved!r}, expected {spell(hint)}")
    return None


def _is_a(hint: Any, saved: Any) -> bool:
    if get_origin(hint) is Literal:
        return saved in get_args(hint)
    if hint in (int, float):
        return isinstance(saved, (int, float) if hint is float else int) and not isinstance(saved, bool)
    return hint is Any or (isinstance(hint, type) and isinstance(saved, str if hint is Path else hint))
