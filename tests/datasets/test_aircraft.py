from __future__ import annotations

import json
from pathlib import Path

import pytest

from castssl.datasets import taxonomies
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.datasets.tree_layouts import AIRCRAFT, write_aircraft


def _open(path: Path, split: str = "train") -> Images:
    images = open_images(f"aircraft:{path}", split=split)
    assert isinstance(images, Images)
    return images


@pytest.mark.parametrize("inside", ["", "fgvc-aircraft-2013b", "fgvc-aircraft-2013b/data"])
def test_the_lists_spell_the_tree(tmp_path: Path, inside: str) -> None:
    write_aircraft(tmp_path, AIRCRAFT[:3], AIRCRAFT[3:])
    train, test = _open(tmp_path / inside), _open(tmp_path / inside, "val")
    assert train.tree == test.tree
    assert train.tree.names == (
        ("Airbus", "Boeing", "McDonnell Douglas"),
        ("A320", "Boeing 707", "Boeing 737", "F/A-18"),
        ("A319", "A320", "707-320", "737-400", "F/A-18"),
    )
    for images, rows in ((train, AIRCRAFT[:3]), (test, AIRCRAFT[3:])):
        assert [images.name(i) for i in range(len(images))] == [f"{row[0]}.jpg" for row in rows]
        named = [
            tuple(images.tree.names[level][label] for level, label in enumerate(images[i][1].tolist()))
            for i in range(len(images))
        ]
        assert named == [row[1:] for row in rows]


def test_the_real_variants_have_the_published_numbers(tmp_path: Path) -> None:
    table = json.loads((Path(taxonomies.__file__).with_name("taxonomies") / "aircraft.json").read_text())
    rows = [(f"{i:07}", f"maker {m}", f"family {f}", v) for i, (v, f, m) in enumerate(table["variants"])]
    write_aircraft(tmp_path, rows[::-1], rows[:5])
    train = _open(tmp_path)
    assert train.targets is not None
    # Counted from 1 as published, fine first: (1, 1, 1) is A300B4, (43, 21, 21) C-130, (100, 70, 30) Yak-42.
    assert train.targets[[99, 57, 0]].tolist() == [[0, 0, 0], [20, 20, 42], [29, 69, 99]]
    assert train.tree.names[2][42] == "C-130"
    assert train.targets[:, 2].tolist() == list(range(100))[::-1]


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    folder = write_aircraft(tmp_path, AIRCRAFT[:3], AIRCRAFT[3:]) / "data"
    (folder / "images_family_test.txt").unlink()
    with pytest.raises(DataError, match=r"images_family_test\.txt, expected .*<family>.*robots\.ox\.ac\.uk"):
        _open(tmp_path)


def test_lists_that_disagree(tmp_path: Path) -> None:
    folder = write_aircraft(tmp_path, AIRCRAFT[:3], AIRCRAFT[3:]) / "data"
    families = folder / "images_family_trainval.txt"
    families.write_text(families.read_text().replace("0057380 A320\n", ""))
    with pytest.raises(DataError, match="list different images: 1 are in one only, as 0057380"):
        _open(tmp_path)


def test_a_family_of_two_manufacturers(tmp_path: Path) -> None:
    wrong = ("0100002", "Airbus", "Boeing 737", "737-500")
    write_aircraft(tmp_path, AIRCRAFT[:3], [wrong])
    with pytest.raises(DataError, match="'Boeing 737' of level 1 lies below 'Boeing' and below 'Airbus'"):
        _open(tmp_path)


def test_a_wrong_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images_manufacturer_trainval\.txt.*exists up to"):
        _open(tmp_path / "nowhere")
    write_aircraft(tmp_path, AIRCRAFT[:3], AIRCRAFT[3:])
    (tmp_path / "fgvc-aircraft-2013b" / "data" / "images" / "0062765.jpg").unlink()
    with pytest.raises(DataError, match=r"0062765.jpg, expected an image that images_variant_trainval.txt"):
        _open(tmp_path)
