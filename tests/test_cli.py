from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from castssl.cli import main
from castssl.testing import pooling, superpixels
from tests.plugins.packages import DUPLICATE, HEALTHY, UNIMPORTABLE

HEAVY = {"torch", "numpy", "timm", "lightly", "accelerate", "cv2", "tyro", "rich", "sklearn"}
"""What starting the command must not import."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "pooling"],
        ["check", "-h"],
    ],
    ids=" ".join,
)
def test_these_import_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom castssl.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"found = {HEAVY!r} & set(sys.modules)\nsys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_is_this_one() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("castssl"), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for command in ("list", "describe", "check", "new-plugin", "doctor"):
        assert command in done.stdout


def test_ctrl_c_ends_a_command_by_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("castssl.commands.plugins._list", stopped)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "castssl: stopped; each file that was written is complete\n"


def test_without_a_command_it_shows_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "new-plugin" in capsys.readouterr().out


def test_list_shows_name_distribution_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "pooling"]) == 0
    lines = capsys.readouterr().out.splitlines()
    graph = next(line for line in lines if line.split()[1] == "graph")
    assert graph.split()[:3] == ["pooling", "graph", "castssl"]
    assert not any(line.startswith("superpixels") for line in lines)


def test_list_marks_what_is_registered_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(DUPLICATE.write(tmp_path)))
    assert main(["list", "pooling"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.split()[1] == "graph"]
    assert len(lines) == 2
    assert all("registered twice" in line for line in lines)


def test_describe_prints_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "superpixels", "grid"]) == 0
    assert "cell: int = 16" in capsys.readouterr().out


def test_check_passes_with_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "superpixels", "grid:cell=4"]) == 0
    shown = capsys.readouterr().out
    assert "batch equals singles" in shown
    assert f"{len(superpixels.checks)} of {len(superpixels.checks)} checks passed" in shown


def test_check_fails_with_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(HEALTHY.write(tmp_path)))
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["check", "pooling", "hollow"]) == 1
    shown = capsys.readouterr().out
    assert "failed: pooling 'hollow' built a Hollow, expected a castssl.contracts.Pooling" in shown
    assert f"0 of {len(pooling.checks)} checks passed" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "pooling", "grph"], "did you mean 'graph'?"),
        (["check", "pooling", "graph:head=3"], "did you mean 'heads'?"),
        (["check", "pooling", "unimportable"], "library_that_nobody_has"),
        (["describe", "superpixels", "unknown"], "grid (castssl"),
        (["new-plugin", "pooling", "Bad Name"], "got 'Bad Name'"),
    ],
)
def test_an_error_is_one_message(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(UNIMPORTABLE.write(tmp_path)))
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith("castssl: ")
    assert words in shown.err


def test_an_unknown_kind_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["list", "poolings"])
    assert caught.value.code == 2
    assert "superpixels" in capsys.readouterr().err


def test_new_plugin_tells_the_next_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", "pooling", "mine", "--into", str(tmp_path)]) == 0
    assert (tmp_path / "castssl-mine" / "pyproject.toml").is_file()
    shown = capsys.readouterr().out
    for step in (f"pip install -e {tmp_path / 'castssl-mine'}", "castssl check pooling mine", "pytest"):
        assert step in shown


def test_a_distribution_adds_a_subcommand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its module is imported only when its name is typed."""
    info = tmp_path / "adds-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: adds\nVersion: 1\nSummary: Adds numbers\n")
    points = "[castssl.commands]\nadd-up = adds:main\nbroken = adds_nothing:main\n"
    (info / "entry_points.txt").write_text(points)
    (tmp_path / "adds.py").write_text("def main(arguments):\n    return sum(map(int, arguments))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["add-up", "3", "4"]) == 7
    assert main([]) == 2
    # Python 3.13 sets another width for the names.
    assert re.search(r"add-up +Adds numbers", capsys.readouterr().out)
    assert "adds_nothing" not in sys.modules
