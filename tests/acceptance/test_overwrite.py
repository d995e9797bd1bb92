"""No command writes over a file that is there, be it an input or not, unless ``--overwrite`` is given."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

import castssl
from castssl import cli
from castssl.checkpoints.hub import save_pretrained
from castssl.config import RunConfig, launch
from castssl.training import start
from tests.acceptance.conftest import Command, Finished
from tests.forked import ROOT

RECIPES = ROOT / "recipes"
SCRIPTS = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*.py"))
OUTPUTS = {"out", "into"}
"""What arguments that name an output are called in every command."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The subcommands by name."""
    (subcommands,) = (
        action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(subcommands.choices)


def writers() -> dict[str, argparse.Action]:
    """The argument that names the output, of every subcommand that has one."""
    return {
        name: action
        for name, parser in parsers().items()
        for action in parser._actions
        if action.dest in OUTPUTS
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, photos, and a table that a user wrote."""
    folder = tmp_path_factory.mktemp("place")
    model = castssl.create("nano", image_size=32)
    save_pretrained(model, folder / "model")
    for name in ("photo.npz", "moco_in1k.py"):
        (folder / name).write_bytes(b"a user's own file")
    for name in ("photo.png", "photo-attention.png", "a.jpg", "a-stage0.jpg", "folder/photo.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((48, 40), 60).convert("RGB").save(folder / name)
    (folder / "study").mkdir()
    (folder / "study" / "table.md").write_text("a user's own table")
    (folder / "found").mkdir()
    (folder / "found" / "classes.csv").write_text("a user's own classes")
    (folder / "found" / "images.csv").write_text("a user's own images")
    (folder / "castssl-mine").mkdir()
    (folder / "castssl-mine" / "pyproject.toml").write_text("a user's own project")
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".castssl-study"
    }


def calls(place: Path) -> dict[str, list[str | Path]]:
    """Each command with an input, or a file that it did not make, as its output."""
    photo, weights = place / "photo.png", place / "model" / "model.safetensors"
    recipe = ROOT / "recipes" / "moco_in1k.py"
    return {
        "segment": [photo, "--weights", place / "model", "--out", place],
        "look": [photo, "--weights", place / "model", "--html", photo],
        "features": [place / "folder", "--weights", place / "model", "--out", photo.with_suffix(".npz")],
        "evaluate": [place / "folder", "--weights", place / "model", "--out", place / "found"],
        "adapt": [place / "folder", "--weights", place / "model", "--out", place / "found"],
        "compare": [photo, "--segmenter", "merge:superpixels=grid:cell=8", "--out", photo],
        "neighbors": [place / "folder", "--weights", place / "model", "--out", photo],
        "densepose": ["merge", "--data", place, "--out", photo],
        "attention": [photo, "--weights", place / "model", "--out", place],
        "parts": ["merge", "--data", place / "folder", "--out", photo],
        "predict": [photo, "--weights", place / "model", "--out", photo],
        "report": [place, "--out", photo],
        "superpixels": [photo, "--backends", "grid", "--rounds", "1", "--out", photo],
        "convert": [weights, weights],
        "export": [place / "model", "--to", "torch-export", "--out", _model(place)],
        "ablate": ["--recipe", recipe, "--grid", "seed=0", "--out", place / "study"],
        "copy-recipe": ["moco_in1k", place],
        "new-plugin": ["pooling", "mine", "--into", place],
    }


def _model(place: Path) -> Path:
    (place / "model.pt2").write_bytes(b"a user's own file")
    return place / "model.pt2"


def refused(done: Finished) -> None:
    assert done.code == 1, done
    assert "--overwrite" in done.err
    assert "exist" in done.err


def test_every_command_that_names_an_output_has_the_flag_and_a_case_here(place: Path) -> None:
    assert set(writers()) == set(calls(place))
    for name, parser in parsers().items():
        flags = {flag for action in parser._actions for flag in action.option_strings}
        assert ("--overwrite" in flags) == (name in writers()), name


@pytest.mark.parametrize("name", sorted(writers()))
def test_a_command_replaces_nothing_that_is_there(name: str, place: Path, command: Command) -> None:
    arguments = calls(place)[name]
    before = hashes(place)
    refused(command(name, *arguments))
    assert hashes(place) == before


def test_the_flag_replaces(place: Path, tmp_path: Path, command: Command) -> None:
    arguments = [place / "photo.png", "--weights", place / "model", "--out", tmp_path]
    assert command("segment", *arguments).code == 0
    before = hashes(tmp_path)
    assert len(before) > 3
    (tmp_path / "photo.npz").write_bytes(b"")
    refused(command("segment", *arguments))
    assert (tmp_path / "photo.npz").read_bytes() == b""
    assert command("segment", *arguments, "--overwrite").code == 0
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("names", [("a.jpg", "a-stage0.jpg"), ("photo.png", "folder/photo.png")])
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_two_images_do_not_share_an_output(
    names: tuple[str, str], flags: tuple[str, ...], place: Path, tmp_path: Path, command: Command
) -> None:
    images = [place / name for name in names]
    done = command("segment", *images, "--weights", place / "model", "--out", tmp_path, *flags)
    assert done.code == 1
    assert "two outputs would have the same path" in done.err
    assert not list(tmp_path.iterdir())


def test_a_link_to_an_input_is_not_replaced(place: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "photo.png").symlink_to(place / "photo.png")
    before = hashes(place)
    refused(command("segment", place / "photo.png", "--weights", place / "model", "--out", tmp_path))
    assert hashes(place) == before
    assert (tmp_path / "photo.png").is_symlink()


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "results.json", "pictures/step-1.png"])
def test_a_run_leaves_the_files_of_others(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a user's own file")
    before = hashes(tmp_path)
    for _ in range(2):
        with pytest.raises(SystemExit, match="2"):
            launch(start, RunConfig, ["--out", str(tmp_path)])
        assert f"{name.split('/', maxsplit=1)[0]}, which no run of castssl made" in capsys.readouterr().err
        assert hashes(tmp_path) == before


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder with a file of each name that a run or a study writes, none of them theirs."""
    for name in ("config.json", "log.jsonl", "once.json", "results.json", "diverged.txt", "table.md"):
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text('{"untrained": {"knn": 7}}')
    return tmp_path / "out"


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_recipe_and_benchmark_that_writes_replaces_nothing_without_the_flag(
    name: str, stranger: Path, script: Command
) -> None:
    usage = script(name, "--help").out
    flags = set(re.findall(r"(?m)^[^\w-]*(--[a-z-]+)", usage))
    assert ("--out" in flags) == ("--overwrite" in flags)
    if "--out" not in flags:
        assert name.startswith(("benchmarks/", "space/")), "a recipe that writes nothing"
        return
    given = {"--data": "folder:/nowhere", "--weights": "x", "--model": "nano", "--out": str(stranger)}
    given["--segmenter"] = "merge"
    if name == "segment.py":
        del given["--weights"]  # It takes weights or the name of a new model.
    arguments = [word for flag, value in given.items() if flag in flags for word in (flag, value)]
    before = hashes(stranger)
    done = script(name, *arguments)
    assert done.code == 2, done
    assert "--overwrite" in done.err
    assert str(stranger) in done.err
    assert hashes(stranger) == before
    if not name.startswith("ablations/"):  # Those read no file of settings.
        (stranger / "mine.json").write_text('{"overwrite": true}')
        done = script(name, "--config", stranger / "mine.json", *arguments)
        assert "overwrite: no file of settings may give this" in done.err


def test_the_flag_of_a_recipe_replaces_what_others_left_and_is_not_kept(
    stranger: Path, place: Path, script: Command
) -> None:
    (stranger / "mine.txt").write_text("of a name that no run writes")
    data = place / "data" / "train" / "a"
    data.mkdir(parents=True)
    for number in range(2):
        Image.effect_noise((32, 32), 60).convert("RGB").save(data / f"{number}.png")
    flags = ["--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4", "--hidden", "16"]
    flags += ["--superpixels", "grid:cell=8", "--epochs", "0", "--workers", "0", "--batch-size", "2"]
    flags += ["--data", f"folder:{place / 'data'}", "--val", "none", "--out", str(stranger), "--overwrite"]
    done = script("moco_in1k.py", *flags)
    assert done.code == 0, done.err
    settings = json.loads((stranger / "config.json").read_text())
    assert settings["image_size"] == 32
    assert "overwrite" not in settings
    for name in ("log.jsonl", "once.json", "results.json"):
        assert '{"untrained": {"knn": 7}' not in (stranger / name).read_text()
    assert (stranger / "mine.txt").read_text() == "of a name that no run writes"
    assert script("moco_in1k.py", *flags[:-1]).code == 0, "the folder is the run's from now on"
