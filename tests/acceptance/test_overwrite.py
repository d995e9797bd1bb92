"""No command writes over a file that is there, be it an input or not, unless ``--overwrite`` is given."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import pytest
from PIL import Image

import castssl
from castssl import cli
from castssl.config import RunConfig, launch
from castssl.models.cast import CAST
from castssl.training import start
from tests.acceptance.conftest import ROOT, Command, Finished

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
    assert isinstance(model, CAST)
    model.save_pretrained(folder / "model")
    for name in ("photo.png", "a.jpg", "a-stage0.jpg", "folder/photo.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((48, 40), 60).convert("RGB").save(folder / name)
    (folder / "study").mkdir()
    (folder / "study" / "table.md").write_text("a user's own table")
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
        "predict": [photo, "--weights", place / "model", "--out", photo],
        "superpixels": [photo, "--backends", "grid", "--rounds", "1", "--out", photo],
        "convert": [weights, weights],
        "export": [place / "model", "--to", "torch-export", "--out", _model(place)],
        "ablate": ["--recipe", recipe, "--grid", "seed=0", "--no-cost", "--out", place / "study"],
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
