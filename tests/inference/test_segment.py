"""One image's hierarchy: at the image's own size, consistent between stages, from every kind of source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints import Checkpoint
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.contracts import Encoder
from castssl.errors import ConfigError, DataError
from castssl.inference.photos import read_photo
from castssl.inference.segment import Segmentation, segment
from castssl.models.sizes import with_sizes
from castssl.testing import samples
from castssl.visualization.photographs import photographs

SUPERPIXELS, FILE = "seeds:count=64,bins=5,iterations=2", "encoder.safetensors"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return castssl.create("nano", image_size=64)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return photographs()[0][1].resize((210, 130))


@pytest.fixture(scope="module")
def found(encoder: Encoder, photo: Image.Image) -> Segmentation:
    return segment(photo, encoder, superpixels=SUPERPIXELS)


def test_labels_have_the_size_of_the_image(found: Segmentation) -> None:
    assert len(found) == 4
    for stage, size in enumerate((64, 32, 16, 8)):
        labels = found.labels(stage)
        assert labels.shape == (130, 210)
        assert labels.dtype == torch.int64
        assert labels.max() < size
        assert found.features(stage).shape == (size, 64)
    assert torch.equal(found.labels(-1), found.labels(3))


def test_a_segments_parent_is_the_segment_around_it(found: Segmentation) -> None:
    for stage in range(3):
        fine, coarse, parents = found.labels(stage), found.labels(stage + 1), found.parents(stage)
        for label in np.unique(fine).tolist():
            if label >= 0:
                assert np.unique(coarse[fine == label]).tolist() == [int(parents[label])]
    with pytest.raises(IndexError, match="coarsest"):
        found.parents(-1)
    with pytest.raises(IndexError, match="stage 4 of 4"):
        found.labels(4)


def test_labels_are_the_encoders_own_where_nothing_is_resized(encoder: Encoder, photo: Image.Image) -> None:
    same = segment(photo.resize((136, 136)), encoder, superpixels=SUPERPIXELS)
    for stage in range(4):
        assert torch.equal(same.labels(stage), same.hierarchy.labels(stage)[0])


@pytest.mark.parametrize("size", [(1, 1), (400, 10), (7, 300), (64, 65)])
def test_any_size_and_shape(encoder: Encoder, photo: Image.Image, size: tuple[int, int]) -> None:
    found = segment(photo.resize(size), encoder, superpixels=SUPERPIXELS)
    assert found.labels(-1).shape == (size[1], size[0])
    assert torch.isfinite(found.features(-1)).all()


def test_a_path_an_array_and_an_image_are_the_same(
    tmp_path: Path, encoder: Encoder, photo: Image.Image
) -> None:
    photo.save(tmp_path / "a photo.png")
    given = (photo, np.asarray(photo), str(tmp_path / "a photo.png"), tmp_path / "a photo.png")
    first, *others = [segment(image, encoder, superpixels=SUPERPIXELS) for image in given]
    assert all(torch.equal(first.labels(2), other.labels(2)) for other in others)


def test_a_file_is_turned_upright(tmp_path: Path, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    assert read_photo(tmp_path / "turned.jpg").size == (photo.height, photo.width)


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 64), (128, 128)), ((300, 200), (300, 200)), ((2000, 1000), (768, 384))]
)
def test_the_input_has_the_size_of_the_image_within_limits(
    encoder: Encoder, photo: Image.Image, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    assert tuple(segment(photo.resize(size), encoder, superpixels="grid:cell=32").seen.shape[:0:-1]) == shown
    small = segment(photo.resize(size), encoder, superpixels="grid:cell=32", image_size=32)
    assert min(small.seen.shape[1:]) == 32


def test_arrays_tensors_lists_and_batches_are_the_same_images(encoder: Encoder, photo: Image.Image) -> None:
    pixels, gray = np.asarray(photo), np.asarray(photo.convert("L"))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    opaque = np.dstack([pixels, np.full(gray.shape, 255, np.uint8)])
    colored: list[Any] = [pixels, pixels / 255, tensor, tensor / 255, opaque]
    assert all(np.array_equal(np.asarray(read_photo(image)), pixels) for image in colored)
    grays: list[Any] = [gray, gray[..., None], torch.from_numpy(gray.copy())[None]]
    grays.append(read_photo(gray.astype(np.uint16) * 16, (0, 255 * 16)))
    assert all(np.array_equal(np.asarray(read_photo(image)), np.dstack([gray] * 3)) for image in grays)
    spec = "grid:cell=32"
    expected = segment(photo, encoder, superpixels=spec).labels(2)
    batch: Any
    for batch in ([photo, pixels], (photo, tensor), np.stack([pixels] * 2), torch.stack([tensor] * 2)):
        found = segment(batch, encoder, superpixels=spec)
        assert len(found) == 2
        assert all(torch.equal(each.labels(2), expected) for each in found)
    assert segment([], encoder) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((3, 8, 8), np.uint8), "a tensor"),
        (np.zeros((4, 4), np.uint16), "value_range"),
        (np.full((4, 4, 3), 200.0), "value_range"),
        (np.full((4, 4, 3), np.nan), "value_range"),
        (torch.full((3, 4, 4), -2.1), "denormalize"),
        (torch.zeros(4, 4, 3), r"a tensor \(3, H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), "a file's path"),
        (np.zeros((4, 4), bool), "uint8"),
    ],
)
def test_other_arrays_are_refused(encoder: Encoder, wrong: object, words: str) -> None:
    with pytest.raises(DataError, match=rf"expected.*{words}"):
        segment(wrong, encoder)  # type: ignore[call-overload]


def test_an_open_image_keeps_its_draft_and_its_file_is_closed(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "photo.jpg")
    for mode, size, expected in (("RGB", (100, 60), (105, 65)), ("L", None, photo.size)):
        opened = Image.open(tmp_path / "photo.jpg")
        opened.draft(mode, size)
        read = read_photo(opened)
        assert read.size == expected
        assert (np.ptp(np.asarray(read), -1) == 0).all() == (mode == "L")
        assert opened.fp is None


def test_sizes_and_superpixels_can_be_others(encoder: Encoder, photo: Image.Image) -> None:
    many = "seeds:count=144,bins=5,iterations=2"
    with pytest.raises(ConfigError, match="room for 64"):
        segment(photo.resize((64, 64)), encoder, superpixels=many, sizes=encoder.sizes)
    assert segment(photo, encoder, superpixels=many).features(0).shape[0] > 64
    found = segment(photo, encoder, superpixels=many, sizes=(144, 50, 20, 5), image_size=96)
    assert found.seen.shape[-2] == 96
    assert found.features(-1).shape == (5, 64)
    assert 64 < found.labels(0).max() < 144


def test_a_run_folder_and_a_file_say_how_they_were_trained(tmp_path: Path, encoder: Encoder) -> None:
    save_encoder(castssl.create(replace(encoder.config, superpixels=SUPERPIXELS)), tmp_path / FILE)
    for source in (tmp_path, str(tmp_path / FILE)):
        config = castssl.load_encoder(source).config
        assert (config.superpixels, config.image_size) == (SUPERPIXELS, 64)
    assert castssl.load_encoder(encoder) is encoder
    assert encoder.config.image_size == 64
    with pytest.raises(DataError, match="no weights at"):
        castssl.load_encoder(tmp_path / "elsewhere")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(DataError, match="not a complete safetensors file"):
        castssl.load_encoder(tmp_path / "cut.safetensors")


def test_a_models_superpixels_are_those_it_was_trained_with(
    tmp_path: Path, encoder: Encoder, photo: Image.Image, found: Segmentation
) -> None:
    other = with_sizes(encoder, encoder.sizes)
    other.config = replace(encoder.config, superpixels=SUPERPIXELS)
    save_encoder(other, tmp_path / FILE)
    for model in (tmp_path, tmp_path / FILE, other, Checkpoint(other.config, dict(encoder.state_dict()))):
        again = segment(photo, model)
        assert all(torch.equal(again.labels(stage), found.labels(stage)) for stage in range(4))
    assert not torch.equal(segment(photo, encoder).labels(0), found.labels(0))
    with pytest.raises(DataError, match=r"expected an encoder, .* as the model, got a int"):
        segment(photo, 5)  # type: ignore[call-overload]
    with pytest.raises(DataError, match=r"got a Linear; an objective has \.encoder"):
        segment(photo, torch.nn.Linear(2, 2))


def test_the_command_writes_images_and_label_maps(
    tmp_path: Path, encoder: Encoder, photo: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    other = castssl.create(replace(encoder.config, superpixels=SUPERPIXELS))
    save_encoder(other, tmp_path / FILE)
    photo.save(tmp_path / "photo.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = [str(tmp_path / "broken.png"), str(tmp_path / "photo.png")]
    again = [*files[1:], "--weights", str(tmp_path), "--segments", "144", "--out", str(tmp_path / "many")]
    assert main(["segment", *again]) == 0
    assert np.array(Image.open(tmp_path / "many" / "photo-stage0.png")).max() > 64
    capsys.readouterr()
    code = main(["segment", *files, "--weights", str(tmp_path), "--out", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert code == 1
    assert "broken.png" in output.err
    assert "1 of 2 images segmented" in output.out
    expected = segment(photo, tmp_path)
    for stage in range(4):
        written = torch.from_numpy(
            np.array(Image.open(tmp_path / "out" / f"photo-stage{stage}.png")).astype(int)
        )
        labels = expected.labels(stage)
        assert torch.equal(written.where(written < 65535, -1), labels)
    with np.load(tmp_path / "out" / "photo.npz") as arrays:
        np.testing.assert_array_equal(arrays["parents0"], expected.parents(0).numpy())
        np.testing.assert_allclose(arrays["features3"], expected.features(3).numpy(), atol=1e-5)
    assert Image.open(tmp_path / "out" / "photo.png").width > 1000


def test_images_of_one_name_are_refused(tmp_path: Path) -> None:
    code = main(["segment", "a/x.jpg", "b/x.png", "--weights", "none", "--out", str(tmp_path / "out")])
    assert code == 1
    assert not (tmp_path / "out").exists()


def test_parents_that_the_encoder_tells_by_number(photo: Image.Image) -> None:
    view = samples.view(1)
    view = view._replace(segments=view.segments.clamp(max=14))
    with torch.no_grad():
        hierarchy = samples.SamplePyramid()(view)
    found = Segmentation(photo, view.image[0].byte(), hierarchy)
    assert found.parents(0).tolist() == [*(token // 2 for token in range(15)), -1]
    assert found.parents(1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
