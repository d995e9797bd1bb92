"""Names of annotations and of images, by cases and against all pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castssl.datasets.path_matching import EXACT, FileNames, parts


@pytest.mark.parametrize(
    ("files", "names", "matched"),
    [
        (["1.jpg"], ["1.jpg"], {"1.jpg": "1.jpg"}),
        (["1.jpg"], ["a/1.jpg"], {"a/1.jpg": "1.jpg"}),
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"], {}),
        (["1.jpg"], ["1.jpg", "b/1.jpg"], {"1.jpg": "1.jpg"}),
        (["x/1.jpg"], ["a/1.jpg"], {"a/1.jpg": "x/1.jpg"}),
        (["a/1.jpg"], ["b/1.jpg", "a/1.jpg"], {"a/1.jpg": "a/1.jpg"}),
        (["a/1.jpg", "b/1.jpg"], ["b/1.jpg", "a/1.jpg"], {"a/1.jpg": "a/1.jpg", "b/1.jpg": "b/1.jpg"}),
        (["a/1.jpg", "b/1.jpg"], ["c/1.jpg", "1.jpg"], {}),
        (["train/a/1.jpg"], ["a/1.jpg", "b/1.jpg"], {"a/1.jpg": "train/a/1.jpg"}),
        (["train/a/1.jpg", "val/a/1.jpg"], ["a/1.jpg"], {}),
        (["a/1.jpg"], ["x/a/1.jpg", "y/a/1.jpg"], {}),
        (["a/1.jpg", "x/a/1.jpg"], ["y/x/a/1.jpg"], {"y/x/a/1.jpg": "x/a/1.jpg"}),
        ([".\\a\\1.jpg"], ["a/1.jpg", "b/1.jpg"], {"a/1.jpg": ".\\a\\1.jpg"}),
        (["", "/", "a/2.jpg"], ["", "a/1.jpg"], {}),
    ],
)
def test_which_image_is_meant(files: list[str], names: list[str], matched: dict[str, str]) -> None:
    assert FileNames(files).among(names) == matched


def test_the_parts_of_a_path() -> None:
    assert parts("./a//b\\1.jpg") == ("a", "b", "1.jpg")
    assert parts("/") == ()


PATHS = st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), max_size=12)


def compared(name: str, file: str, files: list[str]) -> int:
    """How surely two paths mean one file; 0 if they do not, or their last part is that of a third one."""
    one, other = parts(name), parts(file)
    equal = next((n for n in range(min(len(one), len(other)), 0, -1) if one[-n:] == other[-n:]), 0)
    if one == other:
        return EXACT
    if equal == min(len(one), len(other)) > 1:
        return equal
    return int(equal > 0 and sum(parts(each)[-1] == one[-1] for each in files) == 1)


@given(files=PATHS, names=PATHS)
def test_the_surest_of_all_pairs(files: list[str], names: list[str]) -> None:
    index = FileNames(files)
    for name in names:
        scores = [compared(name, file, files) for file in files]
        most = max(scores, default=0)
        surest = [file for file, score in zip(files, scores, strict=True) if score == most > 0]
        assert index.find(name) == ((surest[0], most) if len(surest) == 1 else None)
