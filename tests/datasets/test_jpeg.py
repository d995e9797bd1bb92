"""JPEG files by OpenCV: PIL's pixels, and an image on which all of PIL works."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from castssl.datasets import jpeg
from castssl.datasets.decode import decode
from castssl.datasets.jpeg import ArrayImage, read_jpeg
from castssl.visualization.photographs import photographs

pytestmark = pytest.mark.skipif(jpeg._AS_STORED is None, reason="OpenCV before 4.11")

PHOTOGRAPH = photographs()[1][1].resize((67, 45))


def _file(image: Image.Image = PHOTOGRAPH, kind: str = "jpeg", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


TORN = _file()[:500] + _file()
"""A file over which another one was partly written: OpenCV returns an image."""
TWO = _file(kind="mpo", save_all=True, append_images=[PHOTOGRAPH])


def _opened(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))


def _read(encoded: bytes | None = None) -> ArrayImage:
    image = read_jpeg(_opened(encoded or _file()))
    assert image is not None
    return image


def _damaged(encoded: bytes) -> bytes:
    """With a part of its scan lost, and a marker of the end."""
    return encoded[: len(encoded) * 2 // 3] + b"\xff\xd9"


@pytest.mark.parametrize("restart", [0, 2])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
def test_pixels_are_pil_s(quality: int, subsampling: int, restart: int) -> None:
    encoded = _file(quality=quality, subsampling=subsampling, restart_marker_blocks=restart)
    assert np.array_equal(np.asarray(_read(encoded)), np.asarray(_opened(encoded)))


@pytest.mark.parametrize(
    "encoded",
    [_file(PHOTOGRAPH.convert("L")), _file(keep_rgb=True), _damaged(_file())],
    ids=["gray", "rgb", "damaged"],
)
def test_so_are_those_of_other_files(encoded: bytes) -> None:
    assert np.array_equal(np.asarray(_read(encoded)), np.asarray(_opened(encoded).convert("RGB")))


@pytest.mark.parametrize(
    "encoded",
    [
        _file(PHOTOGRAPH.convert("CMYK")),
        _file(kind="png"),
        TWO,
        _file(progressive=True),
        _file()[:-300],
        _file() + b"\0",
        TORN,
    ],
    ids=["cmyk", "png", "mpo", "progressive", "truncated", "trailing", "torn"],
)
def test_pil_reads_the_rest(encoded: bytes) -> None:
    assert read_jpeg(_opened(encoded)) is None


@pytest.mark.parametrize(
    ("encoded", "words"), [(_file()[:-300], "image file is truncated"), (TORN, "broken data stream")]
)
def test_broken_files_have_pil_s_errors(encoded: bytes, words: str) -> None:
    with pytest.raises(OSError, match=words):
        decode(io.BytesIO(encoded))


def test_before_opencv_4_11_pil_reads_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_AS_STORED", None)
    assert read_jpeg(_opened(_file())) is None
    assert np.array_equal(np.asarray(decode(io.BytesIO(_file()))), np.asarray(_opened(_file())))


def test_a_loaded_image_is_left_alone() -> None:
    opened = _opened(_file())
    opened.load()
    assert read_jpeg(opened) is None


def test_the_orientation_of_exif_is_left_to_the_caller() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = _file(exif=exif)
    assert _read(encoded).size == (67, 45)
    assert decode(io.BytesIO(encoded)).size == (45, 67)


def test_methods_of_pil_see_its_pixels() -> None:
    theirs = _opened(_file())
    theirs.load()
    for change in (
        lambda i: i.crop((3, 4, 30, 40)),
        lambda i: i.resize((20, 10)),
        lambda i: i.convert("L"),
        lambda i: i.transpose(Image.Transpose.ROTATE_90),
        ImageOps.solarize,
        copy.copy,
        copy.deepcopy,
        lambda i: pickle.loads(pickle.dumps(i)),
        lambda i: i.copy(),
    ):
        assert np.array_equal(np.asarray(change(_read())), np.asarray(change(theirs))), change
    assert _read().getpixel((5, 6)) == theirs.getpixel((5, 6))
    assert _read().info == theirs.info


def test_its_array_is_read_only_and_outlives_it() -> None:
    image = _read()
    pixels = np.asarray(image)
    before = pixels.copy()
    assert not pixels.flags.writeable
    image.paste((1, 2, 3), (0, 0, 9, 9))
    del image
    assert np.array_equal(pixels, before)


def test_its_array_follows_a_change() -> None:
    image = _read()
    image.putpixel((2, 1), (1, 2, 3))
    assert np.asarray(image)[1, 2].tolist() == [1, 2, 3]
