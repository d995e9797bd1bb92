from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from castssl.datasets.demo import dataset as demo
from castssl.datasets.demo.objects import PARTS
from castssl.datasets.demo.paint import KINDS, Surroundings, paint, tones, turned
from castssl.datasets.demo.scenes import Stroke
from castssl.datasets.demo.textures import part_textures
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError, DataError
from tests.forked import Forked

SIZE, EACH = 32, 5
BOTH = pytest.mark.parametrize("surroundings", get_args(Surroundings))


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASTSSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(_own_cache: object) -> Path:
    return demo.root(SIZE, EACH)


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [str(path.relative_to(folder)).encode() + path.read_bytes() for path in files]
    return sha256(b"".join(parts)).hexdigest()


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path), np.uint8)


def test_same_seed_same_bytes_other_seed_other_images(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path))
    again, other = demo.root(SIZE, EACH), demo.root(SIZE, EACH, seed=1)
    assert again != folder
    assert digest(again) == digest(folder)
    first = Path("train", "sky", "plane", "0000.png")
    assert (other / first).read_bytes() != (folder / first).read_bytes()


def test_an_image_does_not_depend_on_how_many_there_are(folder: Path) -> None:
    name = Path("val", "water", "fish", "0000.png")
    assert (demo.root(SIZE, 2) / name).read_bytes() == (folder / name).read_bytes()


def test_fixed_surroundings_are_those_of_version_2() -> None:
    pixels = sha256()
    for index, kind in enumerate(KINDS):
        for number in range(2):
            for part in paint(np.random.default_rng((0, 0, index, number)), kind, 32, "fixed"):
                pixels.update(part.tobytes())
    assert pixels.hexdigest() == "c049c04790f94045b63352dc6aae22d6ec8347eb7316e3e40cd50cf0cca5533e"


def test_surroundings_are_an_option_with_a_size_of_its_own() -> None:
    for options, size in (("", 128), (",surroundings=fixed", 96)):
        images = open_images(f"demo:per_class=1{options}", split="val")
        assert isinstance(images, Images)
        assert images[0][0].size == (size, size)


def test_others_may_read_a_shared_cache(folder: Path) -> None:
    assert folder.stat().st_mode & 0o055 == 0o055


def test_an_image_folder_reads_it(folder: Path) -> None:
    train, val = ImageFolder(str(folder / "train")), ImageFolder(str(folder / "val"))
    assert train.classes == val.classes == ["meadow", "sky", "street", "water"]
    assert (len(train), len(val)) == (8 * EACH, 8)
    assert {train[i][0].size for i in range(len(train))} == {(SIZE, SIZE)}


def test_the_loader_reads_it_with_its_tree_and_masks(folder: Path) -> None:
    images = open_images(f"folder:{folder}", split="val")
    assert isinstance(images, Images)
    assert images.tree == demo.tree()
    assert images.tree.sizes == (4, 8)
    for i in range(len(images)):
        image, path = images[i]
        mask = images.mask(i)
        assert mask is not None
        assert mask.size == image.size
        names = (images.tree.names[0][path[0]], images.tree.names[1][path[1]])
        assert images.name(i).startswith("/".join(names))


def test_the_tree_file_says_the_same(folder: Path) -> None:
    content = json.loads((folder / "tree.json").read_text(encoding="utf-8"))
    tree = demo.tree()
    assert tuple(map(tuple, content["names"])) == tree.names
    assert tuple(map(tuple, content["parents"])) == tree.parents
    assert set(content["parts"]) == set(tree.names[1])


def test_masks_and_parts_agree(folder: Path) -> None:
    for image in folder.glob("*/*/*/*.png"):
        if image.parts[len(folder.parts)] in demo.SPLITS:
            below = image.relative_to(folder)
            mask, parts = pixels(folder / "masks" / below), pixels(folder / "parts" / below)
            assert set(np.unique(mask)) == {0, 255}
            assert np.array_equal(mask == 255, parts > 0)
            assert parts.max() <= len(PARTS[below.parts[2]])


@BOTH
def test_objects_are_large_and_each_of_their_parts_is_seen_somewhere(surroundings: Surroundings) -> None:
    for index, kind in enumerate(KINDS):
        painted = [paint(np.random.default_rng((9, index, i)), kind, 64, surroundings)[1] for i in range(12)]
        shares = [(parts > 0).mean() for parts in painted]
        assert min(shares) > 0.1
        assert 0.18 < float(np.mean(shares)) < 0.45
        assert set(np.unique(painted)) == set(range(len(PARTS[kind.fine]) + 1))


@BOTH
def test_the_image_changes_where_the_object_begins(surroundings: Surroundings) -> None:
    # An object that is not where its mask says would make no step in brightness at the mask's border.
    steps: list[float] = []
    for index, kind in enumerate(KINDS):
        image, parts = paint(np.random.default_rng((3, index)), kind, 96, surroundings)
        gray, inside = image.astype(float).mean(-1), parts > 0
        jump = np.abs(np.diff(gray, axis=1))
        border = np.diff(inside.astype(int), axis=1) != 0
        steps.append(jump[border].mean() / jump[~border].mean())
    assert np.mean(steps) > {"fixed": 1.5, "shared": 1.2}[surroundings], steps


@BOTH
def test_the_light_says_nothing_of_the_class(surroundings: Surroundings) -> None:
    means = torch.tensor(
        [
            [paint(np.random.default_rng((5, index, i)), kind, 32, surroundings)[0].mean() for i in range(25)]
            for index, kind in enumerate(KINDS)
        ]
    )
    assert means.mean(1).std() < 0.35 * means.std(1).mean()


def test_shared_surroundings_have_the_colors_of_the_object() -> None:
    distance: dict[str, float] = {}
    for surroundings in get_args(Surroundings):
        apart = []
        for index, kind in enumerate(KINDS):
            for number in range(4):
                image, parts = paint(np.random.default_rng((7, index, number)), kind, 64, surroundings)
                apart.append(np.linalg.norm(image[parts > 0].mean(0) - image[parts == 0].mean(0)))
        distance[surroundings] = float(np.mean(apart))
    assert distance["shared"] < 0.6 * distance["fixed"], distance


def test_classes_of_one_coarse_class_show_their_textures_on_different_parts() -> None:
    for number in range(1, 6):
        assert set(part_textures("sky", 0, number)) != set(part_textures("sky", 1, number))
    assert len({one for number in (1, 2, 3) for one in part_textures("sky", 0, number)}) == 3


def test_a_stroke_without_polygons_draws_nothing() -> None:
    nothing = Stroke(np.zeros((0, 60, 2)), 0.5, 0.1)
    assert not tones([nothing], turned(0, (1, 1), np.zeros(2)), 32).any()


def test_two_processes_at_once_see_one_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, script = tmp_path / "cache", tmp_path / "both.py"
    monkeypatch.setenv("CASTSSL_CACHE", str(cache))
    script.write_text(f"from castssl.datasets.demo import dataset as demo\nprint(demo.root({SIZE}, 3))\n")
    outputs = [tmp_path / "one.txt", tmp_path / "other.txt"]
    both = [Forked([str(script)], output, tmp_path / "errors.txt") for output in outputs]
    assert [process.wait() for process in both] == [0, 0]
    (answer,) = {output.read_text().strip() for output in outputs}
    assert len(list(Path(answer).glob("train/*/*/*.png"))) == 24
    assert [path.name for path in cache.iterdir()] == [Path(answer).name]


def test_a_stopped_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_write_one", stop)
        with pytest.raises(KeyboardInterrupt):
            demo.root(SIZE, 1)
    assert list(tmp_path.iterdir()) == []
    assert (demo.root(SIZE, 1) / "tree.json").is_file()


@pytest.mark.parametrize("wrong", [{"size": 8}, {"per_class": 0}, {"seed": -1}, {"surroundings": "none"}])
def test_refuses_what_it_cannot_paint(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="demo data set takes"):
        demo.root(**wrong)


def test_demo_maps_have_the_class_of_each_pixel(folder: Path) -> None:
    options = f"size={SIZE},per_class={EACH}"
    images = {split: open_images(f"demo-maps:{options}", split=split) for split in ("train", "val")}
    names = ("surroundings", *demo.tree().names[1])
    files = {split: sorted((folder / "masks" / split).rglob("*.png")) for split in images}
    for split, opened in images.items():
        assert isinstance(opened, Images)
        assert opened.pixel_tree.names == (names,)
        assert len(opened) == len(files[split])
        plain = open_images(f"demo:{options}", split=split)
        assert isinstance(plain, Images)
        for number in (0, len(opened) // 2, len(opened) - 1):
            mask = files[split][number]
            assert np.array_equal(np.asarray(opened[number][0]), np.asarray(plain[number][0]))
            label = np.where(pixels(mask) > 0, names.index(mask.parent.name), 0)
            labels = opened.fetch(number, labels=True).labels
            assert labels is not None
            assert np.array_equal(labels, label)
    with pytest.raises(DataError, match="cannot make the demo data"):
        open_images("demo-maps:side=32")
