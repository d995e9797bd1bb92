"""Write a new plugin: an installable distribution with one working plugin, and its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from castssl.errors import ConfigError
from castssl.files import write_text
from castssl.outputs import check_outputs
from castssl.registry import KINDS, check_kind, names
from castssl.shipped import folder


def write(kind: str, name: str, into: Path, *, overwrite: bool = False) -> Path:
    """Write the distribution ``castssl-<name>`` into a folder of that name.

    Args:
        kind: which door the plugin is for.
        name: what it will be called by; lower-case letters, digits, ``-`` and ``_``.
        into: where its folder is put.
        overwrite: replace files of an earlier one.

    Returns:
        The new folder.

    Raises:
        ConfigError: if the kind does not exist, the name is malformed or taken, or one of the files exists.
    """
    plugin = into / f"castssl-{_check_name(check_kind(kind), name)}"
    files = render(kind, name)
    check_outputs([plugin / path for path in files], overwrite=overwrite)
    for path, text in files.items():
        write_text(plugin / path, text)
    return plugin


def render(kind: str, name: str) -> dict[Path, str]:
    """The files of a new plugin, by path: the template's, less those of the other kinds, renamed."""
    source = folder("template")
    others: list[str] = [other for other in KINDS if other != kind]
    foreign = {f"{other}.py" for other in others} | {f"test_{other}.py" for other in others}
    files: dict[Path, str] = {}
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_file() and path.name not in foreign and "__pycache__" not in inside.parts:
            text = path.read_text(encoding="utf-8")
            if path.name == "pyproject.toml":
                text = _without_entry_points(text, others)
            files[Path(_rename(str(inside), name))] = _rename(text, name).replace("KIND", kind)
    return files


def _check_name(kind: str, name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ConfigError(f"a plugin's name is like 'my-pool': letters, digits, - and _; got {name!r}")
    taken = [entry.distribution for entry in names(kind) if entry.name == name]
    if taken:
        raise ConfigError(f"{kind} {name!r} is registered by {taken[0]} already; choose another name")
    return name


def _without_entry_points(text: str, kinds: list[str]) -> str:
    """The pyproject.toml without the tables of these kinds; tables are set apart by blank lines."""
    tables = text.split("\n\n")
    return "\n\n".join(t for t in tables if not any(f'entry-points."castssl.{kind}"' in t for kind in kinds))


def _rename(text: str, name: str) -> str:
    module = name.replace("-", "_")
    camel = "".join(part.capitalize() for part in module.split("_"))
    text = text.replace("castssl_template", f"castssl_{module}").replace("Template", camel)
    return text.replace("template", name)
