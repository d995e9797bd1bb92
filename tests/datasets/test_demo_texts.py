from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from castssl.datasets.demo.dataset import root_of, tree
from castssl.datasets.demo.objects import PARTS
from castssl.datasets.demo.texts import attributes, demo_texts
from castssl.datasets.demo.textures import TEXTURES
from castssl.errors import ConfigError

SMALL = "size=32,per_class=8"


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASTSSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def read(path: Path) -> dict[str, str]:
    with open(path, newline="") as file:
        return {row["path"]: row["text"] for row in csv.DictReader(file)}


def test_each_training_image_has_a_text_that_names_no_class_and_no_part() -> None:
    found = read(demo_texts(f"demo:{SMALL}", "demo"))
    assert len(found) == 64
    assert all((root_of(SMALL) / "train" / path).is_file() for path in found)
    names = {name for level in tree().names for name in level} | {
        name for each in PARTS.values() for name in each
    }
    words = {word for text in found.values() for word in re.findall(r"\w+", text)}
    assert not words & (names | {f"{name}s" for name in names})
    assert "fixed" not in words


def test_noise_replaces_words_and_is_the_same_each_time() -> None:
    pure, noisy, random = (read(demo_texts(f"demo:{SMALL}", f"demo:{noise}")) for noise in ("0", "0.3", "1"))
    same = {
        name: np.mean(
            [
                a == b
                for path in pure
                for a, b in zip(pure[path].split(", ")[1:], other[path].split(", ")[1:], strict=True)
            ]
        )
        for name, other in (("noisy", noisy), ("random", random))
    }
    assert 0.65 < same["noisy"] < 0.9
    assert same["random"] < 0.4
    path = demo_texts(f"demo:{SMALL}", "demo:0.3")
    before = path.read_bytes()
    path.unlink()
    assert demo_texts(f"demo:{SMALL}", "demo:0.3").read_bytes() == before


def test_attributes_are_measured() -> None:
    parts = np.zeros((40, 40), np.uint8)
    parts[10:20, 2:38] = 1
    parts[10:20, 5:9] = 2
    parts[10:20, 30:34] = 2
    image = np.zeros((40, 40, 3), np.uint8)
    image[..., 2] = 200
    words = [word for word, _ in attributes(image, parts)]
    # The first part is cut into three.
    assert words == ["five", "wide", "round", "small", "blue"]
    assert all(word in sort for word, sort in attributes(image, parts))


def test_fixed_surroundings_have_no_textures() -> None:
    found = read(demo_texts(f"demo:{SMALL},surroundings=fixed", "demo"))
    assert not any(name in text for text in found.values() for name in TEXTURES)


@pytest.mark.parametrize(("data", "spec"), [("cub:/x", "demo"), ("demo", "demo:2"), ("demo", "demo:much")])
def test_texts_that_cannot_be_made_are_refused(data: str, spec: str) -> None:
    with pytest.raises(ConfigError, match="expected demo or demo:NOISE"):
        demo_texts(data, spec)
