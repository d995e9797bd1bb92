"""Pieces of a page as HTML: all text in them is escaped, whatever it holds."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, NewType

from castssl.errors import printable

Html = NewType("Html", str)
"""Text that a page may hold as it is."""
LONGEST = 2_000
"""Characters of a text from a file, at most."""
COPIED = 100_000
"""Characters of a command, which is useless without its end."""
WIDE = 22
"""Characters of a value that has the room of two."""
COLORS = 8
"""Colors of curves in ``report.css``; further curves are dashed, then dotted."""


class Cell(NamedTuple):
    """The content of one place of a table."""

    content: str | Html
    mark: str = ""
    """A class of ``report.css``: ``best``, ``differs``, ``faint``, a state of a run."""
    plain: bool = True
    """False for HTML."""


def text(value: object, longest: int = LONGEST) -> Html:
    """Escaped text, without control characters, of at most so many characters."""
    shown = printable(str(value))
    return Html(html.escape(shown if len(shown) <= longest else f"{shown[:longest]} ..."))


def join(parts: Iterable[Html]) -> Html:
    """One after the other."""
    return Html("\n".join(parts))


def paragraph(words: str, mark: str = "") -> Html:
    """A paragraph of text.

    Args:
        words: the text.
        mark: a class of ``report.css``.
    """
    return Html(f"<p{_class(mark)}>{text(words)}</p>")


def heading(words: str) -> Html:
    """The heading of a part of a section."""
    return Html(f"<h3>{text(words)}</h3>")


def listing(lines: Sequence[str]) -> Html:
    """A list of sentences in small type; nothing for none."""
    entries = "".join(f"<li>{text(line)}</li>" for line in lines)
    return Html(f'<ul class="notes">{entries}</ul>' if entries else "")


def table(
    head: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, labels: int = 1, caption: str
) -> Html:
    """A table in a frame that scrolls where the page is narrow.

    Args:
        head: a heading for each column.
        rows: as many places each.
        labels: how many of the first columns are text; the others are numbers, or values to compare.
        caption: what the table shows, for a screen reader.
    """
    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>',
        "<thead><tr>",
        *(f'<th scope="col"{_class("number" * (i >= labels))}>{text(h)}</th>' for i, h in enumerate(head)),
        "</tr></thead><tbody>",
    ]
    for row in rows:
        lines.append("<tr>")
        for place, entry in enumerate(row):
            cell = entry if isinstance(entry, Cell) else Cell(entry)
            tag, scope = ("th", ' scope="row"') if place == 0 else ("td", "")
            content = text(cell.content) if cell.plain else cell.content
            size = _size(cell) if place < labels else ""
            mark = " ".join(filter(None, ("number" * (place >= labels), size, cell.mark)))
            lines.append(f"<{tag}{scope}{_class(mark)}>{content}</{tag}>")
        lines.append("</tr>")
    return Html("".join([*lines, "</tbody></table></div>"]))


def facts(pairs: Mapping[str, str | Cell]) -> Html:
    """Names and values side by side."""
    lines = []
    for name, entry in pairs.items():
        cell = entry if isinstance(entry, Cell) else Cell(entry)
        content = text(cell.content) if cell.plain else cell.content
        wide = "long" * (cell.plain and len(cell.content) > WIDE)
        lines.append(f"<div{_class(wide)}><dt>{text(name)}</dt><dd{_class(cell.mark)}>{content}</dd></div>")
    return Html(f'<dl class="cards">{"".join(lines)}</dl>')


def command(words: str) -> Html:
    """A command with a button that copies it."""
    button = '<button class="copy" type="button">copy</button>'
    code = f'<pre tabindex="0"><code>{text(words, COPIED)}</code></pre>'
    return Html(f'<div class="command">{code}{button}</div>')


def details(summary: str, body: Html, *, opened: bool = False) -> Html:
    """A part that is folded away until it is opened."""
    return Html(f"<details{' open' * opened}><summary>{text(summary)}</summary>{body}</details>")


def chart(number: int) -> Html:
    """The place of a chart, which a script draws."""
    return Html(f'<figure class="chart" data-chart="{number}"></figure>')


def grid(parts: Iterable[Html]) -> Html:
    """Charts side by side as far as there is room."""
    return Html(f'<div class="charts">{"".join(parts)}</div>')


def named(name: str, color: int | None) -> Cell:
    """A run's name with the color of its curves; None: without one."""
    swatch = "" if color is None else f'<span class="swatch {color_of(color)}"></span>'
    return Cell(Html(f"{swatch}{text(name)}"), plain=False)


def badge(state: str) -> Cell:
    """The state of a run."""
    return Cell(Html(f'<span class="badge {text(state)}">{text(state)}</span>'), plain=False)


def color_of(number: int) -> str:
    """The classes of the curves with a number: a color and, from the ninth on, a pattern of the line."""
    return f"c{number % COLORS} p{number // COLORS % 3}"


def _size(cell: Cell) -> str:
    """A class for a text that is broken into lines where a table is narrow, also inside a word."""
    if not cell.plain or len(cell.content) <= WIDE:
        return ""
    if len(cell.content) > 2 * WIDE:
        return "long"
    return "word" * (max(map(len, cell.content.split()), default=0) > WIDE)


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""
