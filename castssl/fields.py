"""A dataclass from the values of a JSON object, and its types in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from castssl.registry import did_you_mean

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "nothing",
    Path: "a path",
}


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
    return WORDS.get(hint, hint.__name__ if _is_class(hint) else str(hint))


def build(config: type[Any], saved: Any, where: str, problems: list[str]) -> Any:
    """A dataclass from a JSON object; what does not fit is added to ``problems``, and the result is None."""
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
    values = {k: _value(hints[k], v, f"{where}{k}", problems) for k, v in saved.items() if k in parts}
    return None if problems else config(**values)


def _value(hint: Any, saved: Any, where: str, problems: list[str]) -> Any:
    """A JSON value as its type asks; what does not fit is added to ``problems``."""
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return build(hint, saved, f"{where}.", problems)  # type: ignore[arg-type]
    if origin in (Union, UnionType):
        for part in args:
            attempt: list[str] = []
            value = _value(part, saved, where, attempt)
            if not attempt:
                return value
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
    return hint is Any or (_is_class(hint) and isinstance(saved, str if hint is Path else hint))


def _is_class(hint: Any) -> bool:
    """Python 3.10 takes ``tuple[int, ...]`` for a class, too."""
    return isinstance(hint, type) and get_origin(hint) is None
