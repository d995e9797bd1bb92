"""A sheet of a study's table as Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

_MARKS = {"": "{}", "bold": "**{}**", "italic": "*{}*"}
_MACROS = {"": "{}", "bold": r"\textbf{{{}}}", "italic": r"\textit{{{}}}"}
_LATEX = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "–": "--"},
}


class Entry(NamedTuple):
    """The content of one place of a sheet."""

    text: str
    style: Literal["", "bold", "italic"] = ""


@dataclass(frozen=True)
class Sheet:
    """Rows of equally many entries.

    Attributes:
        head: the names of the columns.
        body: the rows.
        foot: rows of another kind, which a rule separates from the body where the format has rules.
        labels: how many of the first columns are text; the others are numbers.
    """

    head: Sequence[str]
    body: Sequence[Sequence[Entry]]
    foot: Sequence[Sequence[Entry]]
    labels: int


def markdown(sheet: Sheet) -> list[str]:
    """The lines of a Markdown table, its numbers aligned to the right."""

    def line(entries: Sequence[Entry]) -> str:
        texts = (_MARKS[entry.style].format(entry.text.replace("|", "\\|")) for entry in entries)
        return f"| {' | '.join(texts)} |"

    rule = ["---" if column < sheet.labels else "---:" for column in range(len(sheet.head))]
    rows = [list(map(Entry, sheet.head)), list(map(Entry, rule)), *sheet.body, *sheet.foot]
    return [line(row) for row in rows]


def latex(sheet: Sheet) -> list[str]:
    r"""The lines of a ``tabular``, with the rules of the package booktabs."""

    def line(entries: Sequence[Entry]) -> str:
        text = " & ".join(_MACROS[entry.style].format(_escape(entry.text)) for entry in entries)
        # LaTeX would read either as an option of the command before it.
        return ("{}" if text.startswith(("[", "*")) else "") + text + r" \\"

    columns = "".join("l" if column < sheet.labels else "r" for column in range(len(sheet.head)))
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line(list(map(Entry, sheet.head))),
        r"\midrule",
        *map(line, sheet.body),
        *([r"\midrule"] if sheet.foot else []),
        *map(line, sheet.foot),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _escape(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)  # A minus sign, which is longer than a hyphen.
