"""Names of annotations and of images, by cases and against all pairs."""

from __future__ import annotations

import pytest

from castssl.datasets.path_matching import FileNames, parts


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
