"""A study's Markdown as HTML, and the results that its table shows."""

from __future__ import annotations

from collections.abc import Sequence

from markdown_it import MarkdownIt

from castssl.errors import printable
from castssl.evaluation.report import by_importance, metric
from castssl.reports.gather import Study, names
from castssl.visualization.page.markup import Html

SHOWN = 4
"""Results with a chart where the table cannot be read."""


def title(study: Study) -> str:
    """The heading of its table, or its folder's name."""
    first = study.text.lstrip().partition("\n")[0]
    return first.removeprefix("# ").strip() if first.startswith("# ") else study.folder.resolve().name


def titles(found: Sequence[Study]) -> list[str]:
    """The headings of studies, with their folders where several have one heading."""
    headings = [title(study) for study in found]
    folders = names([study.folder for study in found])
    return [
        f"{heading} ({folder})" if headings.count(heading) > 1 else heading
        for heading, folder in zip(headings, folders, strict=True)
    ]


def columns(study: Study) -> list[str]:
    """Names of the results in the study's table, else the most important ones."""
    names = by_importance(dict.fromkeys(name for row in study.rows for name in row.results))
    head = next((line for line in study.text.splitlines() if line.startswith("| ")), "")
    titles = {part.strip() for part in head.split("|")}
    return [name for name in names if metric(name).title in titles] or names[:SHOWN]


def tables(study: Study) -> Html:
    """Its tables and notes, without the heading and the commands; HTML and links in it are shown as text."""
    text = study.text.partition("## Commands")[0]
    if text.lstrip().startswith("# "):
        text = text.lstrip().partition("\n")[2]
    return _html(text)


def commands(study: Study) -> Html:
    """The command of each of its runs."""
    return _html(study.text.partition("## Commands")[2])


def _html(text: str) -> Html:
    # Nothing in a file may become a link or a picture: a page loads nothing.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])
    tokens = parser.parse(printable(text))
    for token in tokens:
        if token.tag.startswith("h") and token.tag[1:].isdecimal():
            token.tag = "h3"
        # The page's policy forbids styles of single elements.
        if token.attrs.pop("style", "") == "text-align:right":
            token.attrSet("class", "number")
    html = parser.renderer.render(tokens, parser.options, {})
    html = html.replace(
        "<table>", '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
    )
    return Html(html.replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">'))
