"""Options of a plugin: from ``"name:key=value,key=value"`` to the keywords of a factory's signature."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from castssl.errors import ConfigError

Factory = Callable[..., Any]
WORDS = {"true": True, "false": False}
"""Spellings that a command line invites; as text they would both be true."""


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
    for at, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield text[start:at]
            start = at + 1
    if text[start:].strip():
        yield text[start:]


def values(factory: Factory, spec: Spec) -> dict[str, Any]:
    """The options of ``spec`` as Python values: literals where they are some, and the option is no text."""
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
    given = {**values(factory, spec), **options}
    found = [f"{key!r} is given as text and as a keyword" for key in spec.options if key in options]
    known = [p.name for p in list(signature.parameters.values())[len(args) :] if p.kind != p.VAR_KEYWORD]
    open_ended = any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())
    hints = _hints(factory)
    for key, value in given.items():
        if key not in known and not open_ended:
            found.append(f"unknown option {key!r}{did_you_mean(key, known)}")
        elif key in hints and not fits(value, hints[key]):
            found.append(f"{key} = {value!r} is not {_spell(hints[key])}")
    try:
        signature.bind(*args, **{key: value for key, value in given.items() if key in known or open_ended})
    except TypeError as fault:
        found.append(str(fault))
    return found


def fits(value: object, hint: object) -> bool:
    """True unless ``value`` certainly breaks ``hint``; only plain types, literals and unions are judged."""
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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing if no known word is close."""
    close = get_close_matches(word, list(known), n=1)
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
