"""Damage among images that are opened, of many a sample, and among images that are decoded."""

from __future__ import annotations

import io
import tarfile
from itertools import islice, pairwise
from pathlib import Path

import pytest
from PIL import Image

from castssl.datasets import damage
from castssl.datasets.images import Images
from castssl.datasets.open import open_images


def write(root: Path, count: int) -> Path:
    """So many small images of one class."""
    (root / "a").mkdir(parents=True)
    for number in range(count):
        Image.effect_noise((64, 64), 50).save(root / "a" / f"{number:03}.png")
    return root


def opened(spec: str) -> Images:
    images = open_images(spec)
    assert isinstance(images, Images)
    return images


def test_nothing_is_said_of_whole_images_and_of_all_kinds_of_damage_one_sentence(tmp_path: Path) -> None:
    root = write(tmp_path, 6)
    assert list(damage.left_out(opened(f"folder:{root}"), decoded=True)) == []
    full = (root / "a" / "003.png").read_bytes()
    for number, content in enumerate([b"", full[:20], b"no image", full[:2000]]):
        (root / "a" / f"00{number}.png").write_bytes(content)
    (messages,) = damage.left_out(opened(f"folder:{root}"))
    assert messages.startswith("3 of 6 images that were looked at cannot be read, such as ")
    assert "000.png (the file is empty)" in messages
    *first, last = damage.left_out(opened(f"folder:{root}"), decoded=True)
    assert first == [messages]
    assert last.startswith("1 of 6 images that were decoded cannot be read, such as ")
    assert "003.png (" in last


def test_images_of_a_tar_are_looked_at(tmp_path: Path) -> None:
    root = write(tmp_path / "set", 3)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(root / "a", "a")
        member = tarfile.TarInfo("a/004.png")
        archive.addfile(member, io.BytesIO())
    (messages,) = damage.left_out(opened(f"tar:{tmp_path / 'set.tar'}"))
    assert messages.startswith("1 of 4 images that were looked at cannot be read, such as")
    assert "set.tar: a/004.png (the file is empty)" in messages


def test_of_many_images_a_sample_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, 9)
    for path in (root / "a").iterdir():
        path.write_bytes(b"")
    monkeypatch.setattr(damage, "LOOKED", 4)
    (messages,) = damage.left_out(opened(f"folder:{root}"))
    assert messages.startswith("4 of 4 images that were looked at (of 9) cannot be read")


def test_a_slow_disk_ends_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, 2)
    (root / "a" / "000.png").write_bytes(b"")
    monkeypatch.setattr(damage, "SECONDS", 0.0)
    assert list(damage.left_out(opened(f"folder:{root}"))) == []


@pytest.mark.parametrize("count", [1, 2, 97, 100, 5000])
def test_a_sample_is_spread_evenly(count: int) -> None:
    assert sorted(damage._spread(count)) == list(range(count))
    some = max(1, count // 5)
    drawn = sorted(islice(damage._spread(count), some))
    assert max((b - a for a, b in pairwise([*drawn, drawn[0] + count])), default=0) <= 3 * count / some
