from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from castssl import config
from castssl.config import read
from castssl.errors import ConfigError
from castssl.training import presets
from castssl.training.configs import ImageConfig
from castssl.training.hierarchy import HierarchyConfig
from castssl.training.supervised import SupervisedConfig

RECIPES = (
    "moco_in1k",
    "pretrain",
    "deit_in1k",
    "hcast",
    "probe_in1k",
    "segment",
    "finetune_voc",
    "multilabel",
)
NEEDED = dict.fromkeys(("probe_in1k", "segment", "finetune_voc"), ("--weights", "run"))
DOCUMENT = Path(__file__).resolve().parents[2] / "recipes" / "README.md"


def config_of(recipe: str) -> type[ImageConfig]:
    made: type[ImageConfig] = import_module(f"recipes.{recipe}").Config
    return made


@pytest.fixture
def few(tmp_path: Path) -> str:
    """A folder of six training images of two classes."""
    for name in "ab":
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    return f"folder:{tmp_path}"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", presets.LIMITS)
def test_a_preset_gives_defaults_that_flags_override(recipe: str, preset: str) -> None:
    made = config_of(recipe)
    argv = ["--data", "folder:x", "--preset", preset, *NEEDED.get(recipe, ())]
    settings = read(made, argv)
    values = made.by_preset[preset]
    assert {name: getattr(settings, name) for name in values} == values
    assert values.keys() <= {part.name for part in fields(made)}
    assert read(made, [*argv, "--batch-size", "6"]).batch_size == 6
    assert read(made, argv[:2] + argv[4:]) != settings


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_the_document_lists_what_those_of_hsvlt_set(preset: str) -> None:
    (flags,) = re.findall(
        rf"^\| `{preset}` \| `(.+)` \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    made = config_of("multilabel")
    pairs = dict(re.findall(r"--([\w-]+) ([^\s`]+)", flags))
    assert pairs == {k.replace("_", "-"): str(v) for k, v in made.by_preset[preset].items()}
    assert read(made, ["--data", "demo-many", *flags.split(), "--preset", preset]) == read(
        made, ["--data", "demo-many", "--preset", preset]
    )
    if preset == "released":
        assert read(made, ["--data", "demo-many"]) == read(made, ["--data", "demo-many", *flags.split()])


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="--preset: got paper, expected published, small, tiny or auto"):
        read(SupervisedConfig, ["--data", "folder:x", "--preset", "paper"])


def test_auto_counts_the_training_images(few: str) -> None:
    settings = read(SupervisedConfig, ["--data", few, "--preset", "auto"])
    assert settings == read(SupervisedConfig, ["--data", few, "--preset", "tiny"])
    assert settings.preset == "tiny"


@pytest.mark.usefixtures("few")
def test_auto_counts_images_that_could_not_be_opened_before(tmp_path: Path) -> None:
    argv = ["--data", f"folder:{tmp_path / 'late'}", "--preset", "auto"]
    assert read(SupervisedConfig, argv).preset == "published"
    (tmp_path / "late").mkdir()
    (tmp_path / "train").rename(tmp_path / "late" / "train")
    assert read(SupervisedConfig, argv).preset == "tiny"


@pytest.mark.parametrize(
    ("images", "name"),
    [(1, "tiny"), (1999, "tiny"), (2000, "small"), (49_999, "small"), (50_000, "published")],
)
def test_the_preset_of_a_number_of_images(images: int, name: str) -> None:
    assert presets.of_count(images) == name


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--data", "folder:/none"], "published"),
        ([], "published"),
        (["--data", "demo:size=32,per_class=6", "--val-share", "x"], "tiny"),
    ],
)
def test_auto_leaves_wrong_data_to_the_run(argv: list[str], expected: str) -> None:
    assert presets.resolve([*argv, "--preset", "auto"]) == expected


def test_a_method_keeps_its_own_small_model() -> None:
    argv = ["--data", "cub:x", "--preset", "small"]
    assert read(HierarchyConfig, [*argv, "--method", "hier-vit"]).model == "nano_vit"
    # The cosine of 300 epochs belongs to the released settings.
    assert read(HierarchyConfig, argv).cosine_epochs == 0


def test_saved_settings_keep_the_name_and_the_values(tmp_path: Path) -> None:
    settings = read(SupervisedConfig, ["--data", "folder:x", "--preset", "small"])
    config.save(settings, tmp_path / "config.json")
    assert config.load(SupervisedConfig, tmp_path / "config.json") == settings
    with pytest.raises(ConfigError, match=r"--preset: .*--config gives all settings"):
        read(SupervisedConfig, ["--config", str(tmp_path / "config.json"), "--preset", "tiny"])


def test_the_run_prints_what_the_preset_sets(few: str, capsys: pytest.CaptureFixture[str]) -> None:
    read(SupervisedConfig, ["--data", few, "--preset", "tiny", "--lr", "1"]).images(measured=False)
    printed = capsys.readouterr().err
    assert "--preset tiny sets --model cast_nano" in printed
    assert "--lr" not in printed


def test_the_run_names_the_preset_that_suits_few_images(few: str, capsys: pytest.CaptureFixture[str]) -> None:
    read(SupervisedConfig, ["--data", few]).images(measured=False)
    assert "6 training images" in (printed := capsys.readouterr().err)
    assert "--preset tiny" in printed
    many = "demo:size=32,per_class=250"
    read(SupervisedConfig, ["--data", many, "--batch-size", "32"]).images(measured=False)
    assert "--preset" not in capsys.readouterr().err


def documented() -> dict[str, dict[str, dict[str, str]]]:
    """The table in recipes/README.md: preset -> recipe -> flag -> value."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("## Small data sets\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(small|tiny)` \| (.+?) \| (.+) \|$", section, re.MULTILINE)
    table: dict[str, dict[str, dict[str, str]]] = {}
    for preset, recipes, flags in rows:
        for recipe in re.findall(r"`(\w+)\.py`", recipes):
            pairs = dict(re.findall(r"--([\w-]+) ([^\s`]+)", flags))
            table.setdefault(preset, {})[recipe] = pairs
    return table


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", presets.LIMITS)
def test_the_document_lists_what_each_sets(recipe: str, preset: str) -> None:
    values: Mapping[str, Any] = config_of(recipe).by_preset[preset]
    assert documented()[preset][recipe] == {k.replace("_", "-"): str(v) for k, v in values.items()}
