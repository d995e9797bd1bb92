from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from castssl.datasets.free_grain_lists import Given, class_folders, read_list, read_names, read_tree
from castssl.errors import DataError
from castssl.labels import LabelTree
from tests.datasets.free_grain_files import NAMES, TREE, WNIDS, global_id, rows, write_list

PARENTS = ((0, 0, 1), (2, 1, 1, 0, 2))
PATHS = ((1, 2, 0), (0, 1, 1), (0, 1, 2), (0, 0, 3), (1, 2, 4))


def _tree() -> LabelTree:
    return LabelTree((2, 3, 5), PARENTS)


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_global_id_is_read_as_the_class_of_its_level(tmp_path: Path) -> None:
    """ImageNet-F's ranges: 0 to 19, 20 to 146 and 147 to 651, from sizes of 20, 127 and 505."""
    sizes = (20, 127, 505)
    middle = tuple(n % 20 for n in range(127))
    fine = tuple(n % 127 for n in range(505))
    tree = LabelTree(sizes, (middle, fine))
    paths = [(middle[fine[n]], fine[n], n) for n in range(505)]
    names: list[str] = []
    truth: list[tuple[int, int, int]] = []
    given: list[int] = []
    depths: list[int] = []
    for path in paths:
        for depth, (low, high) in enumerate(((0, 19), (20, 146), (147, 651)), start=1):
            given.append(global_id(path, depth, sizes))
            assert low <= given[-1] <= high
            names.append(f"train/c/{len(names)}.JPEG")
            truth.append(path)
            depths.append(depth)
    write_list(tmp_path / "list.txt", names, truth, given)
    for column in ("checked", "range"):
        found = read_list(tmp_path / "list.txt", tree, column)
        assert (found.first, found.files[:2]) == ("train", ["c/0.JPEG", "c/1.JPEG"])
        assert found.paths.tolist() == [list(path) for path in truth]
        assert found.depths.tolist() == depths
    assert read_list(tmp_path / "list.txt", tree, "unused").depths.tolist() == [3] * len(names)


def test_lines_of_all_line_ends_and_blanks(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(b"val/a/1.JPEG 1 2 0\r\n\r\nval/b/2.jpg\t0 1  1 \n")
    found = read_list(file, _tree(), "absent")
    assert found.files == ["a/1.JPEG", "b/2.jpg"]
    assert found.paths.tolist() == [[1, 2, 0], [0, 1, 1]]
    assert found.depths.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("line", "given", "reason"),
    [
        ("train/a/1.jpg 0 1", "checked", "3 columns"),
        ("train/a/1.jpg", "checked", "1 columns"),
        ("train/a/1.jpg 0 1 2", "checked", "4 columns"),
        ("train/a/1.jpg 0 1 2 5 6", "checked", "6 columns"),
        ("train/a/1.jpg 0 1 2 7", "absent", "5 columns"),
        ("train/a/1.jpg 0 one 2 7", "checked", "'one' is not a class number"),
        ("train/a/1.jpg 0 -1 2 7", "checked", "'-1' is not a class number"),
        ("train/a/1.jpg 0 1.0 2 7", "checked", "'1.0' is not a class number"),
        ("train/a/1.jpg 0 1 5 7", "checked", "there is no class 5 in column 4, which has 0 to 4"),
        ("train/a/1.jpg 2 1 2 7", "checked", "there is no class 2 in column 2, which has 0 to 1"),
        ("train/a/1.jpg 1 1 2 7", "checked", "class 1 of column 3 lies below 0 in the label tree"),
        ("train/a/1.jpg 0 1 3 8", "checked", "class 3 of column 4 lies below 0 in the label tree"),
        ("train/a/1.jpg 0 1 2 10", "checked", "there is no class 10 among the 10 of all levels in column 5"),
        ("train/a/1.jpg 0 1 2 10", "range", "there is no class 10 among the 10"),
        ("train/a/1.jpg 0 1 2 8", "checked", "8 in column 5 is class 3 of column 4"),
        ("train/a/1.jpg 0 1 2 2", "checked", "2 in column 5 is class 0 of column 3"),
        ("train/a/1.jpg 0 1 2 1", "checked", "1 in column 5 is class 1 of column 2"),
        ("val/a/1.jpg 0 1 2 7", "checked", "the path begins with val/, those before with train/"),
        ("train/1.jpg 0 1 2 7", "checked", "'train/1.jpg' is not a path of an image"),
        ("/train/a/1.jpg 0 1 2 7", "checked", "is not a path of an image"),
        ("train/../../1.jpg 0 1 2 7", "checked", "is not a path of an image"),
        ("train//etc/1.jpg 0 1 2 7", "checked", "is not a path of an image"),
        ("train/./a/1.jpg 0 1 2 7", "checked", "is not a path of an image"),
        ("train/a/0.jpg 0 1 2 7", "checked", "an earlier line has '1 2 0 4' for this image"),
        ("train/a/0.jpg 1 2 0 1", "checked", "an earlier line has '1 2 0 4' for this image"),
        ("train/a/1.txt 0 1 2 7", "checked", "is not a path of an image"),
    ],
)
def test_a_malformed_line_is_named_with_its_number(
    tmp_path: Path, line: str, given: Given, reason: str
) -> None:
    good = "train/a/0.jpg 1 2 0" + ("" if given == "absent" else " 4")
    file = _write(tmp_path / "list.txt", good, "", line)
    with pytest.raises(DataError) as caught:
        read_list(file, _tree(), given)
    text = str(caught.value)
    assert f"{file}, line 3: " in text
    assert reason in text
    assert f"got {line!r}, expected <split>/<class folder>/<image> <basic> <subordinate> <fine>" in text
    assert ("<given>" in text) == (given != "absent")


def test_a_line_that_repeats_an_earlier_one_is_left_out(tmp_path: Path) -> None:
    once = ("train/a/1.jpg 0 1 2 7", "train/b/1.jpg 0 1 1 6")
    found = read_list(_write(tmp_path / "list.txt", *once, "train/a/1.jpg 0 1 2\t7"), _tree(), "checked")
    assert (found.files, found.depths.tolist(), found.repeated) == (["a/1.jpg", "b/1.jpg"], [3, 3], 1)


def test_a_message_shows_the_beginning_of_a_long_line(tmp_path: Path) -> None:
    file = _write(tmp_path / "list.txt", f"train/a/1.jpg 0 1 2 {'9' * 5000}")
    with pytest.raises(DataError, match=r"'9+' is not a class number") as caught:
        read_list(file, _tree(), "checked")
    assert len(str(caught.value)) < 600


def test_the_range_of_the_given_id_alone(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "list.txt", "train/a/1.jpg 0 1 2 8", "train/a/2.jpg 0 1 2 4", "train/a/3.jpg 0 1 2 1"
    )
    assert read_list(file, _tree(), "range").depths.tolist() == [3, 2, 1]


def test_an_empty_list_and_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list.txt is empty, expected lines of <split>"):
        read_list(_write(tmp_path / "list.txt", ""), _tree(), "absent")
    with pytest.raises(DataError, match=r"no .*none.txt, expected lines of .*FreeGrainLearning"):
        read_list(tmp_path / "none.txt", _tree(), "absent")


def test_the_tree_of_triples_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    file.write_text(json.dumps(TREE))
    assert read_tree(file) == _tree()
    file.write_text(json.dumps(TREE[::-1]))
    assert read_tree(file).paths().tolist() == [list(path) for path in PATHS]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[0, 0, 0],", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "expected a JSON list"),
        ("[]", "expected a JSON list"),
        (
            "[[0, 0, 0], [1, 0]]",
            r"entry 1: got \[1, 0\], expected a JSON list of \[fine, subordinate, basic\]",
        ),
        ("[[0, 0, 0], [1, 0, true]]", "entry 1: got"),
        ("[[0, 0, 0], [0, 0, 0]]", "entry 1: fine class 0 is there twice"),
        (
            "[[0, 0, 0], [1, 0, 1]]",
            "entry 1: subordinate class 0 lies below 1 and, in another entry, below 0",
        ),
        ("[[0, 0, 0], [2, 0, 0]]", "the 2 fine classes are not 0 to 1"),
        ("[[0, 0, 1], [1, 1, 1]]", "the 1 basic classes are not 0 to 0"),
    ],
)
def test_what_is_no_tree(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"tree.json.*{reason}"):
        read_tree(_write(tmp_path / "tree.json", text))


def test_names_by_id(tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"1": "bird", "0": "dog"}))
    assert read_names(file, 2) == NAMES["basic"]
    for names in ({"0": "dog"}, {"0": "dog", "2": "bird"}, ["dog", "bird"]):
        file.write_text(json.dumps(names))
        with pytest.raises(DataError, match=r'expected a JSON object of 2 names, from "0" to "1"'):
            read_names(file, 2)
    for name in (None, 1, " "):
        file.write_text(json.dumps({"0": "dog", "1": name}))
        with pytest.raises(DataError, match=f"names.json: got the name {json.dumps(name)}, expected a JSON"):
            read_names(file, 2)


def test_the_folder_of_each_class(tmp_path: Path) -> None:
    listed = [(fine, path) for fine, path, _ in rows(2) if fine != 3]
    names = [f"val/{WNIDS[fine]}/{i}.JPEG" for i, (fine, _) in enumerate(listed)]
    write_list(tmp_path / "list.txt", names, [path for _, path in listed], [])
    images = read_list(tmp_path / "list.txt", _tree(), "absent")
    assert class_folders(images, 5) == [wnid if fine != 3 else "" for fine, wnid in enumerate(WNIDS)]
    assert images.paths.dtype == torch.int64
