"""Run folders of real processes: running, killed, diverged, finished."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from castssl.cli import main
from castssl.errors import ConfigError
from castssl.reports.gather import gather
from castssl.run_lock import in_use
from castssl.training import environment
from castssl.training.runs import find, summaries, summarize
from tests.house import source
from tests.training.processes import QUICK, STEPS, Toy, lines


def test_a_run_is_running_then_stopped_then_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} --pause 0.05")
    toy.wait_for(3)
    found = summarize(out)
    assert (found.state, found.recipe) == ("running", "toy")
    assert 3 <= found.step < STEPS
    before = sorted(path.name for path in out.iterdir())
    assert in_use(out)
    assert sorted(path.name for path in out.iterdir()) == before
    toy.signal(signal.SIGKILL)
    toy.code()
    assert summarize(out).state == "stopped"
    assert Toy(out, QUICK).code() == 0
    found = summarize(out)
    assert (found.state, found.step, found.epoch) == ("finished", STEPS, 3.0)
    assert found.settings["epochs"] == 3
    assert found.began <= found.updated
    assert list(find(tmp_path)) == list(find(out)) == [out]


def test_a_run_has_diverged_until_it_is_started_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert Toy(out, f"{QUICK} --nan-at 6 --save-every 1").code() != 0
    assert summarize(out).state == "diverged"
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 2e10, "event": "start", "after": 5}) + "\n")
    assert summarize(out).state == "stopped"


def test_damage_does_not_hide_a_run(unbroken: Path, tmp_path: Path) -> None:
    for name in ("log.jsonl", "results.json"):
        (tmp_path / name).write_bytes((unbroken / name).read_bytes())
    (tmp_path / "config.json").write_text("{")
    with (tmp_path / "log.jsonl").open("ab") as log:
        log.write(b"\0\0\0\n[]\n")
    (tmp_path / "results.json").write_text("[")
    found = summarize(tmp_path)
    assert (found.state, found.step, found.settings) == ("stopped", STEPS, {})
    with pytest.raises(ConfigError, match="there is no folder"):
        list(find(tmp_path / "none"))


def test_each_start_has_its_environment(unbroken: Path) -> None:
    (start,) = (line for line in lines(unbroken) if line.get("event") == "start")
    found = start["environment"]
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == metadata.version("torch")
    assert "cores" in found["machine"]
    if (source.ROOT / ".git").exists():
        commit, _, changes = found["commit"].partition("+")
        assert commit == environment.commit_of(source.ROOT).partition("+")[0]
        assert len(commit) == 40
        assert changes in ("", "changes")


def test_a_folder_of_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert environment.commit_of(tmp_path) == ""
    (tmp_path / ".git").mkdir()
    assert environment.commit_of(tmp_path) == "", "git refuses it"


def write(folder: Path, epoch: float, results: dict[str, float] | None = None, **values: float) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"epochs": 8, "out": str(folder)}))
    log = [
        {"time": 100.0 + epoch, "event": "start", "argv": ["recipes/hcast.py"]},
        {"time": 101.0 + epoch, "step": 9, "epoch": epoch, "loss": 1.0, "images_per_second": 50.0},
        {"time": 102.0 + epoch, "step": 9, **values},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if results is not None:
        (folder / "results.json").write_text(json.dumps({"trained": results}))


def test_runs_are_listed_with_their_results_and_sorted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "good", 8.0, {"fpa": 0.75, "tice": 0.05, "knn": 0.5})
    write(tmp_path / "poor", 8.0, {"fpa": 0.25, "tice": 0.5, "knn": 0.25})
    write(tmp_path / "deep" / "early", 2.0, knn=0.125)

    def listed(*words: str) -> list[str]:
        assert main(["runs", str(tmp_path), *words]) == 0
        printed = capsys.readouterr().out
        rows = [line.split() for line in printed.splitlines() if " hcast " in line]
        assert "2 finished, 1 stopped" in printed
        return [Path(row[0]).name for row in rows]

    assert listed("--sort", "fpa") == ["good", "poor", "early"]
    assert listed("--sort", "tice") == ["good", "poor", "early"], "lower is better"
    assert listed("--sort", "state")[-1] == "early"
    assert listed("--sort", "name") == ["early", "good", "poor"]
    assert listed() == listed("--sort", "epochs") == ["good", "poor", "early"]
    assert main(["runs", str(tmp_path), "--columns", "knn"]) == 0
    output = capsys.readouterr().out
    assert "2.0/8" in output
    assert "12.5" in output
    assert "kNN accuracy: the class that" in output
    assert main(["runs", str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {Path(run["folder"]).name: run["results"].get("knn") for run in content} == {
        **{"good": 0.5, "poor": 0.25},
        "early": 0.125,
    }


def test_runs_with_other_evaluation_settings_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, settings in (("a", ""), ("b", " --val folder:x"), ("c", "")):
        write(tmp_path / name, 8.0, {"knn": 0.5})
        with (tmp_path / name / "log.jsonl").open("a") as file:
            file.write(json.dumps({"time": 200.0, "event": "start", "measured_with": settings}) + "\n")
    assert main(["runs", str(tmp_path)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "results with different evaluation settings are not comparable" in output
    assert "evaluated with the defaults, or with settings" in output
    assert "evaluated with --val folder:x: b" in output
    assert main(["runs", str(tmp_path / "b")]) == 0
    assert "evaluated with" not in capsys.readouterr().out


def test_segments_of_random_weights_are_no_column_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run", 8.0, {f"object_iou_{size}": 0.5 for size in (16, 8, 4, 2)})
    assert main(["runs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert re.findall(r"object IoU, (\d+)", output) == ["4", "8", "16"]
    assert "random weights" not in output
    assert main(["runs", str(tmp_path), "--columns", "object_iou_2"]) == 0
    assert "2 segments: GraphPool" in capsys.readouterr().out
    assert main(["runs", str(tmp_path), "--sort", "x"]) == 1
    assert "object_iou_2, object_iou_4, object_iou_8, object_iou_16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sort", "fpx"], "--sort: got fpx, expected name, state, epochs, began, updated or one of fpa"),
        (["--columns", "miou"], "--columns: no run has miou; they have fpa"),
    ],
)
def test_what_no_run_has_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run", 8.0, {"fpa": 0.75})
    assert main(["runs", str(tmp_path), *words]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_runs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


def test_linked_runs_are_found_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "scratch" / "a", 8.0)
    write(tmp_path / "scratch" / "deep" / "b", 8.0)
    (tmp_path / "scratch" / "deep" / "loop").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch" / "0-again").symlink_to(tmp_path / "scratch" / "a")
    links = tmp_path / "links"
    links.mkdir()
    (links / "all").symlink_to(tmp_path / "scratch")
    (links / "gone").symlink_to(tmp_path / "none")
    assert list(find(links)) == [links / "all" / "a", links / "all" / "deep" / "b"]
    assert list(find(links / "all" / "a")) == [links / "all" / "a"]
    assert main(["runs", str(links)]) == 0
    assert "all/deep/b" in capsys.readouterr().out


def test_links_in_a_run_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "data" / "other", 8.0)
    write(tmp_path / "runs" / "a", 8.0)
    write(tmp_path / "runs" / "a" / "nested", 8.0)
    (tmp_path / "runs" / "a" / "data").symlink_to(tmp_path / "data")
    (tmp_path / "runs" / "a" / "nested" / "data").symlink_to(tmp_path / "data")
    assert list(find(tmp_path / "runs")) == [tmp_path / "runs" / "a", tmp_path / "runs" / "a" / "nested"]
    (tmp_path / "runs" / "b").symlink_to(tmp_path / "data")
    assert tmp_path / "runs" / "b" / "other" in list(find(tmp_path / "runs"))


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder, and until the end no more rights than any user has."""
    with tempfile.TemporaryDirectory() as name:
        user = os.geteuid()
        if not user:
            os.chown(name, 65534, -1)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(user)


def test_what_cannot_be_read_is_left_out_with_a_remark() -> None:
    with unprivileged() as folder:
        write(folder / "good", 8.0)
        write(folder / "secret", 8.0)
        write(folder / "locked" / "run", 8.0)
        (folder / "secret" / "log.jsonl").chmod(0)
        (folder / "locked").chmod(0)
        runs, remarks = summaries(folder)
        found = gather([folder])
        with pytest.raises(ConfigError, match=r"holds no run and no study.*/locked: the folder cannot be"):
            gather([folder / "locked"])
        (folder / "locked").chmod(0o700)
    assert [run.folder.name for run in runs] == [run.name for run in found.runs] == ["good"]
    assert remarks == found.remarks
    assert [remark.partition(" (")[0].removeprefix(f"{folder}/") for remark in remarks] == [
        "locked: the folder cannot be read",
        "secret/log.jsonl: the log cannot be read",
    ]


DEEP = "[" * 900 + "]" * 900
ODD = {
    "markup": ('{"epochs": "[/x]"}', '{"time": 2, "step": 1, "epoch": 1, "images_per_second": 1}'),
    "metric": ("{}", '{"time": 2, "step": 1, "[/x]\\u001b": 0.25}'),
    "empty": ("{}", ""),
    "clock": ("{}", '{"time": -1e308, "event": "start"}\n{"time": 1e308, "step": 1}'),
    "nan": ('{"lr": NaN, "rates": [-Infinity]}', ""),
    "deep": (f'{{"deep": {DEEP}}}', f'{{"time": 2, "event": "start", "environment": {{"deep": {DEEP}}}}}'),
    "argv": (
        '{"epochs": 1}',
        '{"time": 1, "event": "start", "argv": []}\n{"time": 2, "event": "start", "argv": ["[m].py"]}',
    ),
    "esc\x1b[31m[red]": ("{}", ""),
}
"""Settings and logs that no run writes."""


def test_odd_files_end_neither_the_table_nor_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (settings, log) in ODD.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(settings)
        (tmp_path / name / "log.jsonl").write_text(f"{log}\n")
    assert main(["runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("1.0/[/x]", r"[/x]\x1b", r"esc\x1b[31m[red]", "[m]"))
    assert "\x1b" not in printed
    rows = [line.split()[0] for line in printed.splitlines() if " days, " in line]
    assert sorted(rows) == ["argv", "markup", "metric"], "the others have no time"
    assert main(["runs", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    found = {Path(run["folder"]).name: run["settings"] for run in listed}
    assert (found["nan"], found["deep"]) == ({"lr": "nan", "rates": ["-inf"]}, {})
    assert main(["report", str(tmp_path), "--no-images", "--out", str(tmp_path / "page.html")]) == 0
