"""The commands and programs of a tutorial, in order, and what it promises that they print.

A fence of ``bash`` is run.  One of ``python`` is run, too, or saved if its first line is ``# NAME.py``.
One of ``text`` directly after a fence that is run holds lines of its output, in order: ``...`` stands for
anything.
Other fences are refused, so that a page holds no command that nothing runs.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.house import source

PAGES = [path for path in source.files() if path.parts[:2] == ("docs", "tutorials") and path.stem != "index"]
FENCE = re.compile(r"(?ms)^```([^\n`]*)\n(.*?)^```[ ]*$")


class Step(NamedTuple):
    """What is done at one place of a page."""

    line: int
    """Of the page, where the fence begins."""
    language: str
    """``bash`` or ``python``."""
    code: str
    file: str
    """The name under which a program is saved; empty if the code is run."""
    expected: tuple[str, ...]
    """Lines of the output."""


def steps(page: str) -> list[Step]:
    """The steps of a page.

    Raises:
        ValueError: if a fence has another language, output stands without a command, or there is no step.
    """
    found: list[Step] = []
    end = -1
    for match in FENCE.finditer(page):
        language, code = match[1].strip(), match[2]
        line = page.count("\n", 0, match.start()) + 1
        if language == "text":
            if not found or found[-1].file or page[end : match.start()].strip():
                raise ValueError(f"line {line}: output stands directly after the command that prints it")
            found[-1] = found[-1]._replace(expected=tuple(code.splitlines()))
        elif language in {"bash", "python"}:
            name = re.match(r"# ([\w-]+\.py)\n", code) if language == "python" else None
            found.append(Step(line, language, code, name[1] if name else "", ()))
        else:
            what = language or "no language"
            raise ValueError(f"line {line}: a fence of {what}, expected bash, python or text")
        end = match.end()
    if not found:
        raise ValueError("the page has no step")
    return found


def missing(expected: tuple[str, ...], output: str) -> str:
    """The first expected line that does not follow the ones before it in an output; empty if all do."""
    rest = iter(output.splitlines())
    for line in expected:
        pattern = ".*".join(re.escape(part) for part in line.rstrip().split("..."))
        if line.strip() != "..." and not any(re.fullmatch(pattern, one.rstrip()) for one in rest):
            return line
    return ""


def run(page: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Step]:
    """Do the steps of a page in a folder, and yield each that is done.

    Raises:
        AssertionError: naming the line, if a step fails or does not print what the page has.
    """
    for step in steps(page):
        if step.file:
            (folder / step.file).write_text(step.code, encoding="utf-8")
        else:
            start = ["bash", "-euo", "pipefail", "-c"] if step.language == "bash" else ["python", "-c"]
            done = subprocess.run(
                [*start, step.code],
                cwd=folder,
                env=dict(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            output = done.stdout[-5000:]
            assert done.returncode == 0, f"line {step.line}: exit code {done.returncode}\n{output}"
            lost = missing(step.expected, done.stdout)
            assert not lost, f"line {step.line}: no line {lost!r} in its place in\n{output}"
        yield step
