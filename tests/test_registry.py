from __future__ import annotations

import inspect
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castssl import contracts, registry
from castssl.errors import (
    AmbiguousPlugin,
    BrokenPlugin,
    ConfigError,
    ContractError,
    UnknownPlugin,
)
from castssl.registry import accepted, fits, misfits, parse, values
from castssl.superpixels.grid import Grid
from tests.plugins.packages import DUPLICATE, HEALTHY, SECOND, UNIMPORTABLE, WRONG_SIGNATURE, Package


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one healthy plugin, on the path."""
    monkeypatch.syspath_prepend(str(HEALTHY.write(tmp_path / "site")))
    return tmp_path / "site"


def named(kind: str) -> dict[str, registry.Entry]:
    return {entry.name: entry for entry in registry.names(kind)}


def test_kinds_are_those_of_the_contracts() -> None:
    assert set(registry.ARGUMENTS) == set(contracts.BASES) == set(registry.KINDS)


def test_built_ins_come_through_the_door() -> None:
    found = [(kind, entry) for kind in registry.KINDS for entry in registry.names(kind)]
    ours = {(kind, entry.name) for kind, entry in found if entry.distribution == "castssl"}
    assert ours >= {
        ("superpixels", "grid"),
        ("superpixels", "seeds"),
        ("pooling", "graph"),
        ("pooling", "random"),
        ("objectives", "moco"),
        ("encoders", "timm"),
    }
    assert all(entry.version for _, entry in found)


def test_listing_imports_neither_torch_nor_a_plugin(installed: Path) -> None:
    code = (
        "import sys; from castssl import registry\n"
        "found = [e.name for k in registry.KINDS for e in registry.names(k)]\n"
        "assert 'healthy' in found and 'graph' in found, found\n"
        "bad = {'torch', 'castssl.pooling', 'castssl_healthy', 'imported_by_listing'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    path = os.pathsep.join([str(installed), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_an_entry_tells_where_it_comes_from(installed: Path) -> None:
    assert named("pooling")["healthy"] == registry.Entry("healthy", "castssl-healthy", "1.0")


def test_unknown_kind_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"(?s)'poling'; did you mean 'pooling'\?.*superpixels"):
        registry.names("poling")


def test_unknown_name_shows_the_nearest_and_all_that_is_installed(installed: Path) -> None:
    with pytest.raises(UnknownPlugin) as caught:
        registry.load("pooling", "grph")
    text = str(caught.value)
    assert "did you mean 'graph'?" in text
    assert "healthy (castssl-healthy 1.0)" in text


def test_a_broken_import_keeps_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(UNIMPORTABLE.write(tmp_path)))
    with pytest.raises(BrokenPlugin, match=r"castssl-unimportable 1\.0.*ModuleNotFoundError") as caught:
        registry.load("pooling", "unimportable")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_dim", r"signature \(\), expected \(dim, \*, option=default"),
        ("no_default", "every option needs a default"),
        ("no_factory", "is a int, not a factory"),
    ],
)
def test_a_wrong_signature_is_refused_at_load(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(WRONG_SIGNATURE.write(tmp_path)))
    with pytest.raises(BrokenPlugin, match=reason):
        registry.load("pooling", name)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_duplicate_is_found_in_any_order(
    order: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grouping an unsorted list would miss the pair when the third lies between them."""
    twice = [
        replace(DUPLICATE, points={"pooling": {"twice": "castssl_duplicate:Pool"}}),
        replace(SECOND, points={"pooling": {"twice": "castssl_duplicate:Pool"}}),
        HEALTHY,
    ]
    for place in order:
        monkeypatch.syspath_prepend(str(twice[place].write(tmp_path / str(place))))
    with pytest.raises(AmbiguousPlugin) as caught:
        registry.load("pooling", "twice")
    text = str(caught.value)
    assert "castssl-duplicate 1.0" in text
    assert "castssl-second 2.0" in text
    assert "pip uninstall -y castssl-duplicate` or `" in text
    assert "pip uninstall -y castssl-second`" in text
    assert registry.load("pooling", "healthy").__name__ == "Pool"


def test_one_distribution_with_one_name_for_two_things_is_ambiguous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[castssl.pooling]\ntwin = a:A\ntwin = b:B\n"
    monkeypatch.syspath_prepend(str(Package("castssl-twin", entry_points=text).write(tmp_path)))
    with pytest.raises(AmbiguousPlugin, match="registered 2 times"):
        registry.load("pooling", "twin")


def test_two_copies_of_one_distribution_are_one(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an editable install beside an old one; Python imports the first on its path."""
    newer = replace(HEALTHY, name="Castssl_Healthy", version="2.0")
    monkeypatch.syspath_prepend(str(newer.write(tmp_path / "editable")))
    assert registry.load("pooling", "healthy").__name__ == "Pool"
    assert [e.version for e in registry.names("pooling") if e.name == "healthy"] == ["2.0"]


def test_what_a_newer_copy_dropped_is_gone(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(HEALTHY, version="2.0", points={"pooling": {"renamed": "castssl_healthy:Pool"}})
    monkeypatch.syspath_prepend(str(newer.write(tmp_path / "editable")))
    assert "renamed" in named("pooling")
    assert "healthy" not in named("pooling")


def test_build_takes_options_from_the_text_and_as_keywords(installed: Path) -> None:
    built: Any = registry.build("pooling", "healthy:rounds=5", 12, mode="slow")
    assert (built.dim, built.rounds, built.mode) == (12, 5, "slow")
    grid = registry.build("superpixels", "grid:cell=4")
    assert isinstance(grid, Grid)
    assert grid.capacity(8, 12) == 6


def test_build_reports_all_misfits_at_once(installed: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.build("pooling", "healthy:round=5,mode=slow,rounds=many", 12, mode="fast")
    lines = str(caught.value).splitlines()
    assert lines == [
        "pooling 'healthy':",
        "  - 'mode' is given as text and as a keyword",
        "  - unknown option 'round'; did you mean 'rounds'?",
        "  - rounds = 'many' is not int",
        "it accepts rounds: int = 3, mode: str = 'fast'",
    ]


def test_build_reports_missing_arguments() -> None:
    with pytest.raises(ConfigError, match="missing a required argument: 'dim'"):
        registry.build("pooling", "random")


def test_a_value_that_the_factory_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"(?s)multiple of heads.*it accepts heads") as caught:
        registry.build("pooling", "graph:heads=5", 12)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("cast:hf:USER/NAME", ("cast:", "hf:USER/NAME")),
        ("maps:/data/a, b/maps=2", ("maps:", "/data/a, b/maps=2")),
        ("kmeans:runs/x,sizes=(4,2),image_size=64", ("kmeans:sizes=(4,2),image_size=64", "runs/x")),
        ("merge:by=color", ("merge:by=color", "")),
        ("merge", ("merge:", "")),
    ],
)
def test_the_source_of_a_segmenter_ends_at_the_first_option(
    spec: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "build", lambda *arguments: arguments)
    arguments: object = registry.build_segmenter(spec)
    assert arguments == ("segmenters", *expected)


def test_what_does_not_inherit_from_the_base_class_is_refused(installed: Path) -> None:
    with pytest.raises(
        ContractError, match=r"Hollow, expected a castssl.contracts.Pooling.*castssl check pooling hollow"
    ):
        registry.build("pooling", "hollow", 12)


def test_describe_shows_options_defaults_and_docstring(installed: Path) -> None:
    assert registry.describe("pooling", "healthy").splitlines() == [
        "pooling healthy: castssl-healthy 1.0 (castssl_healthy:Pool)",
        "called with (dim, **options)",
        "options:",
        "  rounds: int = 3",
        "  mode: str = 'fast'",
        "",
        "Pools nothing.",
    ]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, entry.name) for kind in registry.KINDS for entry in registry.names(kind)]
)
def test_every_installed_plugin_is_described_as_it_is(kind: str, name: str) -> None:
    factory = registry.load(kind, name)
    shown = registry.describe(kind, name)
    for option in accepted(factory, len(registry.ARGUMENTS[kind])):
        assert f"  {option}\n" in shown
    assert shown.endswith(inspect.getdoc(factory) or "")


def factory(
    dim: int,
    *,
    count: int = 3,
    share: float = 0.5,
    mode: Literal["fast", "slow"] = "fast",
    flag: bool = False,
    label: str = "",
    sizes: tuple[int, ...] = (),
    limit: int | None = None,
) -> None:
    """Takes one option of each sort."""


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
literals = leaves | st.lists(leaves, max_size=3) | st.dictionaries(st.integers(), leaves, max_size=2)
keys = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)


@given(st.dictionaries(keys, literals, max_size=4))
def test_python_literals_survive_the_text(options: dict[str, object]) -> None:
    text = "name:" + ",".join(f"{key}={value!r}" for key, value in options.items())
    spec = parse(text)
    assert spec.name == "name"
    assert values(lambda **options: None, spec) == options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("received", "received"),
        ("true", True),
        ("False", False),
        ("a=b", "a=b"),
        ("/some/where", "/some/where"),
        ("(1, 2)", (1, 2)),
        ("", ""),
    ],
)
def test_values_are_literals_or_text(text: str, expected: object) -> None:
    found = values(lambda **options: None, parse(f"name: key = {text}"))
    assert found == {"key": expected}
    assert type(found["key"]) is type(expected)


def test_an_option_declared_as_text_stays_text() -> None:
    assert values(factory, parse("name:label=12,count=12")) == {"label": "12", "count": 12}


@pytest.mark.parametrize("spec", ["", ":a=1", "name:a", "name:a=1,b", "name:2=1", "name:a=1,a=2"])
def test_malformed_specs_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError):
        parse(spec)


@pytest.mark.parametrize(
    ("option", "good"),
    [
        ("count=4", True),
        ("count=4.5", False),
        ("count=true", False),
        ("share=1", True),
        ("share=half", False),
        ("mode=slow", True),
        ("mode=slowly", False),
        ("flag=true", True),
        ("flag=1", False),
        ("limit=None", True),
        ("limit=4", True),
        ("limit=four", False),
        ("sizes=(1, 2)", True),
    ],
)
def test_values_are_held_against_plain_types(option: str, good: bool) -> None:
    found = misfits(factory, (8,), parse(f"name:{option}"), {})
    assert (found == []) is good, found


def test_a_literal_does_not_take_an_equal_of_another_type() -> None:
    assert fits(1, Literal[1])
    assert not fits(True, Literal[1])


def test_every_misfit_is_named() -> None:
    found = misfits(factory, (), parse("name:cuont=3,mode=x"), {"share": "y"})
    assert len(found) == 4
    for text in ("did you mean 'count'", "Literal['fast', 'slow']", "share = 'y'", "argument: 'dim'"):
        assert any(text in misfit for misfit in found), (text, found)


def test_arguments_are_no_options() -> None:
    assert any("unknown option 'dim'" in text for text in misfits(factory, (8,), parse("name:dim=8"), {}))


def test_accepted_options_show_resolved_types_and_defaults() -> None:
    shown = accepted(factory, 1)
    assert shown[:3] == [
        "count: int = 3",
        "share: float = 0.5",
        "mode: Literal['fast', 'slow'] = 'fast'",
    ]
    assert accepted(lambda dim, **more: None, 1) == ["**more"]
