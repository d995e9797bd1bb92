from __future__ import annotations

from hashlib import sha256

import cv2
import numpy as np
import pytest
import torch

from castssl.contracts import Listing
from castssl.datasets.demo import many, paint
from castssl.datasets.demo.dataset import tree
from castssl.datasets.demo.paint import KINDS, Kind, paint_many
from castssl.datasets.images import Images
from castssl.errors import ConfigError, DataError

OPTIONS = "size=48,images=20"


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASTSSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def images_of(listing: Listing) -> Images:
    rows = np.arange(len(listing.source))
    return Images(listing.source, rows, listing.targets, listing.tree, masks=listing.masks)


def test_each_label_has_an_object_with_a_mask_and_no_other_label_has() -> None:
    listings = {split: many.DemoMany().open(OPTIONS, split) for split in ("train", "val")}
    assert {split: len(one.source) for split, one in listings.items()} == {"train": 20, "val": 4}
    for listing in listings.values():
        assert (listing.tree.names, listing.tree.parents) == (tree().names, tree().parents)
        assert not listing.tree.exclusive
        images = images_of(listing)
        for index, (coarse, fine) in enumerate(zip(*listing.targets.split([4, 8], 1), strict=True)):
            mask, parts = images.mask(index), images.parts(index)
            assert mask is not None
            assert parts is not None
            classes = np.asarray(parts)
            assert images[index][0].size == mask.size == parts.size == (48, 48)
            assert set(np.unique(classes)) == {0, *(fine.nonzero()[:, 0] + 1).tolist()}
            assert np.array_equal(classes > 0, np.asarray(mask) == 255)
            assert min((classes == number).mean() for number in np.unique(classes)) > 0.03
            above = torch.tensor(tree().parents[0])[fine > 0]
            assert set(above.tolist()) == set(coarse.nonzero()[:, 0].tolist())
    counts = torch.cat([one.targets for one in listings.values()])[:, 4:].sum(1)
    assert counts.unique().tolist() == [2, 3, 4]


def test_an_image_depends_on_seed_split_and_number_alone() -> None:
    def content(options: str, split: str = "train") -> list[bytes]:
        source = many.DemoMany().open(options, split).source
        return [source.open(row).read() for row in range(3)]

    first = content(OPTIONS)
    assert content("size=48,images=3") == first
    assert content(f"{OPTIONS},seed=1") != first
    assert content(OPTIONS, "val") != first
    assert len(set(first)) == 3


def test_images_are_those_of_version_1() -> None:
    pixels = sha256()
    for number in range(4):
        for part in paint_many(np.random.default_rng(number), KINDS[number : number + 3], 32):
            pixels.update(part.tobytes())
    assert many.VERSION == 1
    assert pixels.hexdigest() == "7a1de1705ce35095b42057be474e7a8861b3fd9444a59134a2bdfc6c904cf639"


def test_surroundings_are_the_same_for_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paint, "lit", lambda _, light: light)
    kinds_drawn: tuple[tuple[Kind, ...], ...] = (KINDS[:2], KINDS[4:7], ())
    for seed in range(4):
        drawn = [paint_many(np.random.default_rng(seed), kinds, 64) for kinds in kinds_drawn]
        near = np.any([seen > 0 for _, seen in drawn], 0).astype(np.uint8)
        far = cv2.dilate(near, np.ones((19, 19), np.uint8)) == 0  # Beyond the shadows of the objects.
        assert far.mean() > 0.05
        for image, _ in drawn[:2]:
            assert np.allclose(image[far], drawn[2][0][far], atol=0.02)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("side=32", DataError, "cannot make the demo data of 'side=32'.*demo-many:size=128,images=2400"),
        ("size=large", DataError, "cannot make the demo data"),
        ("size=16", ConfigError, "takes size >= 32"),
        ("images=0", ConfigError, "images >= 1"),
        ("seed=-1", ConfigError, "seed >= 0"),
    ],
)
def test_refuses_what_it_cannot_paint(options: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        many.DemoMany().open(options, "train")
