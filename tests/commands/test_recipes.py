from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from castssl import shipped
from castssl.cli import main
from tests.house import source

RECIPES = source.ROOT / "recipes"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that replace this process; after each, 1 comes back."""
    commands: list[list[str]] = []

    def execv(program: str, arguments: list[str]) -> None:
        assert program == arguments[0] == sys.executable
        commands.append(arguments[1:])
        raise OSError(2, "replaced")

    monkeypatch.setattr(os, "execv", execv)
    return commands


def test_a_recipe_runs_with_its_own_flags(started: list[list[str]]) -> None:
    for words in (["moco_in1k", "--help"], ["moco_in1k", "--data", "demo", "--", "-x"]):
        with pytest.raises(OSError, match="replaced"):
            main(["run", *words])
        assert started.pop() == [str(RECIPES / "moco_in1k.py"), *words[1:]]


def test_options_before_the_recipe_are_those_of_accelerate_launch(started: list[list[str]]) -> None:
    options = ["--config_file", "launch/ddp.yaml", "--num_processes", "2"]
    with pytest.raises(OSError, match="replaced"):
        main(["run", *options, "ablations/pooling", "--num_processes", "3"])
    expected = ["--config_file", str(RECIPES / "launch" / "ddp.yaml"), "--num_processes", "2"]
    script = str(RECIPES / "ablations" / "pooling.py")
    assert started == [["-m", "accelerate.commands.launch", *expected, script, "--num_processes", "3"]]


def test_a_file_runs_as_a_recipe(started: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(OSError, match="replaced"):
        main(["run", str(tmp_path / "mine.py"), "--seed", "1"])
    assert started == [[str(tmp_path / "mine.py"), "--seed", "1"]]


def test_the_help_lists_the_recipes(capsys: pytest.CaptureFixture[str], started: list[list[str]]) -> None:
    for words in ([], ["--help"]):
        assert main(["run", *words]) == 0
        shown = capsys.readouterr().out.split("recipes:")[1].split()
        assert {path.stem for path in RECIPES.glob("*.py")} <= set(shown)
        assert "launch/ddp.yaml" not in shown
    assert not started


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["moco"], "did you mean 'moco_in1k'"),
        (["moco_in2k", "--workers", "0"], "no recipe 'moco_in2k'; did you mean 'moco_in1k'"),
        (["--num_processes", "2", "moco", "--data", "demo"], "no recipe 'moco'; did you mean 'moco_in1k'"),
        (["nowhere", "--workers", "0"], "no recipe 'nowhere'; give a file"),
        (["--num_processes", "2"], "got no recipe, only --num_processes 2; `castssl run --help` lists"),
        (["launch/ddp.yaml"], "no recipe 'launch/ddp.yaml'; give a file"),
        (["nothing.py"], "no recipe 'nothing.py'"),
    ],
)
def test_an_unknown_recipe_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], started: list[list[str]]
) -> None:
    assert main(["run", *words]) == 1
    assert message in capsys.readouterr().err
    assert not started


def test_a_copy_has_the_content_and_replaces_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("moco_in1k", "launch/slurm.sbatch"):
        original = shipped.recipe(name, runs=False)
        copy = tmp_path / "mine" / original.name
        assert main(["copy-recipe", name, str(tmp_path / "mine")]) == 0
        assert str(copy) in capsys.readouterr().out
        assert copy.read_bytes() == original.read_bytes()
    copy.write_text("changed")
    assert main(["copy-recipe", "launch/slurm.sbatch", str(tmp_path / "mine")]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert copy.read_text() == "changed"
    assert main(["copy-recipe", "launch/slurm.sbatch", str(tmp_path / "mine"), "--overwrite"]) == 0
    assert copy.read_bytes() == original.read_bytes()
