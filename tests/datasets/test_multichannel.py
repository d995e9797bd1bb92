"""Images of any number of channels, against PIL and numpy channel by channel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from castssl.data.evaluation_views import CenterView
from castssl.data.photometric import ColorAugment
from castssl.data.rng import seeded
from castssl.data.supervised_views import SupervisedView
from castssl.data.views import TwoViews
from castssl.datasets.decode import decode
from castssl.datasets.depth import Range
from castssl.datasets.folder import look_through
from castssl.datasets.multichannel import MultiChannel
from castssl.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 5)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
"""uint8 (40, 48, 5)."""


def tiff(pixels: NDArray[Any], **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (PIXELS, {"photometric": "minisblack", "planarconfig": "contig"}),
        (PIXELS.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}),
        (PIXELS.transpose(2, 0, 1), {"photometric": "minisblack"}),
        (PIXELS.transpose(2, 0, 1), {"imagej": True, "metadata": {"axes": "CYX"}}),
    ],
    ids=["contiguous", "planes", "pages", "ImageJ"],
)
def test_all_layouts_of_tiff_are_one_image(pixels: NDArray[Any], options: dict[str, Any]) -> None:
    image = decode(tiff(pixels, **options), channels=5)
    assert image.size == (48, 40)
    assert np.array_equal(np.asarray(image), PIXELS)


def test_the_range_is_the_users_else_the_tags_else_the_types() -> None:
    deep, options = PIXELS.astype(np.uint16) * 16, {"photometric": "minisblack", "planarconfig": "contig"}
    by_type = np.rint(deep / 65535 * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(decode(tiff(deep, **options), channels=5)), by_type)
    by_user = np.asarray(decode(tiff(deep, **options), Range(0, 4080), channels=5))
    assert np.array_equal(by_user, PIXELS)
    tags = [(280, "H", 5, (0,) * 5, True), (281, "H", 5, (4080,) * 5, True)]
    assert np.array_equal(np.asarray(decode(tiff(deep, extratags=tags, **options), channels=5)), PIXELS)
    with pytest.raises(DataError, match="float32 and does not say which are black and white"):
        decode(tiff(deep.astype(np.float32), **options), channels=5)


def test_a_stored_image_becomes_upright() -> None:
    options: dict[str, Any] = {"photometric": "minisblack", "extratags": [(274, "H", 1, 6, True)]}
    image = decode(tiff(PIXELS.transpose(2, 0, 1), **options), channels=5)
    assert np.array_equal(np.asarray(image), np.rot90(PIXELS, -1))


def test_arrays_of_one_and_three_channels_are_images_of_pil() -> None:
    for pixels in (PIXELS[..., :3], PIXELS[..., 0], PIXELS[..., :1]):
        file = io.BytesIO()
        np.save(file, pixels)
        image = decode(file)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image)[..., 0], PIXELS[..., 0])


def test_arrays_are_the_images_of_a_folder_without_others(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    (tmp_path / "a.txt").touch()
    assert look_through(tmp_path) == (["a.npy"], ("left out 1 file by extension: 1 .txt",))
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert look_through(tmp_path).names == ["b.png"]


def test_views_treat_each_channel_as_a_gray_image() -> None:
    image = MultiChannel(PIXELS)
    bands = [Image.fromarray(np.stack([PIXELS[..., i]] * 3, -1)) for i in range(5)]
    changes = ColorAugment(jitter=0, gray=1, blur=1, solarize=1, flip=0.5)
    for view in (
        CenterView(32),
        CenterView(32, interpolation="bicubic"),
        TwoViews(32, colors=[changes] * 2),
        SupervisedView(32, policy="none", erase=0),
    ):
        for seed in range(3):
            with seeded(seed):
                computed = view(image)
            for i, band in enumerate(bands):
                with seeded(seed):
                    expected = view(band)
                for one, other in zip(computed, expected, strict=True):
                    assert one.shape[0] == 5
                    # grayscale of a gray image is itself up to rounding, which solarizing may enlarge
                    assert torch.equal(one[i], other[0]), (view, i)


def test_jitter_leaves_hue_and_saturation_out_and_policies_change_all_channels_alike() -> None:
    equal = MultiChannel(np.stack([PIXELS[..., 0]] * 5, -1))
    for view in (TwoViews(32), SupervisedView(32, erase=0), SupervisedView(32, policy="three")):
        for seed in range(4):
            with seeded(seed):
                for one in view(equal):
                    assert (one == one[:1]).all()


def test_a_tiff_file_of_too_many_values_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is PIL's, which the user may raise."""
    file = tiff(PIXELS.transpose(2, 0, 1), photometric="minisblack", compression="zlib")
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", lambda *args: pytest.fail("it was read"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS.size // 8 - 1)
    with pytest.raises(Image.DecompressionBombError, match="9,600 values"):
        decode(file, channels=5)
