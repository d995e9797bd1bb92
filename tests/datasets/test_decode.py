from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from castssl.datasets.decode import decode, header, read
from castssl.datasets.depth import Range
from castssl.datasets.orientation import upright_size
from castssl.errors import DataError
from tests.datasets.image_files import make_image


def to_rgb(image: Image.Image, declared: Range | None = None) -> Image.Image:
    return read(image, declared=declared).image


RAMP = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def _roundtrip(image: Image.Image, suffix: str, **options: Any) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, suffix, **options)
    stream.seek(0)
    return decode(stream)


def _close(image: Image.Image, expected: np.ndarray[Any, Any], off: int = 1) -> bool:
    assert image.mode == "RGB"
    wide = expected if expected.ndim == 3 else expected[..., None].repeat(3, 2)
    return bool((np.abs(np.asarray(image).astype(int) - wide) <= off).all())


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert _close(_roundtrip(deep, "png"), RAMP, 0)
    assert _close(_roundtrip(deep, "tiff"), RAMP, 0)


def test_wide_integers_and_floats_need_a_declared_range() -> None:
    wide, share = Image.fromarray(RAMP.astype(np.int32) * 257), Image.fromarray(RAMP.astype(np.float32) / 255)
    assert _close(to_rgb(wide, Range(0, 65535)), RAMP, 0)
    assert _close(to_rgb(share, Range(0, 1)), RAMP)
    assert _close(to_rgb(Image.fromarray(RAMP.astype(np.float32)), Range(0, 255)), RAMP)
    for image in (wide, share):
        with pytest.raises(DataError, match=r"does not say which are black and white.*--range LOW:HIGH"):
            to_rgb(image)


@pytest.mark.parametrize("mode", ["L", "1", "YCbCr", "HSV"])
def test_other_modes(mode: str) -> None:
    gray = Image.fromarray((RAMP > 100).astype(np.uint8) * 255)
    assert _close(to_rgb(gray.convert("RGB").convert(mode)), np.asarray(gray), 2)


def test_cmyk_is_not_inverted() -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 40))
    assert _close(_roundtrip(red.convert("CMYK"), "jpeg", quality=95), np.asarray(red), 6)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((40, 40, 40, 255), (0, 0, 4, 8))
    expected = np.full((8, 8), 255)
    expected[:, :4] = 40
    assert _close(_roundtrip(image.convert(mode), "png"), expected)


def test_a_palette_with_a_transparent_color() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    plain = _roundtrip(image, "png")
    assert plain.getpixel((0, 0)) == (10, 20, 30)
    clear = _roundtrip(image, "png", transparency=0)
    assert [clear.getpixel((0, 0)), clear.getpixel((1, 0))] == [(255, 255, 255), (200, 100, 50)]


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "tiff"])
def test_exif_turns_an_image_upright_once(suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    upright = _roundtrip(make_image(0, (24, 8)), suffix, exif=exif)
    assert upright.size == to_rgb(upright).size == (8, 24)
    expected = make_image(0, (24, 8)).transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(upright).astype(int) - np.asarray(expected)).mean() < 16


def test_a_jpeg_on_its_side_is_reduced_by_its_upright_size() -> None:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 8
    make_image(0, (64, 256)).save(stream, "jpeg", exif=exif)
    opened = header(stream)
    assert upright_size(opened) == (256, 64)
    assert read(opened, (128, 32)).image.size == (128, 32)
