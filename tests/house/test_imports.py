"""The import rule: a module imports from lower floors and from its own folder; there are no circles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import castssl
from castssl import datasets
from tests.house import source

GROUND = [
    *(
        "errors",
        "files",
        "outputs",
        "tensor_files",
        "whole_folders",
        "installer",
        "terminal",
        "system_errors",
        "step_files",
        "devices",
        "connected_parts",
        "labels",
        "types",
    ),
    *("encoder_config", "segmenter", "feed", "contracts"),
    *("superpixel_labels", "modes", "distributed", "leaving", "attention"),
    *("registry", "text", "shipped", "fields", "config", "run_lock"),
]
"""The ground floor, in order: each room imports only from rooms to its left."""
TOP = [
    *("inference", "segmenters", "ablations", "reports", "verification"),
    *("commands", "cli", "__main__", "__init__"),
]
"""The top floor, in order as the ground floor."""
FLOORS = [
    set(GROUND),
    {"datasets", "superpixels", "tokens", "pooling", "metrics"},
    {"data", "models"},
    {"objectives"},
    {"training", "evaluation", "checkpoints", "testing", "visualization"},
    set(TOP),
]
ONLY = {"models": {"tokens"}, "data": {"datasets"}, "objectives": {"models"}, "testing": {"datasets"}}
"""Rooms that may enter fewer lower rooms than their floor would allow."""
MODULES_OF_PLUGINS = (
    *(
        "castssl.contracts",
        "castssl.encoder_config",
        "castssl.errors",
        "castssl.installer",
        "castssl.distributed",
        "castssl.labels",
        "castssl.segmenter",
    ),
    *("castssl.testing", "castssl.text", "castssl.types", "castssl.tokens.inputs", "castssl.tokens.segments"),
    "castssl.superpixels.per_image",
    *("castssl.pooling.arithmetic", "castssl.pooling.centroids", "castssl.objectives.averaged"),
    "castssl.objectives.classification",
    *(f"castssl.metrics.{name}" for name in ("balanced", "hierarchy", "iou", "partition", "regions")),
    *("castssl.evaluation.report", "castssl.models.constants", "castssl.models.initialization"),
)
"""Modules that plugins may import from."""
NAMES_OF_PLUGINS = (
    *("castssl.checkpoints.read", "castssl.checkpoints.hub.save_pretrained", "castssl.files.not_safetensors"),
    *("castssl.models.blocks.Stage", "castssl.modes.evaluating", "castssl.objectives.tree_kl.over_children"),
    *("castssl.checkpoints.initialize.initialize", "castssl.data.normalize.normalize"),
    *(f"castssl.models.segmentation_heads.{name}" for name in ("HEADS", "create_head", "paint")),
    *(f"castssl.models.timm_encoder.{name}" for name in ("cells", "create_network", "grid_tokens")),
    *("castssl.models.sizes.sizes_for", "castssl.evaluation.windows.renumber"),
    "castssl.models.image_sizes.check_side",
    *("castssl.superpixel_labels.partition", "castssl.objectives.segmentation.Segmentation"),
    *(f"castssl.objectives.moco.{name}" for name in ("Predicted", "Projected")),
)
"""What they may import from other modules, beside castssl's public names."""
PLUGINS_MAY = {
    *(*MODULES_OF_PLUGINS, *NAMES_OF_PLUGINS),
    *(f"{package.__name__}.{name}" for package in (castssl, datasets) for name in package.__all__),
}
STRANGERS = {"mmseg", "mmcv", "mmengine"}
"""Heavy optional packages; only one file of the package may know them."""


def room(name: str) -> str:
    """The room of a dotted castssl name; the package itself is ``__init__``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(name: str) -> int:
    """The floor a room stands on."""
    found = [number for number, rooms in enumerate(FLOORS) if name in rooms]
    assert found, f"{name!r} is no room of the house: put it on a floor in {__name__} or into a room"
    return found[0]


def allowed(here: str, there: str) -> bool:
    """True if room ``here`` may import from room ``there``."""
    if here == there:
        return True
    for ordered in (GROUND, TOP):
        if here in ordered and there in ordered:
            return ordered.index(there) < ordered.index(here)
    if here in ONLY and there not in GROUND:
        return there in ONLY[here]
    return floor(there) < floor(here)


def target(name: str) -> str:
    """The room an imported dotted name belongs to; ``castssl.version`` belongs to the package."""
    first = room(name)
    return first if any(first in rooms for rooms in FLOORS) else "__init__"


def module_graph() -> dict[str, set[str]]:
    """Each module of castssl and the modules of castssl that it imports, anywhere in its text."""
    paths = {source.module(path): path for path in source.python("castssl")}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        names = (name for _, name in source.imports(path) if name.split(".")[0] == "castssl")
        graph[module] = {owner(name, paths) for name in names} - {module}
    return graph


def owner(name: str, modules: Mapping[str, object]) -> str:
    """The module that an imported dotted name belongs to: the longest prefix that is a module."""
    while name not in modules:
        name = name.rpartition(".")[0]
    return name


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one import circle, the first one repeated at the end; empty without a circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def table_of_rooms() -> Iterator[tuple[str, int]]:
    """Each room in the table of CONTRIBUTING.md with its floor."""
    text = (source.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for number, rooms in re.findall(r"(?m)^\| (\d) \| ([^|]+) \|", text):
        yield from ((name, int(number)) for name in re.findall(r"`(\w+)`", rooms))


@pytest.mark.parametrize("path", source.python("castssl"), ids=str)
def test_only_from_a_lower_floor(path: Path) -> None:
    here = room(source.module(path))
    floor(here)
    names = [(line, name) for line, name in source.imports(path) if name.split(".")[0] == "castssl"]
    wrong = [f"{path}:{line} imports {name}" for line, name in names if not allowed(here, target(name))]
    assert not wrong, f"{here} may not enter those rooms: {wrong}"


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ("models", "pooling", False),
        ("models", "tokens", True),
        ("models", "registry", True),
        ("models", "objectives", False),
        ("objectives", "models", True),
        ("objectives", "data", False),
        ("types", "errors", True),
        ("errors", "types", False),
        ("data", "superpixels", False),
        ("data", "datasets", True),
        ("datasets", "data", False),
        ("testing", "datasets", True),
        ("evaluation", "training", False),
        ("evaluation", "data", True),
        ("testing", "models", False),
        ("cli", "evaluation", True),
        ("cli", "commands", True),
        ("commands", "cli", False),
        ("config", "registry", True),
    ],
)
def test_the_rule_itself(here: str, there: str, expected: bool) -> None:
    assert allowed(here, there) is expected


def test_the_floors_hold_the_rooms_that_exist() -> None:
    assert len(FLOORS) == 6
    present = {path.parts[1].removesuffix(".py") for path in source.python("castssl")}
    assert {name for rooms in FLOORS for name in rooms} - {"__main__"} == present - {"__main__"}


def test_contributing_lists_every_room_on_its_floor() -> None:
    expected = {name: number for number, rooms in enumerate(FLOORS) for name in rooms if name[:2] != "__"}
    assert sorted(table_of_rooms()) == sorted(expected.items())


def test_no_import_circle() -> None:
    graph = module_graph()
    assert len(graph) > 50
    assert not circle(graph), f"break this import circle: {' -> '.join(circle(graph))}"


def test_an_import_circle_is_found() -> None:
    graph = module_graph()
    first = next(module for module in graph if graph[module])
    second = min(graph[first])
    graph[second] = graph[second] | {first}
    assert {first, second} <= set(circle(graph))


def test_only_one_file_knows_mmsegmentation() -> None:
    knowing = {
        str(path)
        for path in source.python("castssl")
        for _, name in source.imports(path)
        if name.split(".")[0] in STRANGERS
    }
    assert knowing <= {"castssl/transfer/mmseg.py"}


@pytest.mark.parametrize("path", source.python("recipes"), ids=str)
def test_recipes_import_public_names_and_no_other_recipe(path: Path) -> None:
    for line, name in source.imports(path):
        parts = name.split(".")
        assert parts[0] != "recipes", f"{path}:{line} imports {name}; a recipe imports no other recipe"
        private = parts[0] == "castssl" and any(part.startswith("_") for part in parts)
        assert not private, f"{path}:{line} imports {name}, which is private"


@pytest.mark.parametrize("path", source.python("plugins"), ids=str)
def test_plugins_import_only_the_doors(path: Path) -> None:
    for line, name in source.imports(path):
        if name.split(".")[0] == "castssl" and name != "castssl":
            fits = any(name == door or name.startswith(f"{door}.") for door in PLUGINS_MAY)
            assert fits, f"{path}:{line} imports {name}; plugins may import {sorted(PLUGINS_MAY)}"


@pytest.mark.parametrize("name", [*MODULES_OF_PLUGINS, *NAMES_OF_PLUGINS, "castssl.datasets"])
def test_what_plugins_may_import_is_documented(name: str) -> None:
    readme = (source.ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
    surface = readme.partition("## What a plugin may import")[2].partition("\n## ")[0]
    assert f"`{name}`" in surface
    module, _, attribute = name.rpartition(".")
    whole = name not in NAMES_OF_PLUGINS
    found: Any = import_module(name) if whole else getattr(import_module(module), attribute)
    assert found.__doc__


@pytest.mark.parametrize("name", MODULES_OF_PLUGINS)
def test_public_names_of_those_modules_say_what_they_are(name: str) -> None:
    module = import_module(name)
    own = [value for key, value in vars(module).items() if not key.startswith("_")]
    own = [value for value in own if callable(value) and getattr(value, "__module__", "") == name]
    silent = [value.__name__ for value in own if not (value.__doc__ or "").strip()]
    assert not silent, f"{name}: no docstring: {silent}"
