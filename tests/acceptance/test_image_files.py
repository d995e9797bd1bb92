"""Images as users have them: on their side, of more than 8 bits, damaged, huge, or not images at all."""

from __future__ import annotations

import io
import json
import resource
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

import castssl
from castssl.checkpoints.hub import save_pretrained
from castssl.errors import DataError
from tests.acceptance.conftest import Command

SPEC = "seeds:count=64,bins=5,iterations=2"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)
NANO = [
    *("--image-size", "32", "--batch-size", "16", "--epochs", "1", "--warmup-epochs", "0", "--workers", "0"),
    *("--repeats", "1", "--model", "nano", "--sizes", "16", "8", "4"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2"),
]


@pytest.fixture(scope="module")
def encoder() -> Any:
    return castssl.create("nano", image_size=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, encoder: Any) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_pretrained(encoder, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, process: Command) -> Path:
    """A run on images that are floats from 0 to 1, one of them to 2, and a pointer of Git LFS."""
    root, out = (tmp_path_factory.mktemp("deep") / name for name in ("data", "run"))
    shutil.copytree(image_folder, root)
    place = next((root / "train").rglob("*.png")).parent
    for name, factor in (("good.tif", 1), ("bright.tif", 2)):
        Image.fromarray((RAMP * factor).astype(np.float32)).save(place / name)
    (place / "pointer.jpg").write_bytes(POINTER)
    data = f"folder:{root}?range=0:1"
    flags = ["--data", data, *NANO, "--max-bad", "0.5", "--out", out]
    done = process("recipes/hcast.py", *flags)
    assert done.code == 0, done.err[-3000:]
    return out


def pixels(image: Any, encoder: Any, **options: Any) -> NDArray[np.uint8]:
    """What the encoder is given of an image, before it is resized: uint8 (H, W, 3)."""
    return np.asarray(castssl.segment(image, encoder, superpixels=SPEC, **options).image)


def tiff(values: NDArray[Any], **tags: float) -> Image.Image:
    """A TIFF image, as it is opened, with SMinSampleValue and SMaxSampleValue."""
    info, stream = TiffImagePlugin.ImageFileDirectory_v2(), io.BytesIO()
    for number, name in ((340, "low"), (341, "high")):
        if name in tags:
            info.tagtype[number] = 11 if values.dtype == np.float32 else 9
            info[number] = tags[name] if values.dtype == np.float32 else int(tags[name])
    Image.fromarray(values).save(stream, "tiff", tiffinfo=info)
    return Image.open(stream)


def twelve_bits(values: NDArray[np.int64]) -> bytes:
    """A gray TIFF file of 12 bits a pixel, without compression."""
    pairs = values.reshape(-1, 2).tolist()
    packed = bytes(byte for a, b in pairs for byte in (a >> 4, (a & 15) << 4 | b >> 8, b & 255))
    height, width = values.shape
    short = [(258, 12), (259, 1), (262, 1), (277, 1)]
    long = [(256, width), (257, height), (273, 8), (278, height), (279, len(packed))]
    tags = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in short}
    tags |= {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in long}
    entries = b"".join(tags[tag] for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", 9) + entries + bytes(4)


def on_its_side() -> tuple[Image.Image, Image.Exif]:
    """An image that is dark at its left, and EXIF that turns it by a quarter: dark at its top."""
    stored = Image.fromarray(np.tile(np.arange(120, dtype=np.uint8)[None, :, None] * 2, (80, 1, 3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    return stored, exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "jfif", "avif"])
def test_files_and_pil_images_are_turned_upright_once(tmp_path: Path, encoder: Any, suffix: str) -> None:
    stored, exif = on_its_side()
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif)
    expected = np.asarray(stored.transpose(Image.Transpose.ROTATE_270)).astype(int)
    with Image.open(path) as opened:
        copied = opened.convert("RGB")
        for given in (path, opened, copied):
            found = pixels(given, encoder)
            assert found.shape == (120, 80, 3)
            assert np.abs(found - expected).mean() < 4
    upright = castssl.segment(path, encoder, superpixels=SPEC).image
    assert pixels(upright, encoder).shape == (120, 80, 3)


def test_garbage_in_exif_does_not_make_an_image_fail(tmp_path: Path, encoder: Any) -> None:
    stored, _ = on_its_side()
    for number, exif in enumerate(
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x40garbage", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff")
    ):
        stored.save(tmp_path / f"{number}.jpg", exif=exif)
        assert pixels(tmp_path / f"{number}.jpg", encoder).shape == (80, 120, 3)


def test_a_mask_fits_the_upright_or_the_stored_image(tmp_path: Path, command: Command) -> None:
    stored, exif = on_its_side()
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    stored.save(images / "a.jpg", exif=exif)
    half = np.zeros((80, 120), np.uint8)
    half[:, 60:] = 255  # The stored image's right is the upright one's lower half.
    upright = Image.fromarray(half).transpose(Image.Transpose.ROTATE_270)
    scores = []
    for mask in (Image.fromarray(half), upright):
        mask.save(masks / "a.png")
        flags = ["--masks", masks, "--backends", "grid:cell=16", "--image-size", "64", "--rounds", "1"]
        done = command("superpixels", images, *flags, "--device", "cpu")
        assert done.code == 0, done.err
        scores.append(done.out.split("grid:cell=16")[1].split()[4:7])
    assert scores[0] == scores[1]
    Image.fromarray(half[:, :100]).save(masks / "a.png")
    done = command("superpixels", images, *flags, "--device", "cpu")
    assert done.code == 1
    assert "the mask has 100 x 80 pixels, expected 80 x 120" in done.err


def test_more_than_8_bits_are_scaled_by_what_the_file_declares(tmp_path: Path, encoder: Any) -> None:
    expected = np.rint(RAMP * 255)
    (tmp_path / "a.tif").write_bytes(twelve_bits(np.rint(RAMP * 4095).astype(np.int64)))
    signed = np.rint(RAMP * 100_000).astype(np.int32)
    float_ = (RAMP * 1.5).astype(np.float32)
    for given in (
        tmp_path / "a.tif",
        Image.fromarray(np.rint(RAMP * 65535).astype(np.uint16)),
        tiff(signed, low=0, high=100_000),
        tiff(float_, low=0, high=1.5),
    ):
        found = pixels(given, encoder)
        assert np.abs(found - expected[..., None]).max() <= 1
    dark = np.full((64, 64), 100, np.uint16)
    dark[0, 0] = 256
    assert (
        pixels(Image.fromarray(dark), encoder)[1:].max()
        == pixels(Image.fromarray(np.full((64, 64), 100, np.uint16)), encoder).max()
    )


def test_a_range_is_declared_where_the_file_does_not_say(
    tmp_path: Path, encoder: Any, weights: Path, command: Command
) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray((RAMP * 1.0001).astype(np.float32)).save(path)
    with pytest.raises(DataError, match=r"does not say which are black and white; .*--range LOW:HIGH"):
        pixels(path, encoder)
    found = pixels(path, encoder, value_range=(0, 1))
    assert np.abs(found - np.rint(RAMP * 255)[..., None]).max() <= 1
    flags = ["--weights", weights, "--superpixels", SPEC, "--out", tmp_path / "out", "--device", "cpu"]
    for options, code in (([], 1), (["--range", "0:1.1"], 0), (["--bits", "x"], 1), (["--range", "1:1"], 1)):
        done = command("segment", path, *flags, *options)
        assert done.code == code
        assert "Traceback" not in done.err


def test_other_images_go_on_after_a_bomb_and_a_pointer(
    tmp_path: Path, weights: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    Image.new("1", (200, 200)).save(tmp_path / "bomb.png")
    (tmp_path / "pointer.jpg").write_bytes(POINTER)
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    names = [tmp_path / name for name in ("bomb.png", "pointer.jpg", "phone.heic", "good.png")]
    flags = ["--weights", weights, "--superpixels", SPEC, "--device", "cpu", "--out", tmp_path / "out"]
    done = command("segment", *names, *flags)
    assert done.code == 1
    assert "1 of 4 images segmented" in done.out
    assert "git lfs pull" in done.err
    assert "40000 pixels" in done.err
    assert "pillow-heif" in done.err


def test_a_run_lists_what_was_replaced_and_what_was_clipped(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    listed = {line["event"]: line for line in lines if "image" in line}
    assert listed.keys() == {"unreadable", "clipped"}
    assert listed["unreadable"]["image"].endswith("pointer.jpg")
    assert "git lfs pull" in listed["unreadable"]["reason"]
    assert listed["clipped"]["image"].endswith("bright.tif")
    assert "outside 0:1" in listed["clipped"]["reason"]
    assert not (run / "unreadable.txt").exists()


def test_predict_goes_on_and_takes_little_memory_for_a_slim_image(
    tmp_path: Path, run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (1, 200_000), "red").save(tmp_path / "slim.png")
    Image.new("1", (700, 700)).save(tmp_path / "bomb.png")
    stored, exif = on_its_side()
    stored.save(tmp_path / "side.png", exif=exif)
    stored.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    names = [tmp_path / f"{name}.png" for name in ("bomb", "slim", "side", "upright")]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = command("predict", *names, "--weights", run, "--device", "cpu", "--json")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    assert done.code == 1
    assert "bomb.png" in done.err
    slim, side, upright = json.loads(done.out)
    assert slim["image"].endswith("slim.png")
    assert side["path"] == upright["path"]
