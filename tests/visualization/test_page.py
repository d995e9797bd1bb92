"""The page is one file: safe names, pixels alone, no links; what it stores can be read back."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode, b64encode
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from castssl.errors import DataError
from castssl.visualization.page import LARGEST, Class, Level, Parts, Shown, write_page

NASTY = "</script><script>alert(1)</script>&\"'\x1b\u2028<!--"
FINEST = np.array([[0, 0, 1, -1], [2, 2, 1, 3]])
PARTS = Parts(
    FINEST,
    [(0, 1), (2, 3), (4, 5)],
    (Level(6, np.array([0, 1, 4, 5])), Level(3, np.array([0, 0, 2, 2]))),
    (Class(NASTY, 0.8, np.array([1.0, -2.0, 0.5, 0.0])),),
)
BLOCK = r'<script type="application/json" {}>(.*?)</script>'


def photo(tmp_path: Path) -> Image.Image:
    """Of a file that tells where it was taken."""
    exif = Image.Exif()
    exif[0x010F] = "SECRETMAKER"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    image = Image.effect_noise((40, 20), 80).convert("RGB")
    image.save(tmp_path / "gps.jpg", exif=exif, comment=b"SECRETCOMMENT", icc_profile=b"SECRETPROFILE" * 20)
    return Image.open(tmp_path / "gps.jpg")


def page(tmp_path: Path, *images: Shown) -> str:
    assert write_page(tmp_path / "page.html", [NASTY, "b"], iter(images)) == len(images)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def stored(text: str) -> list[Any]:
    return [json.loads(block) for block in re.findall(BLOCK.format('class="image"'), text)]


def test_an_image_can_be_read_back(tmp_path: Path) -> None:
    large = Image.new("RGB", (3 * LARGEST, LARGEST))
    text = page(tmp_path, Shown("a", photo(tmp_path), [PARTS]), Shown("b", large, [PARTS, PARTS]))
    one, two = stored(text)
    assert (one["width"], one["height"]) == (40, 20)
    assert (two["width"], two["height"]) == (LARGEST, round(LARGEST / 3))
    (model,) = one["models"]
    code = np.frombuffer(zlib.decompress(b64decode(model["finest"])), np.uint8).reshape(2, 2, 4).astype(int)
    values = np.cumsum(code[0] + 256 * code[1], axis=0) % 2**16
    assert np.array_equal(values - 1, FINEST)
    assert model["merges"] == [0, 1, 2, 3, 4, 5]
    assert [level["ids"] for level in model["levels"]] == [[0, 1, 4, 5], [0, 0, 2, 2]]
    assert [shade["segments"] for shade in model["shades"]] == [4, 2]
    fine, coarse = (re.findall("......", shade["colors"]) for shade in model["shades"])
    assert len(set(fine)) == 4
    assert coarse[0] == coarse[1] != coarse[2] == coarse[3]
    assert len(two["models"]) == 2


def test_pixels_alone_get_into_the_page(tmp_path: Path) -> None:
    source = photo(tmp_path)
    assert source.getexif().get_ifd(0x8825)
    (image,) = stored(page(tmp_path, Shown("a", source, [PARTS])))
    data = b64decode(image["jpeg"])
    written = Image.open(BytesIO(data))
    assert not written.getexif()
    assert set(written.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert b"SECRET" not in data
    assert np.abs(np.asarray(written).astype(int) - np.asarray(source)).mean() < 12


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    text = page(
        tmp_path, Shown(NASTY, photo(tmp_path), [PARTS]), Shown("\udcff.jpg", photo(tmp_path), [PARTS])
    )
    assert "alert(1)</script>" not in text
    assert text.count("<script") == text.count("</script>") == 4
    assert "<!--" not in text
    (about,) = re.findall(BLOCK.format('id="about"'), text)
    names = json.loads(about)
    shown = NASTY.replace("\x1b", r"\x1b").replace("\u2028", r"\u2028")
    assert names == {"models": [shown, "b"], "images": [shown, "\udcff.jpg"]}
    assert stored(text)[0]["models"][0]["classes"][0]["name"] == shown


def test_the_page_loads_nothing_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    text = page(tmp_path, Shown("a", photo(tmp_path), [PARTS]))
    assert not re.search(r"https?:|\b(src|href|action)=|@import|url\(|//[a-z]+\.", text)
    assert "default-src 'none'" in text
    own = re.findall(r"(?s)<(style|script)>(.*?)</", text)
    hashes = re.findall(r"'sha256-([\w+/]{43}=)'", text)
    assert hashes == [b64encode(sha256(content.encode()).digest()).decode() for _, content in own]
    assert [kind for kind, _ in own] == ["style", "style", "script"]


def test_without_images_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not written"):
        write_page(tmp_path / "page.html", ["a"], [])
    assert not list(tmp_path.iterdir())


def test_too_many_segments_for_the_code(tmp_path: Path) -> None:
    many = PARTS._replace(finest=np.array([[2**16]]))
    with pytest.raises(DataError, match="at most 65535 segments"):
        write_page(tmp_path / "page.html", ["a"], [Shown("a", photo(tmp_path), [many])])


def test_an_image_without_segments(tmp_path: Path) -> None:
    none = Parts(np.full((2, 4), -1), [], (Level(4, np.array([], np.int64)),))
    (image,) = stored(page(tmp_path, Shown("a", photo(tmp_path), [none])))
    assert image["models"][0]["levels"] == [{"size": 4, "ids": []}]
