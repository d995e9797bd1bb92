"""The figures of the papers: typed once, in docs/published, and everywhere else as they are there."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from castssl import config
from castssl.cli import parser
from castssl.errors import ConfigError
from castssl.models.flops import PUBLISHED
from castssl.models.presets import find_config
from recipes.benchmarks import stages
from tests.house import source

PROGRAMS = {
    name: runpy.run_path(str(source.ROOT / "docs" / f"{name}.py"))
    for name in ("write_numbers", "write_cards")
}
numbers: Any = SimpleNamespace(**PROGRAMS["write_numbers"])
PAPERS = numbers.read()
TABLES = {table.id: table for paper in PAPERS for table in paper.tables}
FIGURES: dict[str, str] = numbers.figures(PAPERS)
COMMANDS = sorted({command for t in TABLES.values() for row in t.rows for command in t.commands(row)})
PAPER = re.compile(r"\b(the|its) (paper|poster)|published|printed", re.IGNORECASE)
FIGURE = re.compile(r"(?<![\w.,±+-])\d+\.\d+(?!\w|\.\d| ±)")


def unmarked(document: str) -> list[str]:
    """The figures without a mark in the lines of a document that name a paper."""
    known = {value for value in FIGURES.values() if "." in value}
    lines = numbers.MARKED.sub("", document).splitlines()
    return [found for line in lines if PAPER.search(line) for found in FIGURE.findall(line) if found in known]


def test_the_page_and_the_documents_have_the_figures_of_the_data() -> None:
    wrong = [str(p) for p, text in numbers.results().items() if (source.ROOT / p).read_text("utf-8") != text]
    assert not wrong, f"run python docs/write_numbers.py: {wrong}"


def test_a_change_in_the_data_is_on_the_page_in_documents_and_in_docstrings(tmp_path: Path) -> None:
    shutil.copytree(numbers.DATA, tmp_path, dirs_exist_ok=True)
    data = tmp_path / "cast.toml"
    line = '"CAST-S" = ["3.4", "79.9", "68.1"]'
    assert data.read_text("utf-8").count(line) == 1
    data.write_text(data.read_text("utf-8").replace(line, line.replace("68.1", "68.7")), "utf-8")
    after = numbers.results(tmp_path)
    before = {path: (source.ROOT / path).read_text("utf-8") for path in after}
    changed = {str(path) for path, text in after.items() if text != before[path]}
    modules = {"recipes/moco_in1k.py", "recipes/probe_in1k.py"}
    assert changed == {"docs/numbers.md", "recipes/README.md", *modules}
    assert "| CAST-S | 3.4 | 79.9 | 68.7 |" in after[numbers.PAGE]
    assert "68.7<!-- cast-4/CAST-S/IN-1K -->" in after[Path("recipes/README.md")]
    assert "a linear probe of 68.7 on IN-1K (Table 4) and 79.9" in after[Path("recipes/moco_in1k.py")]


@pytest.mark.parametrize("words", [["--chek"], ["--check", "page"], ["--che"], ["--help"]])
@pytest.mark.parametrize("program", ["write_numbers", "write_cards"])
def test_a_wrong_flag_writes_nothing(
    program: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = PROGRAMS[program]
    monkeypatch.setattr(Path, "write_text", pytest.fail)
    with pytest.raises(SystemExit) as end:
        written["main"](words)
    assert end.value.code == (0 if words == ["--help"] else 2)
    printed = capsys.readouterr()
    assert "usage:" in printed.out + printed.err


LINE = '"CAST-S" = ["3.4", "79.9", "68.1"]'
UNIT = 'unit = "%, without labels; segments named by CLIP"'


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("cast.toml", LINE, 'junk = ["3.4", ', r"cast\.toml: the file: .*line \d+"),
        ("cast.toml", LINE, '"CAST-S" = ["3.4"]', r"cast\.toml: .*'cast-4': CAST-S has 1 values, expected 3"),
        ("cast.toml", UNIT, "", r"cast\.toml: the table 'cast-1': .*'unit'"),
        ("cast.toml", UNIT, UNIT.replace("unit", "units"), r"cast\.toml: the table 'cast-1': .*'units'"),
        ("hcast.toml", 'venue = "ICLR 2025"', "", r"hcast\.toml: its first lines: .*'venue'"),
        ("hcast.toml", "\ntitles = ", "\nheads = ", r"hcast\.toml: its poster: .*'titles'"),
    ],
    ids=["syntax", "short", "missing", "misspelt", "paper", "poster"],
)
def test_a_fault_of_the_data_is_named(file: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    shutil.copytree(numbers.DATA, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / file).read_text("utf-8")
    assert text.count(old) == 1
    (tmp_path / file).write_text(text.replace(old, new), "utf-8")
    with pytest.raises(SystemExit, match=message):
        numbers.read(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(SystemExit, match=rf"{file}: the file: .*No such file"):
        numbers.read(tmp_path)


def test_a_missing_license_of_weights_is_named(tmp_path: Path) -> None:
    shutil.copytree(numbers.DATA, tmp_path, dirs_exist_ok=True)
    about = tmp_path / "about.toml"
    about.write_text(about.read_text("utf-8").replace("license =", "licence =", 1), "utf-8")
    with pytest.raises(SystemExit, match=r"about\.toml: its texts: there is no 'license'"):
        numbers.page(numbers.read(tmp_path), tmp_path)


def test_a_mark_that_names_no_figure_is_refused() -> None:
    with pytest.raises(SystemExit, match="cast-4/CAST-S/IN-2K --> names no figure"):
        numbers.fill("68.1<!-- cast-4/CAST-S/IN-2K -->", FIGURES)


def test_a_docstring_with_another_number_of_figures_is_refused() -> None:
    assert numbers.quote('"""A.\n\nExpect 1.5.\n"""', ["1.6"]) == '"""A.\n\nExpect 1.6.\n"""'
    with pytest.raises(SystemExit, match="2 figures, expected 1"):
        numbers.quote('"""A.\n\nExpect 1.5 and 2.5.\n"""', ["1.5"])
    with pytest.raises(SystemExit, match="no paragraph"):
        numbers.quote('"""A.\n"""', ["1.5"])


@pytest.mark.parametrize("path", [*numbers.documents()], ids=str)
def test_a_figure_beside_the_word_paper_is_marked(path: Path) -> None:
    assert not unmarked((source.ROOT / path).read_text("utf-8"))


def test_an_unmarked_figure_is_found() -> None:
    assert unmarked("The paper has 68.1.") == ["68.1"]
    assert not unmarked("The paper has 68.1<!-- cast-4/CAST-S/IN-1K -->; here are 68.1 ± 0.2 and 1168.1.")


def test_each_table_has_a_value_and_a_tolerance_for_each_column() -> None:
    for table in TABLES.values():
        lengths = {len(values) for values in table.rows.values()}
        assert lengths == {len(table.columns)} == {len(table.tolerance)}, table.id
        assert {*table.by_row, *table.weights} <= {*table.rows}, table.id
        assert {f"{table.id}/{key}" for key in table.made} <= {*FIGURES}, table.id


def test_printed_means_and_harmonic_means_follow_from_their_neighbors() -> None:
    """Each digit of these was read from a scan."""
    for table in (TABLES["cast-9a"], TABLES["cast-9b"]):
        for row in table.rows.values():
            *classes, mean = map(float, row)
            assert abs(sum(classes) / len(classes) - mean) < 0.0051
    for row in TABLES["cast-2"].rows.values():
        for p, r, f in zip(*(map(float, row[i::3]) for i in range(3)), strict=True):
            assert abs(2 * p * r / (p + r) - f) < 0.07  # One of the six is cut off: 26.96 is printed as 26.9.


def test_a_figure_that_two_tables_print_is_the_same() -> None:
    same = {
        "cast-4/CAST-S/IN-1K": "cast-6/SEEDS/IN-1K",
        "cast-3a/CAST-S/before, mIoU": "cast-6/SEEDS/before, mIoU",
        "cast-3a/CAST-S/after, mIoU": "cast-6/SEEDS/after, mIoU",
        "cast-4/CAST-S/IN-100": "cast-5a/graph/IN-100",
        "cast-5a/graph/IN-100": "cast-5b/farthest point sampling/IN-100",
        "cast-5b/farthest point sampling/IN-100": "cast-5c/196, 64, 32, 16/IN-100",
    }
    sizes = {row: row for row in TABLES["cast-5c"].rows}
    same |= {f"cast-5c/{row}/GFLOPs": f"cast-5d/{row}/GFLOPs" for row in sizes}
    assert not [(one, other) for one, other in same.items() if FIGURES[one] != FIGURES[other]]


def test_castssl_flops_prints_the_same_figures() -> None:
    names = {"cast_base": "cast-1/CAST-B", "vit_small": "cast-4/ViT-S", "vit_base": "cast-1/ViT-B"}
    names["timm:swin_tiny_patch4_window7_224"] = "cast-4/Swin-T"
    for (model, sizes), (paper, _) in PUBLISHED.items():
        row = names.get(model, f"cast-5c/{', '.join(map(str, sizes))}")
        assert float(FIGURES[f"{row}/GFLOPs"]) == paper, model


def test_the_benchmark_of_stages_has_the_same_figures() -> None:
    for tokens, row in stages.PAPER.items():
        assert list(map(float, TABLES["cast-7"].rows[f"{tokens} tokens"])) == list(row)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_flags_that_its_program_knows(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)
    if words[0] == "castssl":
        assert callable(parser().parse_args(words[1:]).run)
        return
    path = next(word for word in words if word.endswith(".py"))
    flags = words[words.index(path) + 1 :]
    monkeypatch.chdir(source.ROOT)
    if path.startswith("recipes/ablations/"):
        monkeypatch.setattr(sys, "argv", [path, *flags, "--dry-run"])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
        assert end.value.code in (0, None)
        assert "recipes" in capsys.readouterr().out
        return
    module = path.removesuffix(".py").replace("/", ".")
    config.read(import_module(module).Config, flags)  # A ConfigError names what is wrong.


@pytest.mark.parametrize("command", COMMANDS)
def test_each_model_of_a_command_exists(command: str) -> None:
    words = shlex.split(command)
    named = [word for flag, word in pairwise(words) if flag in ("--model", "flops")]
    assert all(":" in name or find_config(name).name == name for name in named)


def test_a_flag_that_a_recipe_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="--epoch"):
        config.read(import_module("recipes.moco_in1k").Config, ["--data", "folder:x", "--epoch", "3"])
