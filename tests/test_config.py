from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castssl.config import (
    FREE,
    GROWS,
    MOVES,
    RunConfig,
    check_least,
    differences,
    launch,
    load,
    parse,
    plain,
    read,
    save,
    typed,
)
from castssl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Crop:
    low: float = 0.08
    """Smallest share of the image."""
    high: float = 1.0
    """Largest share."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A recipe."""

    data: str
    """What to read, as KIND:PATH."""
    lr: float = 1.5e-4
    """Learning rate for 256 images."""
    sizes: tuple[int, ...] = (196, 64)
    """Tokens per stage."""
    pair: tuple[int, float] = (1, 0.5)
    """A number and a share."""
    path: Path | None = None
    """A file."""
    fast: bool = False
    """Whether to hurry."""
    name: Literal["adamw", "lars"] = "adamw"
    """Optimizer."""
    crop: Crop = field(default_factory=Crop)
    weights: dict[str, float] = field(default_factory=dict)
    """A weight for each name."""

    def problems(self) -> list[str]:
        found = super().problems()
        if self.lr < 0:
            found.append(f"--lr: got {self.lr}, expected at least 0")
        if self.fast and self.epochs > 5:
            found.append(f"--fast: expected --epochs 5 or fewer, got {self.epochs}")
        return found


def _write(folder: Path, **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    return path


def test_flags_become_typed_values() -> None:
    made = read(
        Config,
        shlex.split(
            "--data demo --lr 0.1 --sizes 8 4 2 --pair 3 1 --fast --epochs 3 --crop.low .5 --max_steps 7"
        ),
    )
    assert made == Config(
        data="demo",
        lr=0.1,
        sizes=(8, 4, 2),
        pair=(3, 1.0),
        fast=True,
        epochs=3,
        crop=Crop(low=0.5),
        max_steps=7,
    )


def test_defaults_of_the_inherited_fields() -> None:
    made = read(Config, ["--data", "x"])
    assert (made.seed, made.epochs, made.track, made.precision) == (0, 100, "none", "fp32")


def test_unknown_and_missing_flags_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        read(Config, shlex.split("--epohcs 3 --no-seed --crop.lo 1"))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert {"--data STR", "--epohcs", "--no-seed", "--crop.lo"} <= set(lines)
    assert lines[-1] == "--help lists every option"
    assert not any(letter in str(caught.value) for letter in "│╭╰─")


@pytest.mark.parametrize(
    ("argv", "output"),
    [
        (["stray", "--data", "x"], "Unrecognized options: stray"),
        (["--data", "x", "--lr"], "Missing value for argument '--lr'"),
        (["--data", "x", "--lr=1", "2"], "Unrecognized options: 2"),
        (["--data", "x", "--lr", "abc"], "Error parsing --lr: could not convert string to float: 'abc'"),
        (["--data", "x", "--epohcs", "3"], "--epochs INT"),
        (["--data", "x", "--config"], "--config: got nothing"),
        (["--data", "x", "--config", "a", "--config=b"], "--config: got a and b, expected one"),
        (["--data", "x", "--config", "/no/such.json"], "cannot read /no/such.json"),
    ],
)
def test_a_wrong_command_line_is_told_what_was_expected(argv: list[str], output: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Config, argv)
    assert output in str(caught.value)


def test_a_config_reports_its_own_problems_together() -> None:
    with pytest.raises(ConfigError) as caught:
        read(Config, ["--data", "x", "--lr", "-1", "--fast", "--keep", "0"])
    assert "--lr: got -1.0, expected at least 0" in str(caught.value)
    assert "--keep: got 0, expected at least 1" in str(caught.value)
    assert "--fast: expected --epochs 5 or fewer, got 100" in str(caught.value)


def test_parse_exits_with_2_and_tells_why(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Config, ["--lr", "abc"])
    assert caught.value.code == 2
    assert "Missing from the command line" in capsys.readouterr().err


def test_only_one_process_tells(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        parse(Config, ["--lr", "abc"])
    assert capsys.readouterr().err == ""


def test_help_shows_docstrings_defaults_and_config(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _write(tmp_path, data="demo", lr=0.25)
    with pytest.raises(SystemExit) as caught:
        parse(Config, ["--config", str(tmp_path), "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "Learning rate for 256 images. (default: 0.25)" in text
    assert "Seed of weights" in text
    assert "A recipe." in text
    assert "--config PATH" in text


@pytest.mark.parametrize(("error", "code"), [(ConfigError("a"), 2), (DataError("b"), 1)])
def test_launch_turns_errors_into_messages(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config: Config) -> None:
        raise error from KeyError("why")

    with pytest.raises(SystemExit) as caught:
        launch(main, Config, ["--data", "x"])
    assert caught.value.code == code
    assert capsys.readouterr().err == f"error: {error}\ncaused by KeyError('why')\n"


@pytest.mark.parametrize(
    "cause", [OSError(2, "No such file or directory", "a"), ValueError("No such file or directory")]
)
def test_a_cause_whose_text_is_in_the_message_is_not_repeated(
    cause: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Config) -> None:
        raise DataError("cannot read a (No such file or directory)") from cause

    with pytest.raises(SystemExit):
        launch(main, Config, ["--data", "x"])
    assert capsys.readouterr().err == "error: cannot read a (No such file or directory)\n"


def test_launch_hands_over_the_config_and_leaves_bugs_alone() -> None:
    seen: list[Config] = []
    launch(seen.append, Config, ["--data", "x"])
    assert seen == [Config(data="x")]

    def main(config: Config) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        launch(main, Config, ["--data", "x"])


def test_the_folder_that_holds_a_config_is_the_run_unless_out_is_given(tmp_path: Path) -> None:
    path = _write(tmp_path, data="demo", out="/the/original", other_images=True)
    assert not read(Config, ["--config", str(path)]).other_images, "it is given for one start only"
    assert read(Config, ["--config", str(path)]).out == str(tmp_path)
    assert read(Config, ["--config", str(tmp_path)]).out == str(tmp_path)
    assert read(Config, ["--config", str(path), "--out", "new"]).out == "new"
    other = path.rename(tmp_path / "mine.json")
    assert read(Config, ["--config", str(other)]).out == "/the/original"


@pytest.mark.parametrize("content", [b"", bytes(64)])
def test_an_emptied_config_names_what_to_do(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config.json is empty.*give the flags of the run and --out"):
        read(Config, ["--config", str(tmp_path)])


def test_later_flags_override_the_saved_config_from_file_or_folder(tmp_path: Path) -> None:
    path = _write(tmp_path, data="demo", lr=1, sizes=[3, 2], path="/a/b", crop={"low": 0.2}, weights={"a": 1})
    expected = Config(
        out=str(tmp_path),
        data="demo",
        lr=1.0,
        sizes=(3, 2),
        path=Path("/a/b"),
        crop=Crop(low=0.2),
        weights={"a": 1.0},
    )
    assert read(Config, ["--config", str(path)]) == expected
    assert read(Config, [f"--config={tmp_path}", "--lr", "2"]).lr == 2.0
    assert read(Config, ["--lr", "2", "--config", str(path)]).lr == 2.0


def test_all_faults_of_a_json_file_are_reported_at_once(tmp_path: Path) -> None:
    path = _write(
        tmp_path, epohcs=3, lr="fast", sizes=[1, 2.5], pair=[1], fast=1, name="sgd", crop={"lo": 1}, seed=True
    )
    with pytest.raises(ConfigError) as caught:
        load(Config, path)
    text = str(caught.value)
    assert "epohcs: unknown setting; did you mean 'epochs'?" in text
    assert "lr: got 'fast', expected a number" in text
    assert "sizes[1]: got 2.5, expected a whole number" in text
    assert "pair: got [1], expected 2 values" in text
    assert "fast: got 1, expected true or false" in text
    assert "seed: got True, expected a whole number" in text
    assert "name: got 'sgd', expected one of adamw, lars" in text
    assert "crop.lo: unknown setting; did you mean 'low'?" in text
    assert "data: missing, expected text" in text


@pytest.mark.parametrize("text", ["", "[1]", "{", "nul"])
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.json"):
        load(Config, path)


def test_a_wrong_file_is_reported_before_flags(tmp_path: Path) -> None:
    path = _write(tmp_path, daat="demo")
    with pytest.raises(ConfigError) as caught:
        read(Config, ["--config", str(path), "--lr", "abc"])
    assert "daat: unknown setting; did you mean 'data'?" in str(caught.value)
    assert "Missing" not in str(caught.value)
    assert "Error parsing --lr" not in str(caught.value)


numbers = st.floats(allow_nan=False)


@given(
    st.builds(
        Config,
        data=st.text(),
        lr=numbers,
        sizes=st.lists(st.integers()).map(tuple),
        pair=st.tuples(st.integers(), numbers),
        path=st.none() | st.text("ab/", min_size=1).map(Path),
        fast=st.booleans(),
        name=st.sampled_from(["adamw", "lars"]),
        crop=st.builds(Crop, numbers, numbers),
        weights=st.dictionaries(st.text(), numbers),
        seed=st.integers(),
    )
)
def test_save_and_load_are_inverse(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    path = tmp_path_factory.getbasetemp() / "round.json"
    save(config, path)
    assert load(Config, path) == config
    assert differences(plain(config), config) == []


def test_save_leaves_no_half_written_file(tmp_path: Path) -> None:
    path = _write(tmp_path, data="old")
    with pytest.raises(TypeError):
        save(Config(data=object()), path)  # type: ignore[arg-type]
    assert json.loads(path.read_text()) == {"data": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_differences_name_what_differs_and_spare_what_may() -> None:
    saved = plain(Config(data="a"))
    assert differences(saved, Config(data="a", out="b", track="wandb", epochs=200, max_steps=3)) == []
    assert differences(saved, Config(data="b", max_steps=3, lr=0.1)) == [
        "--data: the run has 'a', asked for 'b'",
        "--lr: the run has 0.00015, asked for 0.1",
    ]
    assert differences(saved, Config(data="a", epochs=50)) == ["--epochs: the run has 100, asked for 50"]


def test_what_moves_may_be_elsewhere_but_not_come_or_go() -> None:
    @dataclass(frozen=True)
    class Moving:
        place: str | None = field(default=None, metadata=MOVES)

    here, there, nowhere = Moving("a"), Moving("b"), Moving()
    assert differences(plain(here), there) == differences(plain(nowhere), nowhere) == []
    assert differences(plain(here), nowhere) == ["--place: the run has 'a', asked for None"]
    assert differences({}, there) == ["--place: the run has None, asked for 'b'"]


def test_a_field_that_the_saved_settings_lack_had_its_default() -> None:
    assert differences({"data": "a"}, Config(data="a")) == []
    assert len(differences({"data": "a"}, Config(data="a", sizes=(1,)))) == 1


def test_what_may_change_is_marked_on_the_field() -> None:
    rules = {part.name: part.metadata.get("resume") for part in fields(RunConfig)}
    assert {name for name, rule in rules.items() if rule is None} == {"seed", "accumulate", "precision"}
    assert rules["epochs"] == GROWS["resume"]
    assert rules["out"] == FREE["resume"]


def test_no_preset_sets_what_is_to_be_typed() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Preset(RunConfig):
        @classmethod
        def starting(cls, argv: Sequence[str]) -> Self:
            return cls(overwrite=True, epochs=3)

    assert read(Preset, []) == Preset(epochs=3)
    made = read(Preset, ["--overwrite"])
    assert made.overwrite
    assert typed(made) == ["--overwrite"]
    assert typed(read(Preset, [])) == []


def test_numbers_that_are_too_small_and_empty_lists_are_refused() -> None:
    config = replace(Config(data="a"), sizes=(196, 0))
    check_least(config, sizes=0, data=1, path=1)
    with pytest.raises(ConfigError, match=r"^--sizes: got 0, expected 1 or more"):
        check_least(config, sizes=1)
    with pytest.raises(ConfigError, match=r"^--sizes: got nothing, expected one value or more"):
        check_least(replace(config, sizes=()), sizes=1)


def test_plain_is_json() -> None:
    config = Config(data="a", path=Path("/x"))
    assert json.loads(json.dumps(plain(config))) == plain(config)
    assert plain(config)["sizes"] == [196, 64]
    assert set(plain(config)) == set(asdict(config)) - {"overwrite"}


def test_torch_is_not_imported() -> None:
    code = "import sys, castssl.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
