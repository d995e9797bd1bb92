"""Files as they lie on real disks: odd, broken, strangely called; from the disk to views and superpixels."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.views import Augment, OneView, TwoViews
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.feed import Unreadable
from castssl.superpixels.seeds import Seeds
from tests.datasets.image_files import make_image

GRAY = 156
"""40000 of 65535 in eight bits."""
ON_WHITE = 194
"""The same with an opacity of 40000 of 65535."""
LIMIT = 10_000
"""So many pixels are a bomb in these tests; the real limit would take seconds."""


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _png16(color: int, channels: int) -> bytes:
    """A 4 x 4 PNG of 16 bits, 40000 throughout; PIL cannot write all color types."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 4, 4, 16, color, 0, 0, 0)
    rows = (b"\0" + np.full((4, channels), 40000, ">u2").tobytes()) * 4
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _tiff16(order: str) -> bytes:
    """A 4 x 4 gray TIFF of 16 bits in one of the two byte orders."""
    pixels = np.full((4, 4), 40000, f"{order}u2").tobytes()
    tags = [(256, 4), (257, 4), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, 32)]
    entries = b"".join(
        struct.pack(f"{order}HHI{'HH' if tag != 273 else 'I'}", tag, 3 if tag != 273 else 4, 1, value, *rest)
        for tag, value in tags
        for rest in ([0] if tag != 273 else [],)
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}I", 8 + len(pixels))
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def _oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return _encoded(make_image(1), "jpeg", exif=exif, icc_profile=profile)


def _bad_exif() -> bytes:
    complete = _encoded(make_image(2), "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x40garbage")
    assert b"garbage" in complete
    return complete


def _transparent() -> bytes:
    palette = make_image(3).convert("P")
    return _encoded(palette, "png", transparency=bytes(range(256)))


ODD: dict[str, Callable[[], bytes]] = {
    "cmyk.jpg": lambda: _encoded(make_image(4).convert("CMYK"), "jpeg"),
    "cmyk.tif": lambda: _encoded(make_image(4).convert("CMYK"), "tiff"),
    "gray.jpg": lambda: _encoded(make_image(5).convert("L"), "jpeg"),
    "gray_alpha.png": lambda: _encoded(make_image(5).convert("LA"), "png"),
    "gray16.png": lambda: _png16(0, 1),
    "rgb16.png": lambda: _png16(2, 3),
    "gray_alpha16.png": lambda: _png16(4, 2),
    "rgba16.png": lambda: _png16(6, 4),
    "little.tif": lambda: _tiff16("<"),
    "big.tiff": lambda: _tiff16(">"),
    "palette.png": lambda: _encoded(make_image(6).convert("P"), "png"),
    "transparent.png": _transparent,
    "bit.png": lambda: _encoded(make_image(7).convert("1"), "png"),
    "lab.tif": lambda: _encoded(make_image(7).convert("LAB"), "tiff"),
    "pixel.png": lambda: _encoded(make_image(8, (1, 1)), "png"),
    "row.jpg": lambda: _encoded(make_image(8, (40, 1)), "jpeg"),
    "column.jpg": lambda: _encoded(make_image(8, (1, 40)), "jpeg"),
    "panorama.jpg": lambda: _encoded(make_image(8, (600, 15)), "jpeg"),
    "tower.jpg": lambda: _encoded(make_image(8, (15, 600)), "jpeg"),
    "exif.jpg": _oriented,
    "bad_exif.jpg": _bad_exif,
    "animated.gif": lambda: _encoded(make_image(9), "gif", save_all=True, append_images=[make_image(10)]),
    "animated.webp": lambda: _encoded(make_image(9), "webp", save_all=True, append_images=[make_image(10)]),
    "large.png": lambda: _encoded(make_image(9, (120, 100)), "png"),
}
"""What must be read."""
BROKEN: dict[str, Callable[[], bytes]] = {
    "empty.jpg": lambda: b"",
    "truncated.jpg": lambda: _encoded(make_image(11, (64, 64)), "jpeg")[:-300],
    "truncated.png": lambda: _encoded(make_image(11, (64, 64)), "png")[:-300],
    "page.jpg": lambda: b"<html>404 not found</html>",
    "nothing.gif": lambda: b"GIF89a" + bytes(6) + b";",
    "bomb.png": lambda: _encoded(Image.new("1", (200, 200)), "png"),
}
"""What cannot, or must not, be read."""


def _folder(root: Path, files: dict[str, Callable[[], bytes]]) -> Images:
    (root / "class").mkdir(parents=True)
    for name, make in files.items():
        (root / "class" / name).write_bytes(make())
    images = open_images(f"folder:{root}")
    assert isinstance(images, Images)
    assert len(images) == len(files)
    return images


def test_every_odd_file_is_read(tmp_path: Path) -> None:
    images = _folder(tmp_path, ODD)
    for index in range(len(images)):
        sample = images.fetch(index)
        assert sample.bad == (), images.name(index)
        assert sample.position == index
        assert sample.image.mode == "RGB"


@pytest.mark.parametrize("name", [name for name in ODD if "16" in name] + ["little.tif", "big.tiff"])
def test_sixteen_bits_keep_their_brightness(tmp_path: Path, name: str) -> None:
    image, _ = _folder(tmp_path, {name: ODD[name]})[0]
    assert image.size == (4, 4)
    expected = ON_WHITE if "a" in name.removeprefix("gray").partition("16")[0] else GRAY
    assert image.getextrema() == ((expected, expected),) * 3


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp"])
def test_an_animation_is_its_first_image(tmp_path: Path, name: str) -> None:
    image, _ = _folder(tmp_path, {name: ODD[name]})[0]
    pixels, first, second = (np.asarray(x).astype(int) for x in (image, make_image(9), make_image(10)))
    assert np.abs(pixels - first).mean() < np.abs(pixels - second).mean() / 2


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("kind", [TwoViews, OneView, CenterView])
def test_any_shape_becomes_views_and_superpixels(size: int, kind: Callable[[int], Augment]) -> None:
    superpixels = Seeds(16, bins=5, iterations=1)
    views = kind(size)
    for shape in ((1, 1), (2, 1), (40, 1), (1, 40), (1200, 30), (30, 1200), (7, 280)):
        for view in views(make_image(3, shape)):
            assert (view.dtype, view.shape) == (torch.uint8, (3, size, size))
            segments = superpixels(view[None])
            assert segments.shape == (1, size, size)
            assert 0 <= int(segments.min()) <= int(segments.max()) < superpixels.capacity(size, size)


def test_what_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)
    images = _folder(tmp_path, {**BROKEN, "zebra.png": lambda: _encoded(make_image(0), "png")})
    sample = images.fetch(0)
    assert images.name(sample.position) == "class/zebra.png"
    assert [Path(bad.name) for bad in sample.bad] == sorted(tmp_path / "class" / name for name in BROKEN)
    reasons = {Path(bad.name).name: bad.reason for bad in sample.bad}
    assert reasons["empty.jpg"] == "the file is empty"
    assert reasons["page.jpg"] == "not an image, or of an unknown format"
    assert "truncated" in reasons["truncated.jpg"]
    assert "40000 pixels" in reasons["bomb.png"]
    assert not any("\n" in reason for reason in reasons.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_and_keeps_the_list(tmp_path: Path, workers: int) -> None:
    some = {name: BROKEN[name] for name in ("empty.jpg", "page.jpg")}
    good = {f"{i}.png": lambda: _encoded(make_image(0), "png") for i in range(6)}
    images = _folder(tmp_path, some | good)
    loader = load(images, views=CenterView(8), superpixels=None, batch_size=4, workers=workers)
    for epoch in range(2):
        loader.set_epoch(epoch)
        assert [len(batch.target) for batch in loader] == [4, 4]
    assert dict(loader.bad) == {
        str(tmp_path / "class/empty.jpg"): "the file is empty",
        str(tmp_path / "class/page.jpg"): "not an image, or of an unknown format",
    }
    assert loader.bad is images.bad is images.take([0]).bad


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_is_gone_ends_in_one_plain_sentence(tmp_path: Path, workers: int) -> None:
    images = _folder(tmp_path, {f"{i:03}.png": lambda: _encoded(make_image(0), "png") for i in range(120)})
    (tmp_path / "class").rename(tmp_path / "unmounted")
    loader = load(images, views=CenterView(8), superpixels=None, batch_size=4, workers=workers)
    with pytest.raises(DataError) as caught:
        next(iter(loader))
    assert str(caught.value).startswith("100 images in a row cannot be read, from ")
    assert "No such file or directory" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_an_unreadable_one(tmp_path: Path) -> None:
    images = _folder(tmp_path, {f"{i}.png": lambda: _encoded(make_image(0), "png") for i in range(2)})
    (tmp_path / "class/0.png").chmod(0)
    assert images.fetch(0).bad == (Unreadable(str(tmp_path / "class/0.png"), "Permission denied"),)


NAMES = [
    "with blanks.png",
    "'single' and \"double\".png",
    "new\nline.png",
    "tab\there.png",
    "back\\slash.png",
    "gr\u00fc\u00dfe \u732b \U0001f431.png",
    "100%.png",
    "-rf.png",
    "$HOME;`ls`.png",
    os.fsdecode(b"latin-\xe9-\xff.png"),
]


@pytest.mark.parametrize("broken", [False, True])
def test_files_of_any_name(tmp_path: Path, broken: bool) -> None:
    place = tmp_path / os.fsdecode(b"a class, \xfcber \n all")
    place.mkdir()
    for name in NAMES:
        (place / name).write_bytes(b"" if broken else _encoded(make_image(0), "png"))
    (place / "zz.png").write_bytes(_encoded(make_image(1), "png"))
    images = open_images(f"folder:{tmp_path}")
    assert isinstance(images, Images)
    assert len(images) == len(NAMES) + 1
    list(load(images, views=CenterView(8), superpixels=None, batch_size=11, workers=1))
    assert set(images.bad) == ({str(place / name) for name in NAMES} if broken else set())


def test_reading_odd_files_says_nothing_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)
    images = _folder(tmp_path, ODD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # would be printed, or, here, make a readable file an unreadable one
        for index in range(len(images)):
            assert images.fetch(index).bad == ()
    assert capfd.readouterr() == ("", "")
