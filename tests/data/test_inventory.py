from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from castssl.data.inventory import differences, inventory
from castssl.data.splits import hold_out
from castssl.datasets.free_grain import hide_fine
from castssl.datasets.image_texts import ImageTexts
from castssl.datasets.images import Images
from castssl.datasets.open import open_images


@pytest.fixture
def data(tmp_path: Path, image_folder: Path) -> Path:
    return Path(shutil.copytree(image_folder, tmp_path / "data"))


def test_a_moved_data_set_has_the_same_inventory(data: Path, image_folder: Path) -> None:
    old, new = (inventory(open_images(f"folder:{path}", split="train")) for path in (image_folder, data))
    assert old == new
    assert differences(old, new) == []
    assert old["images"] == sum(count for count, _ in old["classes"].values()) == 48
    assert all(count == 6 for count, _ in old["classes"].values())
    assert len(old["classes"]) == 8


def test_what_differs_is_said_by_class(data: Path, image_folder: Path) -> None:
    old = inventory(open_images(f"folder:{image_folder}", split="train"))
    first, second, third, *_ = sorted(path for path in (data / "train").glob("*/*"))
    (first / "0000.png").unlink()
    (second / "0000.png").rename(second / "9.png")
    third.rename(third.with_name("zebra"))
    result = differences(old, inventory(open_images(f"folder:{data}", split="train")))
    names = [path.relative_to(data / "train").as_posix() for path in (first, second, third)]
    assert sorted(result) == sorted(
        [
            "48 images then, 47 now",
            f"class {names[0]!r}: 6 images then, 5 now",
            f"class {names[1]!r}: 6 images then and now, of other names",
            f"class {names[2]!r}: 6 images then, none now",
            f"class {Path(names[2]).with_name('zebra').as_posix()!r}: no images then, 6 now",
        ]
    )


def test_another_order_and_hidden_labels_differ(image_folder: Path) -> None:
    images = open_images(f"folder:{image_folder}", split="train")
    assert isinstance(images, Images)
    old = inventory(images)
    assert differences(old, inventory(images.take([1, 0, *range(2, 48)]))) != []
    assert differences(old, inventory(hide_fine(images, 0.5))) != []


def test_other_texts_differ(image_folder: Path) -> None:
    images = open_images(f"folder:{image_folder}", split="train")
    assert isinstance(images, Images)
    row = torch.zeros(len(images), dtype=torch.int64)
    plain, old, new = (
        inventory(replace(images, texts=texts))
        for texts in (None, *(ImageTexts(torch.ones(1, 2), row, digest) for digest in ("then", "now")))
    )
    assert differences(old, new) == differences(old, plain) == ["other texts of the images"]
    assert differences(old, old) == []
    # As a run has that began before texts were in inventories; --texts itself is a setting.
    assert differences(plain, new) == []
    assert "other texts of the images" in differences(old, inventory(replace(images.take([1]), texts=None)))


def test_images_without_labels_are_counted_and_shared_out(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    images = open_images(f"folder:{tmp_path}")
    assert isinstance(images, Images)
    assert (images.tree.levels, images.targets.shape) == (0, (6, 0))
    old = inventory(images)
    assert [count for count, _ in old["classes"].values()] == [6]
    assert list(old["classes"]) == [""]
    assert differences(old, inventory(images.take(range(5))))[1:] == [
        "images without a label: 6 images then, 5 now"
    ]
    rest, held_out = hold_out(images, 0.3, seed=1)
    assert (len(rest), len(held_out)) == (4, 2)


def test_a_stream_is_known_by_its_spec(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "png")
    with tarfile.open(tmp_path / "train-0.tar", "w") as shard:
        for name, content in (("a.png", image.getvalue()), ("a.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    spec = f"wds/x:{tmp_path}"
    result = inventory(open_images(f"{spec}?num_classes=1", split="train"))
    assert result == {"images": 1, "source": spec}


def test_streams_are_compared_by_spec_and_count() -> None:
    old = {"images": 5, "source": "wds/a/train"}
    assert differences(old, {"images": 6, "source": "wds/a/train"}) == ["5 images then, 6 now"]
    assert differences(old, {"images": 5, "source": "wds/b/train"}) == ["wds/a/train then, wds/b/train now"]
