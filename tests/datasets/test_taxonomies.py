"""The packaged tables against what is known of these data sets, and what is made of trees."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from castssl.datasets import taxonomies
from castssl.errors import DataError
from castssl.labels import LabelTree


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("living17", (17, 34)), ("nonliving26", (26, 52)), ("entity13", (13, 130)), ("entity30", (30, 120))],
)
def test_breeds_counts(name: str, sizes: tuple[int, int]) -> None:
    source, target = taxonomies.breeds(name), taxonomies.breeds(f"{name}-target")
    assert source.tree.sizes == target.tree.sizes == sizes
    assert source.tree.parents == target.tree.parents
    children = sizes[1] // sizes[0]
    assert source.tree.parents[0] == tuple(fine // children for fine in range(sizes[1]))
    assert source.tree.names[0] == target.tree.names[0]
    both = [*source.wnids, *target.wnids]
    assert len(set(both)) == len(both) == 2 * sizes[1], "a wnid is in one split and one class only"
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in both)


def test_one_class_of_each_breeds() -> None:
    living, target = taxonomies.breeds("living17"), taxonomies.breeds("living17-target")
    assert (living.tree.names[0][8], living.wnids[16]) == ("dog, domestic dog, Canis familiaris", "n02088466")
    assert (living.tree.names[1][0], target.tree.names[1][0]) == ("eft", "common newt, Triturus vulgaris")
    assert taxonomies.breeds("living17-source") == living


def test_unknown_breeds() -> None:
    with pytest.raises(DataError, match=r"no 'living71'; did you mean 'living17'.*entity30-target"):
        taxonomies.breeds("living71")
    with pytest.raises(DataError, match="'living17-test'"):
        taxonomies.breeds("living17-test")


def test_cub_is_orders_then_families_then_species() -> None:
    tree = taxonomies.cub([f"bird {i}" for i in range(200)])
    assert tree.sizes == (13, 38, 200)
    paths = tree.paths().tolist()
    # Counted from 1 as published: species 1 is of order 12, family 35; 4 of 6, 9; 200 of 8, 23.
    assert [paths[0], paths[3], paths[199]] == [[11, 34, 0], [5, 8, 3], [7, 22, 199]]
    assert [tree.names[0][11], tree.names[1][34]] == ["Procellariiformes", "Diomedeidae"]
    assert Counter(tree.parents[0])[7] == 21, "families of songbirds"
    assert Counter(tree.parents[1])[22] == 30, "wood warblers"
    with pytest.raises(DataError, match="200 species, got 3"):
        taxonomies.cub(["a", "b", "c"])


def _published() -> list[tuple[str, int, int]]:
    table = json.loads((Path(taxonomies.__file__).with_name("taxonomies") / "aircraft.json").read_text())
    return [tuple(row) for row in table["variants"]]


def test_aircraft_is_numbered_as_published_whatever_the_order_of_the_lists() -> None:
    rows = _published()
    assert len(rows) == 100
    paths = [(f"maker {maker}", f"family {family}", variant) for variant, family, maker in rows]
    tree = taxonomies.aircraft(random.Random(0).sample(paths, 100))
    assert tree.sizes == (30, 70, 100)
    assert tree.names[2][:3] == ("A300B4", "A310", "A318")
    assert tree.names[1] == tuple(f"family {i}" for i in range(1, 71))
    assert tree.names[0] == tuple(f"maker {i}" for i in range(1, 31))
    assert tree.paths().tolist() == [[m - 1, f - 1, v] for v, (_, f, m) in enumerate(rows)]


def test_other_aircraft_are_numbered_by_alphabet() -> None:
    tree = taxonomies.aircraft([("b", "y", "737-400"), ("a", "x", "A300B4"), ("b", "w", "A310")])
    assert tree.names == (("a", "b"), ("x", "w", "y"), ("A300B4", "A310", "737-400"))
    with pytest.raises(DataError, match="'y' of level 1 lies below 'b' and below 'a'"):
        taxonomies.aircraft([("b", "y", "v"), ("a", "y", "w")])


def test_every_table_names_its_source() -> None:
    tables = sorted(Path(taxonomies.__file__).with_name("taxonomies").glob("*.json"))
    assert len(tables) == 6
    assert all(len(json.loads(path.read_text())["source"]) > 40 for path in tables)


def test_pick_keeps_and_reorders() -> None:
    tree = LabelTree((2, 3), ((0, 0, 1),), (("a", "b"), ("x", "y", "z")))
    picked = taxonomies.pick(tree, [[1, 0], [2, 1]])
    assert picked == LabelTree((2, 2), ((0, 1),), (("b", "a"), ("z", "y")))
    with pytest.raises(DataError, match=r"\[1\] of level 1 would lose"):
        taxonomies.pick(tree, [[1], [2, 1]])
