"""The page docs/numbers.md, and every figure of a paper in the other documents, from docs/published.

    python docs/write_numbers.py            # write them
    python docs/write_numbers.py --check    # name what differs, and exit with 1

A document marks a figure by a comment behind it, ``68.1<!-- cast-4/CAST-S/IN-1K -->``: table, row and column.
QUOTED names the figures in docstrings.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "published"
PAGE = Path("docs", "numbers.md")
PAPERS = ("cast", "hcast", "hsvlt", "free_grained")
MARKED = re.compile(r"(?P<value>[\d.,]*\d)(?P<mark>\*{0,2}<!-- (?P<name>[^<>]+/[^<>]+) -->)")
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?!\w)")
QUOTED: dict[str, tuple[str, ...]] = {
    "recipes/deit_in1k.py": ("cast-deit/CAST-S/top-1",),
    "recipes/finetune_voc.py": ("cast-3a/CAST-S/after, mIoU", "cast-3a/CAST-S/after, boundary F"),
    "recipes/hcast.py": ("hcast-living17/H-CAST/FPA", "hcast-living17/H-CAST/TICE"),
    "recipes/moco_in1k.py": ("cast-4/CAST-S/IN-1K", "cast-5a/graph/IN-100"),
    "recipes/multilabel.py": ("hsvlt/HSVLT/VOC07", "hsvlt/HSVLT/COCO14", "hsvlt/HSVLT/NUS-WIDE"),
    "recipes/probe_in1k.py": ("cast-4/CAST-S/IN-1K", "cast-5a/graph/IN-100"),
    "recipes/retrieve_voc.py": ("cast-3a/CAST-S/before, mIoU", "cast-3a/CAST-S/before, boundary F"),
    "recipes/segment.py": (
        *("cast-3a/CAST-S/after, mIoU", "cast-3b/CAST-S/ADE20K, mIoU", "cast-3b/CAST-S/Context, mIoU"),
        *("cast-3a/CAST-S/after, boundary F", "cast-3b/CAST-S/ADE20K, boundary F"),
        "cast-3b/CAST-S/Context, boundary F",
    ),
    "recipes/ablations/centroids.py": tuple(
        f"cast-5b/{row}/IN-100" for row in ("farthest point sampling", "random", "PoWER-BERT")
    ),
    "recipes/ablations/latency.py": tuple(
        f"cast-7/{tokens} tokens/{column}"
        for column in ("blocks", "graph pooling", "sampling alone")
        for tokens in (196, 64, 32, 16)
    ),
    "recipes/ablations/pooling.py": tuple(
        f"cast-5a/{row}/IN-100"
        for row in ("graph", "random", "K-means", "K-medoids", "FINCH", "Token Pooling", "CTM", "ToMe")
    ),
    "recipes/ablations/sizes.py": tuple(
        f"cast-5c/{row}/IN-100"
        for row in (
            *("196, 32, 16, 8", "196, 64, 32, 16", "196, 128, 64, 32"),
            *("324, 64, 32, 16", "324, 128, 64, 32"),
        )
    ),
    "recipes/ablations/superpixels.py": ("cast-6/SEEDS/IN-1K", "cast-6/SLIC/IN-1K"),
    "recipes/ablations/test_sizes.py": tuple(
        f"cast-5d/{row}/IN-100"
        for row in (
            *("196, 64, 32, 16", "196, 32, 16, 8", "196, 128, 64, 32"),
            *("324, 64, 32, 16", "324, 128, 64, 32"),
        )
    ),
}
"""The figures in the paragraph of a module's docstring that begins with "Expect" or "The paper", in order."""


@dataclass(frozen=True)
class Table:
    """A table of a paper; the fields are those of docs/published/cast.toml."""

    id: str
    title: str
    source: str
    unit: str
    columns: list[str]
    tolerance: list[str]
    rows: dict[str, list[str]]
    remark: str = ""
    small: str = ""
    by: list[str] = field(default_factory=list)
    by_row: dict[str, list[str]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    made: dict[str, list[str]] = field(default_factory=dict)

    def commands(self, row: str) -> list[str]:
        """The commands of a row."""
        return self.by_row.get(row, self.by)

    def figures(self) -> Iterator[tuple[str, str]]:
        """The name of each figure, and the figure."""
        for row, values in self.rows.items():
            for column, value in zip(self.columns, values, strict=True):
                if value:
                    yield f"{self.id}/{row}/{column}", value


@dataclass(frozen=True)
class Paper:
    """A paper and its tables."""

    name: str
    title: str
    venue: str
    url: str
    tables: list[Table]
    remark: str = ""


def read(data: Path = DATA) -> list[Paper]:
    """The papers of a folder of data."""
    papers = []
    for name in PAPERS:
        found = _toml(path := data / f"{name}.toml")
        poster = found.pop("poster", None)
        tables = [_table(path, table) for table in found.pop("tables", [])]
        with _named(path, "its poster"):
            tables += list(_posters(**poster)) if poster else []
        with _named(path, "its first lines"):
            papers.append(Paper(**found, tables=tables))
    return papers


def _table(path: Path, values: Mapping[str, Any]) -> Table:
    """A table with a figure, or "", in each column of each row.

    Raises:
        SystemExit: with the name of the table, and of a row of another length.
    """
    with _named(path, f"the table {values.get('id', values.get('title', 'without an id'))!r}"):
        table = Table(**values)
        for row, figures in {**table.rows, "tolerance": table.tolerance}.items():
            if len(figures) != len(table.columns):
                raise ValueError(f"{row} has {len(figures)} values, expected {len(table.columns)}")
        return table


@contextmanager
def _named(path: Path, part: str) -> Iterator[None]:
    """Say in which part of a file of data a fault is.

    Raises:
        SystemExit: in place of an error of a missing, unknown or wrong key.
    """
    try:
        yield
    except KeyError as error:
        raise SystemExit(f"{path}: {part}: there is no {error}") from error
    except (TypeError, ValueError, AttributeError, OSError) as error:
        raise SystemExit(f"{path}: {part}: {error}") from error


def _toml(path: Path) -> dict[str, Any]:
    tomllib: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    with _named(path, "the file"):  # A TOMLDecodeError is a ValueError.
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def _posters(
    *, file: str, data: Mapping[str, str], methods: Mapping[str, str], titles: list[str], **shared: Any
) -> Iterator[Table]:
    """A table for each data set of a CSV file, which has a row for each data set and method."""
    with (ROOT / file).open(encoding="utf-8") as lines:
        printed = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    columns, command, weights = (shared.pop(key) for key in ("columns", "by", "weights"))
    made = shared.pop("made")
    for name, root in data.items():
        rows = {
            row["method"]: [row[column] for column in columns]
            for row in printed
            if row["data"] == name and row["method"] != "gain"
        }
        known = [row for row in rows if row in methods]
        yield Table(
            id=f"hcast-{root}",
            title=f"BREEDS: {name}",
            columns=titles,
            rows=rows,
            by_row={row: [command.replace("DATA", root).replace("METHOD", methods[row])] for row in known},
            weights=dict.fromkeys(known, weights),
            made={key.split("/", 1)[1]: how for key, how in made.items() if key.split("/")[0] == name},
            **shared,
        )


def figures(papers: list[Paper]) -> dict[str, str]:
    """All figures by name."""
    return {name: value for paper in papers for table in paper.tables for name, value in table.figures()}


def page(papers: list[Paper], data: Path = DATA) -> str:
    """The page, in Markdown."""
    about = _toml(path := data / "about.toml")
    with _named(path, "its texts"):
        parts, made, weights = [about["introduction"]], about["made"], about["weights"]
        licenses = {key: found["license"] for key, found in weights.items()}
        texts = [f"- **{found['license']}.** {found['text']}" for found in weights.values()]
    for paper in papers:
        remark = f"\n{paper.remark}\n" if paper.remark else ""
        parts.append(f"## {paper.name}\n\n[{paper.title}]({paper.url}), {paper.venue}.\n{remark}")
        parts += ["\n".join(_section(table, licenses, made)) for table in paper.tables]
    closing = "castssl's own weights are those of your runs; the code is under Apache-2.0."
    parts.append("\n".join(["## Licenses of the weights\n", *texts, "", closing, ""]))
    return "\n".join(parts)


def _section(table: Table, licenses: Mapping[str, str], made: Mapping[str, str]) -> Iterator[str]:
    """The lines of a table and of what belongs to it."""
    yield f"### {table.title}\n"
    yield f"In {table.unit}. Read in: {table.source}.{' ' + table.remark if table.remark else ''}\n"
    letters: dict[tuple[str, ...], str] = {}
    for row in table.rows:
        if commands := tuple(table.commands(row)):
            letters.setdefault(commands, chr(ord("a") + len(letters)))
    heads = ["model", *table.columns, "made here", "command", "license of the weights"]
    yield _line(heads)
    yield _line(["---", *["--:"] * len(table.columns), "---", "---", "---"])
    for row, values in table.rows.items():
        made_here = {c: table.made[f"{row}/{c}"][0] for c in table.columns if f"{row}/{c}" in table.made}
        here = [f"{column} {value}" for column, value in made_here.items()]
        letter = letters.get(tuple(table.commands(row)), "–")
        license = licenses.get(table.weights.get(row, ""), "–")
        yield _line([row, *(value or "–" for value in values), ", ".join(here) or "–", letter, license])
    within = [f"± {tolerance}" if tolerance else "–" for tolerance in table.tolerance]
    yield _line(["*tolerance*", *within, "", "", ""])
    kinds = dict.fromkeys(how[1] for how in table.made.values())
    yield from [f"\nMade here by {made[kind]}." for kind in kinds]
    if table.small:
        yield f"\n[At small scale](../{table.small})."
    if letters:
        lines = [f"# {letter}\n" + "\n".join(commands) for commands, letter in letters.items()]
        yield "\n".join(["\n```bash", *lines, "```"])
    yield ""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def fill(document: str, known: Mapping[str, str]) -> str:
    """A document with the figure in front of each mark.

    Raises:
        SystemExit: with the name of a mark that is no figure.
    """

    def figure(found: re.Match[str]) -> str:
        if (name := found["name"]) not in known:
            raise SystemExit(f"<!-- {name} --> names no figure of docs/published; expected TABLE/ROW/COLUMN")
        return known[name] + found["mark"]

    return MARKED.sub(figure, document)


def quote(source: str, known: list[str]) -> str:
    """A module with these figures in the paragraph of its docstring that has the paper's.

    Raises:
        SystemExit: if that paragraph has another number of figures.
    """
    start = re.search(r"(?m)^(Expect|The paper)\b", source)
    end = re.search(r"\n\n|\"\"\"", source[start.start() :]) if start else None
    if start is None or end is None:
        raise SystemExit("no paragraph of a docstring begins with 'Expect' or 'The paper'")
    paragraph = source[start.start() : start.start() + end.start()]
    if len(found := DECIMAL.findall(paragraph)) != len(known):
        raise SystemExit(f"{len(found)} figures, expected {len(known)}: {paragraph}")
    left = iter(known)

    def figure(old: re.Match[str]) -> str:
        new = next(left)
        return old[0] if float(old[0]) == float(new) else new

    return source.replace(paragraph, DECIMAL.sub(figure, paragraph), 1)


def documents() -> Iterator[Path]:
    """The Markdown files that git knows, but for the page itself and the changelog."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = Path(name)
        if path != PAGE and path.parts[0] != "changelog" and (ROOT / path).is_file():
            yield path


def results(data: Path = DATA) -> dict[Path, str]:
    """The page, each document and each module that quotes figures, as they should be."""
    papers = read(data)
    known = figures(papers)
    found = {PAGE: page(papers, data)}
    for path in documents():
        found[path] = fill((ROOT / path).read_text(encoding="utf-8"), known)
    for name, names in QUOTED.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        found[Path(name)] = quote(text, [known[figure] for figure in names])
    return found


def main(arguments: list[str]) -> int:
    """Write what differs, or name it."""
    parser = argparse.ArgumentParser(
        description="Write docs/numbers.md, and every figure of a paper in the other documents.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing: name what differs, and exit with 1"
    )
    check: bool = parser.parse_args(arguments).check
    stale = []
    for path, text in results().items():
        there = ROOT / path
        if not there.is_file() or there.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                there.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path} differs: python docs/write_numbers.py" if check else f"wrote {path}")
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
