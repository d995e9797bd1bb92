"""A report of runs and studies: everything that their files hold, as one page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from castssl.reports import charts, pictures, studies, tables
from castssl.reports.gather import Gathered, Run, Study
from castssl.reports.hierarchies import Progress, hierarchies
from castssl.visualization.page import markup
from castssl.visualization.page.markup import Html
from castssl.visualization.page.report import (
    Chart,
    Dots,
    Hierarchies,
    Legend,
    Section,
    viewer,
    write_report,
)

PICTURED = 3
"""Runs whose pictures are in the page, at most."""


def write(
    path: Path,
    found: Gathered,
    photos: Sequence[tuple[str, Image.Image]],
    remarks: Sequence[str],
    progress: Progress,
) -> list[str]:
    """Write the page of some runs and studies.

    Args:
        path: an HTML file.
        found: what it shows.
        photos: name and image of what the runs' encoders segment; none leaves the viewer out.
        remarks: sentences on these images.
        progress: shows how many segmentations are done, as :func:`castssl.commands.arguments.progress`.

    Returns:
        The remarks on what is missing, which the page has, too.

    Raises:
        CastError: if the system refuses to write it.
    """
    runs, drawn = found.runs, list[Chart | Dots]()
    content: Hierarchies | None = None
    notes = list(remarks)
    if photos:
        content, missing = hierarchies(runs, photos, progress)
        notes += missing
    headings = studies.titles(found.studies)
    sections = [
        Section(f"study{place}", heading, _study(study, runs, drawn))
        for place, (study, heading) in enumerate(zip(found.studies, headings, strict=True))
    ]
    sections += _of_runs(found, drawn) if runs else []
    if content or notes:
        sections.insert(_place(sections, "pictures", "settings"), _hierarchy(content, notes))
    legends = [
        Legend(run.label, run.short if run.label == run.title else run.label, run.color) for run in runs
    ]
    about = f"castssl {version('castssl')}, {tables.moment(time.time())}"
    write_report(path, _title(found), about, sections, runs=legends, charts=drawn, hierarchies=content)
    return [*found.remarks, *notes]


def _title(found: Gathered) -> str:
    if found.studies:
        return ", ".join(studies.titles(found.studies))
    return found.runs[0].name if len(found.runs) == 1 else f"{len(found.runs)} runs"


def _place(sections: Sequence[Section], *anchors: str) -> int:
    return next((i for i, one in enumerate(sections) if one.anchor in anchors), len(sections))


def _study(study: Study, runs: Sequence[Run], drawn: list[Chart | Dots]) -> Html:
    parts = [Html(f'<div class="prose">{studies.tables(study)}</div>'), charts.of_study(study, runs, drawn)]
    if not study.text:
        parts.insert(0, markup.paragraph(f"{study.folder} has no table.md.", "warning"))
    parts.append(markup.details("commands of the study's runs", studies.commands(study)))
    return markup.join(parts)


def _of_runs(found: Gathered, drawn: list[Chart | Dots]) -> list[Section]:
    runs, several = found.runs, len(found.runs) > 1
    shown = markup.join([tables.overview(runs), markup.listing(found.remarks)])
    sections = [Section("runs", "Runs" if several else "Run", shown)]
    results = tables.results(runs)
    if found.studies:
        results = markup.details("results of each run", results)
    sections.append(Section("results", "Results", results))
    sections.append(Section("curves", "Curves", _curves(runs, drawn)))
    sections += _pictures(runs)
    sections.append(Section("settings", "Settings", tables.settings(runs)))
    sections.append(Section("environment", "Environment", tables.environment(runs)))
    sections.append(Section("commands", "Commands" if several else "Command", _commands(runs)))
    events = [tables.events(run) for run in runs if run.history.events]
    return [*sections, Section("log", "Events", markup.join(events))] if events else sections


def _pictures(runs: Sequence[Run]) -> list[Section]:
    shown = [(run, pictures.show(run.summary.folder)) for run in runs[:PICTURED]]
    parts = [part if len(runs) == 1 else markup.details(run.title, part) for run, part in shown if part]
    if not parts:
        return []
    drawn = "runs" if len(runs) > 1 else "run"
    text = f"What the {drawn} drew during training. A click shows a picture in full size."
    text += f" Of {len(runs)} runs, those of the first {PICTURED}." if len(runs) > PICTURED else ""
    return [Section("pictures", "Pictures", markup.join([markup.paragraph(text, "faint"), *parts]))]


def _curves(runs: Sequence[Run], drawn: list[Chart | Dots]) -> Html:
    """Charts for the runs of each recipe."""
    by_recipe: dict[str, list[tuple[int, Run]]] = {}
    for place, run in enumerate(runs):
        by_recipe.setdefault(run.summary.recipe or "unknown recipe", []).append((place, run))
    parts = [Html('<div id="controls"></div>')]
    most = charts.points(len(runs))
    for recipe, own in by_recipe.items():
        parts += [markup.heading(recipe)] if len(by_recipe) > 1 else []
        parts.append(charts.of_runs(own, drawn, most))
    return markup.join([*parts, charts.note(most)])


def _commands(runs: Sequence[Run]) -> Html:
    if len(runs) == 1:
        return tables.commands(runs[0])
    return markup.join(markup.details(run.title, tables.commands(run)) for run in runs)


def _hierarchy(content: Hierarchies | None, notes: Sequence[str]) -> Section:
    text = (
        "Segments that merge one by one, from the finest to one, inside the encoder's own levels. The upper"
        " slider goes through the training: new weights by the run's seed, the checkpoints that are kept, and"
        " the trained encoder. Point at a segment for its area, its parent and its children."
    )
    parts = [markup.paragraph(text, "faint"), viewer()] if content else []
    return Section("hierarchy", "Hierarchy", markup.join([*parts, markup.listing(notes)]))
