"""Tables against numbers computed by hand and by scipy, and the files that a study leaves."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scipy.stats import ttest_rel

from castssl.ablations import chart, engine, spreadsheets, table
from castssl.ablations.engine import Jobs
from castssl.ablations.formats import Entry, Sheet, latex
from castssl.ablations.grid import Study
from castssl.ablations.study import claim, main, write
from castssl.ablations.table import Row
from castssl.cli import main as castssl
from castssl.errors import ConfigError
from castssl.evaluation.report import BASELINES

RECIPE = Path(__file__).with_name("recipe.py")
GRID = {"pooling": ["graph", "tome", "broken"], "seed": ["0", "1", "2"]}


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(title="Which pooling?", recipe=RECIPE, grid=GRID, flags=["--fail", "broken"])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Path:
    folder = tmp_path_factory.mktemp("study")
    list(engine.run(engine.steps_of(study.cells()), folder, Jobs(folder, at_once=2), at_once=2))
    write(study, folder, measure=False)
    return folder


def test_rows_are_means_and_deviations_over_seeds(study: Study, out: Path) -> None:
    graph, tome, broken = table.rows(study, out, {("graph",): {"ms": 1.0}})
    assert graph.values == ("graph",)
    assert graph.results["accuracy"] == pytest.approx((0.06, statistics.stdev([0.05, 0.06, 0.07]), 3))
    assert tome.results["accuracy"].mean == pytest.approx(0.05)
    assert (broken.results, broken.runs, broken.cells) == ({}, {}, 3)
    assert (graph.cost, tome.cost) == ({"ms": 1.0}, {})
    assert math.isnan(table.spread([3.0]).deviation)
    assert table.spread([0.03]).shown("accuracy") == "3.0"


def test_the_table_has_references_failures_and_commands(out: Path) -> None:
    text = (out / "table.md").read_text()
    assert "| graph | **6.0 ± 1.0** | **8.00 ± 0.00** | 3 |" in text
    assert "| tome | 5.0 ± 1.0 | **8.00 ± 0.00** | 3 |" in text
    assert "| broken | – | – | 0 of 3 |" in text
    assert "| *chance* | 1.0 | – |  |" in text
    assert text.count("the reason why") == 3
    commands = text.partition("```bash\n")[2].partition("```")[0].splitlines()
    assert len(commands) == 9
    again = commands[0].split()
    subprocess.run([sys.executable, *again[1:]], check=True)


def test_the_csvs_have_a_line_a_cell_and_a_line_a_result(out: Path) -> None:
    lines = list(csv.DictReader((out / "cells.csv").read_text().splitlines()))
    assert [line["finished"] for line in lines] == ["True"] * 6 + ["False"] * 3
    assert [line["accuracy"] for line in lines[:3]] == ["0.05", "0.06", "0.07"]
    assert "--seed 1" in lines[1]["command"]
    lines = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    named = {(line["pooling"], line["result"]): line for line in lines}
    assert float(named["graph", "accuracy"]["mean"]) == pytest.approx(0.06)
    assert named["graph", "accuracy"]["difference"] == ""
    assert float(named["tome", "accuracy"]["difference"]) == pytest.approx(-0.01)


def row(label: str, **seeds: Mapping[str, float]) -> Row:
    return Row((label,), {(seed,): run for seed, run in seeds.items()}, {}, len(seeds))


def test_paired_differences_have_the_interval_of_the_paired_t_test() -> None:
    first, second = [0.50, 0.61, 0.47, 0.55], [0.58, 0.64, 0.59, 0.6]
    base = row("a", **{f"s{i}": {"top1": value} for i, value in enumerate(first)}, alone={"top1": 0.0})
    other = row("b", **{f"s{i}": {"top1": value} for i, value in reversed([*enumerate(second)])})
    found = table.difference(other, base, "top1")
    assert found
    expected = ttest_rel(second, first).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(0.07)
    assert found.seeds == 4
    assert found.excludes_zero
    assert found.shown("top1") == "+7.0 [+0.8, +13.2]"
    assert table.difference(other, base, "knn") is None
    assert table.difference(row("c", s0={"top1": 0.5}), base, "top1") is None


def test_differences_stand_in_the_table_only_with_two_seeds(study: Study, out: Path) -> None:
    text = (out / "table.md").read_text()
    assert "| tome | **-1.0 [-1.0, -1.0]** | +0.00 [+0.00, +0.00] |" in text
    assert "Differences to graph with the same seed" in text
    alone = replace(study, grid={**GRID, "seed": ["0"]})
    assert "Paired" not in table.document(alone, out, table.rows(alone, out, {}))


RESULTS = {"match": 0.1, "top5": 0.9, "top1": 0.5, "knn": 0.4, "object_iou_16": 0.3, "object_iou_8": 0.2}
HEAD = "| method | top-1 accuracy | kNN accuracy | object IoU, 8 segments | seeds |"


def wide(names: Sequence[str], columns: Sequence[str] = ()) -> tuple[Study, list[Row]]:
    results = [{key: (index + 1) * value for key, value in RESULTS.items()} for index in range(len(names))]
    rows = [row(name, s=result) for name, result in zip(names, results, strict=True)]
    return Study(title="t", recipe=RECIPE, grid={"method": names, "seed": ["s"]}, columns=columns), rows


def test_the_default_columns_are_the_main_results_that_fit_80_characters(tmp_path: Path) -> None:
    study, rows = wide(["a", "b"])
    text = table.document(study, tmp_path, rows)
    assert HEAD in text
    assert "`--columns all`: object_iou_16, match, top5." in text
    study, rows = wide(["a", "b" * 40])
    assert table.columns(study, tmp_path, rows) == ["top1", "knn"]
    study, rows = wide(["a", "b" * 90])
    assert table.columns(study, tmp_path, rows) == ["top1"]


def test_other_columns_are_chosen_by_name(tmp_path: Path) -> None:
    study, rows = wide(["a", "b"], ["match", "none"])
    assert table.columns(study, tmp_path, rows) == ["match"]
    assert "No run has the columns none." in table.document(study, tmp_path, rows)
    assert set(table.columns(*_with(study, "all"), rows)) == set(RESULTS)


def _with(study: Study, *columns: str) -> tuple[Study, Path]:
    return replace(study, columns=columns), Path()


def test_the_lowest_error_is_the_best(tmp_path: Path) -> None:
    rows = [row("a", s={"tice": 0.1, "fpa": 0.4}), row("b", s={"tice": 0.2, "fpa": 0.5})]
    study = Study(title="t", recipe=RECIPE, grid={"method": ["a", "b"], "seed": ["s"]})
    text = table.document(study, tmp_path, rows)
    assert "| a | 40.0 | **10.0** | 1 |" in text
    assert "| b | **50.0** | 20.0 | 1 |" in text
    assert "lower is better" in text


def test_the_best_is_so_as_shown_and_no_depth_is_better(tmp_path: Path) -> None:
    depth, distance = "answer_consistency_depth_levels", "answer_consistency_distance_levels"
    rows = [row("a", s={depth: 1.1, distance: 0.26}), row("b", s={depth: 1.9, distance: 0.31})]
    study = Study(title="t", recipe=RECIPE, grid={"method": ["a", "b"], "seed": ["s"]})
    text = table.document(replace(study, columns=(depth, distance)), tmp_path, rows)
    assert "| a | 1.10 | **0.26** | 1 |" in text
    assert "| b | 1.90 | 0.31 | 1 |" in text


def test_a_value_over_fewer_seeds_than_its_row_has_their_number(tmp_path: Path) -> None:
    a = row("a", s0={"top1": 0.5, "knn": 0.5}, s1={"top1": 0.5, "knn": 0.25}, s2={"top1": 0.5})
    b = row(
        "b", s0={"top1": 0.25, "knn": 0.25}, s1={"top1": 0.25, "knn": 0.125}, s2={"top1": 0.25, "knn": 0.0}
    )
    study = Study(title="t", recipe=RECIPE, grid={"method": ["a", "b"], "seed": ["s0", "s1", "s2"]})
    text = table.document(study, tmp_path, [a, b])
    assert "| a | **50.0 ± 0.0** | **37.5 ± 17.7 (2)** | 3 |" in text
    assert "| b | 25.0 ± 0.0 | 12.5 ± 12.5 | 3 |" in text
    assert re.search(r"\| b \| \*\*-25\.0 \[[^|]*\]\*\* \| -18\.8 \[[^|]*\] \(2\) \|", text)
    assert text.count(table.FEWER) == 1
    assert table.FEWER not in table.document(study, tmp_path, [b, b])


def test_a_mean_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    rows = [row("a", s={"top1": math.nan}), row("b", s={"top1": 0.5}), row("c", s={"top1": 0.4})]
    study = Study(title="t", recipe=RECIPE, grid={"method": ["a", "b", "c"], "seed": ["s"]})
    text = table.document(study, tmp_path, rows)
    assert "| a | nan | 1 |" in text
    assert "| b | **50.0** | 1 |" in text
    assert "| c | 40.0 | 1 |" in text


def test_a_run_that_cells_share_counts_once_in_a_reference(tmp_path: Path) -> None:
    grid = {"recipe.rate": ["1", "2"], "seed": ["0", "1"]}
    shared = Study(title="t", recipe=RECIPE, grid=grid, then=RECIPE)
    firsts = list(dict.fromkeys(cell.steps[0] for cell in shared.cells()))
    for step, value in zip(firsts, (0.1, 0.3), strict=True):
        step.folder(tmp_path).mkdir()
        (step.folder(tmp_path) / "results.json").write_text(json.dumps({"untrained": {"knn": value}}))
    found = table.references(shared, tmp_path)["untrained"]["knn"]
    assert found == pytest.approx((0.2, statistics.stdev([0.1, 0.3]), 2))


def test_a_reference_is_over_seeds_and_not_over_rows(tmp_path: Path) -> None:
    study = Study(title="t", recipe=RECIPE, grid={"pooling": ["a", "b"], "seed": ["0", "1"]})
    for cell, value in zip(study.cells(), (0.1, 0.3, 0.5, 0.9), strict=True):
        folder = cell.steps[0].folder(tmp_path)
        folder.mkdir()
        results = {"trained": {"knn": 0.5}, "untrained": {"knn": value}, "chance": {"knn": 0.1}}
        (folder / "results.json").write_text(json.dumps(results))
    found = table.references(study, tmp_path)
    assert found["untrained"]["knn"] == pytest.approx((0.45, statistics.stdev([0.3, 0.6]), 2))
    assert found["chance"]["knn"].mean == 0.1
    assert math.isnan(found["chance"]["knn"].deviation)
    text = table.document(study, tmp_path, table.rows(study, tmp_path, {}))
    assert "| *untrained* | 45.0 ± 21.2 |  |" in text
    assert table.ALL_ROWS in text


def test_output_of_a_failed_run_ends_no_block_and_has_no_control_characters(tmp_path: Path) -> None:
    study = Study(title="t", recipe=RECIPE, grid={"seed": ["0"]})
    folder = study.cells()[0].steps[0].folder(tmp_path)
    folder.mkdir()
    (folder / engine.OUTPUT).write_text("```\n# no heading\n\x1b[2J")
    text = table.document(study, tmp_path, table.rows(study, tmp_path, {}))
    assert "\n````text\n```\n# no heading\n\\x1b[2J\n````\n" in text


def test_a_finished_cell_without_results_is_finished(tmp_path: Path) -> None:
    study = Study(title="t", recipe=RECIPE, grid={"seed": ["0"]})
    folder = study.cells()[0].steps[0].folder(tmp_path)
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    (line,) = csv.DictReader(spreadsheets.cells(study, tmp_path).splitlines())
    assert line["finished"] == "True"


def test_latex_escapes_what_it_reads_as_commands() -> None:
    body = [
        [Entry("a_b&50%\\{x}~^#$"), Entry("1.0 ± 0.5", "bold")],
        [Entry("a-1"), Entry("-1.0 [-2.0, +3.0]")],
    ]
    lines = latex(Sheet(["k", "v"], body, [[Entry("chance", "italic"), Entry("–")]], 1))
    assert lines[0] == r"\begin{tabular}{lr}"
    assert lines[4] == (
        r"a\_b\&50\%\textbackslash{}\{x\}\textasciitilde{}\textasciicircum{}\#\$ & \textbf{1.0 $\pm$ 0.5} \\"
    )
    assert lines[5] == r"a-1 & $-$1.0 [$-$2.0, +3.0] \\"
    assert lines[6:8] == [r"\midrule", r"\textit{chance} & -- \\"]
    lines = latex(Sheet(["k"], [[Entry("[8, 4]")], [Entry("*")]], [], 1))
    assert lines[4:6] == [r"{}[8, 4] \\", r"{}* \\"], "else an option of the command before"


def test_the_files_of_a_study_hold_latex(out: Path) -> None:
    text = (out / "table.tex").read_text()
    assert r"graph & \textbf{6.0 $\pm$ 1.0}" in text
    assert text.count(r"\begin{tabular}") == 2


@pytest.mark.parametrize(("names", "panels"), [(["top1"], 1), (list(RESULTS), 6)])
def test_the_chart_has_a_panel_a_column_and_is_at_most_1600_pixels_wide(
    names: list[str], panels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(chart, "_panel", lambda axis, rows, name: drawn.append((axis, name)))
    _, rows = wide(["graph:centroids=random,exact=True,dropout=0.25", r"$\frac$"])
    references = {"chance": {"top1": table.Spread(0.1, math.nan, 1)}}
    title = r"data=$\frac$"  # no formula
    image = Image.open(chart.draw(title, rows, names, references, tmp_path / "t.png"))
    assert 300 < image.width <= 1600
    assert [name for _, name in drawn] == names
    assert len({id(axis) for axis, _ in drawn}) == panels


def test_more_rows_than_a_chart_holds_leave_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, rows = wide(["a"])
    with pytest.raises(ConfigError, match="panels of 1,702 rows need 65,573 pixels"):
        chart.draw("t", rows * 1702, ["top1"], {}, tmp_path / "table.png")
    with pytest.raises(ConfigError, match="panels of 850 rows"):
        chart.draw("t", rows * 850, [*RESULTS][:4], {}, tmp_path / "table.png")
    folder = study.cells()[0].steps[0].folder(tmp_path)
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"trained": RESULTS}))
    monkeypatch.setattr(chart, "HIGHEST", 100)
    (tmp_path / "table.png").write_bytes(b"of a user")
    write(study, tmp_path, measure=False)
    assert "castssl: table.png is left out" in capsys.readouterr().err
    assert (tmp_path / "table.png").exists()
    claim(tmp_path, overwrite=True)  # Now it is the chart of an earlier call.
    write(study, tmp_path, measure=False)
    assert not (tmp_path / "table.png").exists()
    assert "top-1 accuracy" in (tmp_path / "table.md").read_text()


def test_every_reference_has_a_line_of_its_own() -> None:
    assert set(chart.LINES) == set(BASELINES)
    assert len(set(chart.LINES.values())) == len(chart.LINES)


def test_a_file_of_recipes_ablations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = Study(title="t", recipe=RECIPE, grid={"pooling": ["graph"], "seed": ["0"]}, flags=["--quick"])
    large = Study(title="t", recipe=RECIPE, grid={"pooling": ["graph"]})
    argv = ["--out", str(tmp_path), "--dry-run", "--seeds", "2"]
    assert main(large, demo=small, argv=["--data", "demo:size=32", *argv, "--", "--wait", "1"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert len(output) == 2
    assert "--data demo:size=32 --quick --wait 1 --pooling graph --seed 1" in output[1]
    other = ["--grid", "pooling=tome,random --flag", *argv]
    assert main(large, demo=small, argv=["--data", "demo", *other]) == 0
    printed = capsys.readouterr().out
    assert printed.count("--pooling tome --seed") == printed.count("--pooling random --flag --seed") == 2
    assert "graph" not in printed
    assert main(large, demo=small, argv=["--data", "demo", "--grid", "nope=1", *argv]) == 2
    assert "--grid nope: the study's keys are pooling, seed" in capsys.readouterr().err
    assert main(large, demo=small, argv=["--data", "folder:x", *argv, "--cluster", "slurm"]) == 0
    assert "slurm" in capsys.readouterr().out
    for wrong in (["--launcher", "'accelerate"], ["--grid", "pooling='a"], ["--job", "gpus_per_node"]):
        assert main(large, demo=small, argv=["--data", "demo", *argv, "--cluster", "slurm", *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_recipe_without_images_takes_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timing = Study(title="t", recipe=RECIPE, grid={"pooling": ["graph"]}, data=False)
    argv = ["--out", str(tmp_path), "--dry-run"]
    assert main(timing, demo=replace(timing, flags=["--quick"]), argv=argv) == 0
    assert main(timing, demo=replace(timing, flags=["--quick"]), argv=["--data", "demo", *argv]) == 0
    whole, small = capsys.readouterr().out.splitlines()
    assert "--data" not in whole + small
    assert "--quick" in small
    assert "--quick" not in whole


@pytest.mark.parametrize("data", ["folder:x", "demo:size=32"])
def test_a_recipe_without_images_refuses_data_once_the_files_of_others_are_safe(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timing = Study(title="t", recipe=RECIPE, grid={"pooling": ["graph"]}, data=False)
    argv = ["--data", data, "--out", str(tmp_path)]
    message = f"--data {data}: this study reads no images; expected demo, or no --data"
    for more in ([], ["--dry-run"]):
        assert main(timing, demo=timing, argv=[*argv, *more]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "table.md").write_text("a user's own")
    assert main(timing, demo=timing, argv=argv) == 2
    assert "--overwrite" in (error := capsys.readouterr().err)
    assert message not in error
    assert main(timing, demo=timing, argv=[*argv, "--overwrite"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_the_command_refuses_a_recipe_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert castssl(["ablate", "--recipe", "nowhere", "--grid", "seed=0"]) == 1
    assert "no recipe 'nowhere'" in capsys.readouterr().err


def test_runs_that_are_finished_already_write_the_tables_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Path] = []

    def counted(title: str, rows: Any, names: Any, references: Any, path: Path) -> Path:
        drawn.append(path)
        return chart.draw(title, rows, names, references, path)

    monkeypatch.setattr("castssl.ablations.study.draw", counted)
    small = Study(title="t", recipe=RECIPE, grid={"pooling": ["graph"], "seed": ["0", "1"]}, data=False)
    argv = ["--out", str(tmp_path)]
    assert main(small, argv=argv) == 0
    assert len(drawn) == 2 + 1, "after each run, and at the end"
    before = (tmp_path / "table.csv").read_text()
    assert main(small, argv=argv) == 0
    assert len(drawn) == 3 + 1
    assert (tmp_path / "table.csv").read_text() == before
    assert capsys.readouterr().err.count("finished") == 4
