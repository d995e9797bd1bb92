"""The page of ``castssl report``: sections of text and tables, charts, and the viewer of hierarchies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from castssl.errors import printable
from castssl.files import atomic_write
from castssl.visualization.page import Shown, encode
from castssl.visualization.page.assemble import DATA, assemble, source, stored
from castssl.visualization.page.markup import Html, text

LARGEST = 1e30
"""Numbers from here on are not drawn."""
STYLES = ["viewer.css", "report.css"]


class Section(NamedTuple):
    """A part of a page with a heading."""

    anchor: str
    """Its place in the page's address: letters alone."""
    title: str
    body: Html


class Curve(NamedTuple):
    """One line of a chart."""

    run: int
    """Its place among the runs of the page."""
    places: tuple[Sequence[float], Sequence[float], Sequence[float]]
    """(n,) each: steps, epochs and hours."""
    values: Sequence[float]
    """(n,)"""


class Level(NamedTuple):
    """A line across a chart, or a band where it differs between runs."""

    name: str
    low: float
    high: float
    """As the low one for a line."""
    shown: str
    """The values as text."""


class Chart(NamedTuple):
    """Curves over a training."""

    title: str
    unit: str
    """Empty without one."""
    curves: Sequence[Curve]
    levels: Sequence[Level] = ()
    """Horizontal, such as the chance level."""
    note: str = ""
    """What is drawn."""
    logarithmic: bool = False
    """It may be drawn over a logarithmic axis."""
    from_zero: bool = False
    """The axis begins at zero."""


class Dots(NamedTuple):
    """A study's results in one metric: a line of dots for each row of its table."""

    title: str
    unit: str
    rows: Sequence[str]
    """The names of the rows."""
    seeds: Sequence[Sequence[float]]
    """The values of each row."""
    levels: Sequence[Level] = ()
    note: str = ""


class Legend(NamedTuple):
    """What the curves of a run are called."""

    name: str
    short: str
    """At the end of a curve."""
    color: int
    """Runs of one color are shown and hidden together."""


class Moment(NamedTuple):
    """A moment of the training of some models."""

    name: str
    models: Sequence[int]
    """Of each model that is shown side by side: its place among the segments of an image."""
    labels: Sequence[str]
    """Of each: the moment that it is at, which may be an earlier one."""


class Hierarchies(NamedTuple):
    """The content of the viewer."""

    models: Sequence[str]
    moments: Sequence[Moment]
    images: Sequence[Shown]
    """Each with the segments of all models at all moments."""


def write_report(
    path: Path,
    title: str,
    about: str,
    sections: Sequence[Section],
    *,
    runs: Sequence[Legend],
    charts: Sequence[Chart | Dots],
    hierarchies: Hierarchies | None,
) -> None:
    """Write a page by :func:`castssl.files.atomic_write`.

    Args:
        path: an HTML file.
        title: of the page.
        about: a sentence below it.
        sections: in order; a chart is where :func:`castssl.visualization.page.markup.chart` has its number,
            and the viewer where :func:`viewer` is.
        runs: of the curves.
        charts: by number.
        hierarchies: what the viewer shows; None if no section has a viewer.

    Raises:
        CastError: if the system refuses to write it.
    """
    scripts = ["report.js", *(["viewer.js"] if hierarchies else [])]
    head, tail = assemble("report.html", STYLES, scripts).split(DATA)
    links = "".join(f'<a href="#{one.anchor}">{text(one.title)}</a>' for one in sections)
    body = "\n".join(
        f'<section id="{one.anchor}"><h2>{text(one.title)}</h2>\n{one.body}</section>' for one in sections
    )
    marks = {"title": text(title), "about": text(about), "links": links, "sections": body}
    for name, content in marks.items():  # The sections are last: a text in them replaces nothing.
        head = head.replace(f"<!-- {name} -->", content)
    with atomic_write(path, "page") as aside, aside.open("w", encoding="utf-8", newline="") as file:
        # File names may contain bytes that are not valid UTF-8.
        file.write(head.encode("utf-8", "backslashreplace").decode())
        merged = [chart._replace(levels=_merged(chart.levels)) for chart in charts]
        file.write(stored(_plain({"runs": runs, "charts": merged}), 'id="charts"'))
        if hierarchies:
            for image in hierarchies.images:
                file.write(stored(encode(image), 'class="image"'))
            names = {"images": [image.name for image in hierarchies.images]}
            file.write(stored(_plain({**hierarchies._asdict(), **names}), 'id="about"'))
        file.write(tail)


def viewer() -> Html:
    """The place of the viewer, in one section of a page."""
    return Html(f'<div id="viewer">{source("viewer.html")}</div>')


def _plain(value: Any) -> Any:
    """Dictionaries, named tuples and sequences as JSON has them: printable text, floats of six digits."""
    if isinstance(value, Legend | Chart | Dots | Curve | Level | Moment):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, str):
        return printable(value)
    return _short(value) if isinstance(value, float) else value


def _merged(levels: Sequence[Level]) -> list[Level]:
    """The levels, those of one place together; without those that no axis can hold."""
    names: dict[tuple[float | None, float | None, str], list[str]] = {}
    for one in levels:
        names.setdefault((_short(one.low), _short(one.high), one.shown), []).append(one.name)
    return [
        Level(", ".join(together), low, high, shown)
        for (low, high, shown), together in names.items()
        if low is not None and high is not None
    ]


def _short(value: float) -> float | None:
    """Six digits; None for what no axis can hold."""
    return float(f"{value:.6g}") if abs(value) < LARGEST else None
