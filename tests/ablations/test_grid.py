"""A grid becomes cells, cells share steps, and a step's command is what one would type."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castssl.ablations.engine import steps_of
from castssl.ablations.grid import Study, parse
from castssl.errors import ConfigError
from castssl.shipped import recipe

RECIPE = Path(__file__).with_name("recipe.py")


def test_a_comma_inside_options_belongs_to_them() -> None:
    found = parse(["pooling=graph:centroids=random,exact=True,tome", "sizes=8 4,16 8 4", "seed=0,1"])
    assert found == {
        "pooling": ("graph:centroids=random,exact=True", "tome"),
        "sizes": ("8 4", "16 8 4"),
        "seed": ("0", "1"),
    }


@pytest.mark.parametrize("content", [b"", bytes(40), b'{"trained": {'])
def test_results_that_a_power_cut_damaged_are_not_finished(content: bytes, tmp_path: Path) -> None:
    (step,) = steps_of(Study(title="", recipe=RECIPE, grid={"seed": ["0"]}).cells())
    step.folder(tmp_path).mkdir(parents=True)
    (step.folder(tmp_path) / "results.json").write_bytes(content)
    assert step.results(tmp_path) is None


@pytest.mark.parametrize("texts", [["pooling"], ["pooling="], ["=graph"], ["seed=0", "seed=1"]])
def test_what_is_no_grid_is_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="--grid"):
        parse(texts)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
)
def test_cells_are_the_product(grid: dict[str, list[int]]) -> None:
    study = Study(title="", recipe=RECIPE, grid={key: [str(v) for v in vs] for key, vs in grid.items()})
    cells = study.cells()
    count = 1
    for values in grid.values():
        count *= len(values)
    assert len({tuple(cell.values.items()) for cell in cells}) == len(cells) == count
    assert len({step.name for step in steps_of(cells)}) == count


def test_cells_share_the_first_run_if_only_the_second_differs(tmp_path: Path) -> None:
    grid = {"seed": ["0", "1"], "recipe.sizes": ["8 4", "16 8 4"]}
    study = Study(title="", recipe=RECIPE, grid=grid, then=RECIPE, then_flags=["--wait", "0"])
    steps = steps_of(study.cells())
    assert len(steps) == 2 + 4
    command = steps[1].command(tmp_path, ["python"])
    first = tmp_path / steps[0].name / "encoder.safetensors"
    assert command[0] == "python"
    assert Path(command[1]).resolve() == RECIPE
    assert command[2:] == [
        *("--wait", "0", "--sizes", "8", "4", "--weights", str(first), "--out"),
        command[-1],
    ]
    assert study.cells()[0].row == ("8 4",)


def test_other_common_flags_are_other_runs(tmp_path: Path) -> None:
    names = [
        Study(title="", recipe=RECIPE, grid={"seed": ["0"]}, flags=flags).cells()[0].steps[0].name
        for flags in ([], ["--wait", "0"])
    ]
    assert names[0] != names[1]


def test_other_recipes_of_one_name_have_other_runs(tmp_path: Path) -> None:
    """Else the results of one would count as those of the other."""
    shipped, copy, other = recipe("moco_in1k"), tmp_path / "moco_in1k.py", tmp_path / "other/moco_in1k.py"
    other.parent.mkdir()
    for own in (copy, other):
        own.write_bytes(shipped.read_bytes())
    paths = (shipped, copy, other)
    cells = [Study(title="", recipe=path, grid={"seed": ["0"]}).cells()[0] for path in paths]
    assert len({cell.steps[0].name for cell in cells}) == 3
    # Runs of earlier versions are found again.
    assert cells[0].steps[0].name == "moco_in1k-seed=0-0e1ac252"


def test_booleans_are_flags(tmp_path: Path) -> None:
    study = Study(title="", recipe=RECIPE, grid={"quick": ["True", "False"]})
    assert [cell.steps[0].flags for cell in study.cells()] == [("--quick",), ("--no-quick",)]


def test_a_missing_recipe_and_double_values_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no recipe recipes/none\.py"):
        Study(title="", recipe=Path("recipes/none.py"), grid={})
    with pytest.raises(ConfigError, match="values that differ"):
        Study(title="", recipe=RECIPE, grid={"seed": ["1", "1"]})


def test_long_values_have_folders_that_file_systems_take(tmp_path: Path) -> None:
    grid = {"pooling": ["graph", "\N{GREEK SMALL LETTER ALPHA}" * 300, "\N{GREEK SMALL LETTER ALPHA}" * 301]}
    first, *others = (cell.steps[0].name for cell in Study(title="", recipe=RECIPE, grid=grid).cells())
    assert first.startswith("recipe-pooling=graph-")
    assert len({*others}) == 2
    for name in others:
        (tmp_path / name).mkdir()
