"""``maps``: label maps from files of any layout, and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from castssl.errors import ConfigError, DataError
from castssl.registry import build_segmenter

IMAGE = np.zeros((6, 8, 3), np.uint8)
FINE = np.arange(48).reshape(6, 8) // 4 * 5 + 300
COARSE = FINE // 20 - 1
"""Levels with gaps, of values above 8 bits and below 0."""


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path, format="png")


def ids(level: NDArray[Any]) -> list[int]:
    return sorted(set(level.ravel().tolist()))


@pytest.mark.parametrize("name", ["cat/1.jpg", "/photos/cat/1.jpg", "../cat/1.jpg"])
@pytest.mark.parametrize(
    ("files", "levels"),
    [
        ({"1.npy": np.stack([FINE, COARSE])}, [FINE, COARSE]),
        ({"1.npy": FINE.astype(np.uint16)}, [FINE]),
        ({"1.npy": FINE > 340}, [FINE > 340]),
        ({"1.png": FINE.astype(np.uint16)}, [FINE]),
        ({"1.png": (FINE // 2).astype(np.uint8)}, [FINE // 2]),
        ({"1-stage0.png": FINE.astype(np.uint16), "1-stage1.png": COARSE.astype(np.uint8)}, [FINE, COARSE]),
        ({"level2/1.npy": FINE, "level10/1.npy": COARSE}, [FINE, COARSE]),
        ({"stage0/1.png": FINE.astype(np.uint16), "stage-1/1.npy": COARSE}, [FINE, COARSE]),
        ({"1.npy": FINE, "level1/1.npy": COARSE}, [FINE]),
    ],
)
def test_layouts(tmp_path: Path, name: str, files: dict[str, Any], levels: list[NDArray[Any]]) -> None:
    for file, values in files.items():
        write(tmp_path / file, values)
    segmenter = build_segmenter(f"maps:{tmp_path}")
    maps = segmenter(IMAGE, name)
    assert maps.dtype == np.int32
    assert len(maps) == len(levels)
    for level, values in zip(maps, levels, strict=True):
        kept = np.unique(values)
        assert (kept[level] == values).all()
        assert ids(level) == list(range(len(kept)))


def test_the_file_in_the_folder_of_the_image_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "1.npy", FINE)
    write(tmp_path / "cat" / "1.npy", FINE > 340)
    segmenter = build_segmenter(f"maps:{tmp_path}")
    assert segmenter(IMAGE, "cat/1.jpg").max() == 1
    assert segmenter(IMAGE, "dog/1.jpg").max() > 1
    assert segmenter(IMAGE, "dog/1.jpg").max() > 1
    with pytest.raises(
        DataError, match=r"1\.npy on would be those of two images, 'dog/1\.jpg' and 'cow/1\.jpg'"
    ):
        segmenter(IMAGE, "cow/1.jpg")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, r"no label maps of the image 'cat/1.jpg'; expected cat/1.npy, cat/1.png, cat/1-stage0.png"),
        ({"1.npy": FINE / 2}, "hold float64, expected integers"),
        ({"1.npy": FINE[:, :5]}, r"shape \(6, 5\), expected \(L, 6, 8\) or \(6, 8\)"),
        ({"1.npy": FINE[:0]}, r"shape \(0, 8\)"),
        ({"1.npy": np.array([[{}] * 8] * 6)}, "never unpickles"),
        ({"1.png": FINE[:5].astype(np.uint16)}, "8 x 5 pixels, expected 8 x 6"),
        ({"1.png": IMAGE}, "mode RGB, expected one channel"),
        ({"level1/1.npy": FINE, "level2/2.npy": FINE}, "no label map level2/cat/1|no label map level2/1"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    for file, values in files.items():
        write(tmp_path / file, values)
    with pytest.raises(DataError, match=words):
        build_segmenter(f"maps:{tmp_path}")(IMAGE, "cat/1.jpg")


@pytest.mark.parametrize(
    "other", [{"2.npy": FINE}, {"level1/2.npy": np.stack([FINE] * 2), "level2/2.npy": COARSE}]
)
def test_all_images_have_as_many_levels_as_the_first(tmp_path: Path, other: dict[str, Any]) -> None:
    files = {"1.npy": np.stack([FINE, COARSE]), "3.npy": np.stack([COARSE] * 2), **other}
    for file, values in files.items():
        write(tmp_path / file, values)
    segmenter = build_segmenter(f"maps:{tmp_path}")
    segmenter(IMAGE, "1.jpg")
    levels = sum(1 if np.ndim(values) == 2 else len(values) for values in other.values())
    words = f"2.npy on have {levels} levels and those from {tmp_path}/1.npy on 2, expected as many"
    with pytest.raises(DataError, match=words):
        segmenter(IMAGE, "2.jpg")
    assert len(segmenter(IMAGE, "3.jpg")) == 2


def test_a_broken_file_and_no_name(tmp_path: Path) -> None:
    (tmp_path / "1.npy").write_bytes(b"\x93NUMPY")
    segmenter = build_segmenter(f"maps:{tmp_path}")
    with pytest.raises(DataError, match="cannot be read"):
        segmenter(IMAGE, "1.jpg")
    with pytest.raises(DataError, match="of the image ''"):
        segmenter(IMAGE)


@pytest.mark.parametrize("spec", ["maps", "maps:/nowhere"])
def test_a_folder_that_is_not_there(spec: str) -> None:
    with pytest.raises(ConfigError, match="expected maps:FOLDER"):
        build_segmenter(spec)
