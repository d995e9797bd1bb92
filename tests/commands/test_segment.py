"""``castssl segment`` with another method than an encoder: its label maps, which ``maps`` reads again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.models.create import create
from castssl.registry import build_segmenter

MERGE = "merge:superpixels=grid:cell=8,sizes=(8,4,2)"


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for path, size in zip(paths, ((64, 48), (40, 40)), strict=True):
        Image.effect_noise(size, 60).convert("RGB").save(path)
    return paths


def test_label_maps_of_a_segmenter_are_read_by_maps(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["segment", *photos, "--segmenter", MERGE, "--out", str(out)]
    assert main(command) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        f"{name}-stage{level}.png" for name in "ab" for level in range(3)
    ]
    merge, maps = build_segmenter(MERGE), build_segmenter(f"maps:{out}")
    for path in photos:
        image = np.asarray(Image.open(path))
        assert np.array_equal(maps(image, Path(path).name), merge(image))
    assert main(command) == 1
    assert "exist and would be replaced" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_flags_of_an_encoder_and_unreadable_images(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["segment", *photos, "--segmenter", MERGE, "--out", str(tmp_path / "out")]
    (tmp_path / "large").mkdir()
    for flags in (["--sizes", "8"], ["--classes"], ["--image-size", "64"], ["--device", "cpu"]):
        assert main([*command, *flags]) == 1
        assert "belong to --weights" in capsys.readouterr().err
    np.save(tmp_path / "a.npy", np.arange(300 * 300).reshape(300, 300))
    Image.new("RGB", (300, 300)).save(tmp_path / "large" / "a.png")
    many = ["segment", str(tmp_path / "large" / "a.png"), "--segmenter", f"maps:{tmp_path}"]
    assert main([*many, "--out", str(tmp_path / "out")]) == 1
    assert "a-stage0.png would have 90000 segments, and 16 bits hold 65535" in capsys.readouterr().err
    Path(photos[0]).write_bytes(b"no image")
    assert main(command) == 1
    assert "1 of 2 images segmented" in capsys.readouterr().out


@pytest.mark.parametrize("place", [0, 1])
def test_an_image_of_more_segments_than_a_file_holds_ends_no_other(
    place: int, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "maps").mkdir()
    for photo in photos:
        np.save(tmp_path / "maps" / f"{Path(photo).stem}.npy", np.zeros(Image.open(photo).size[::-1], int))
    large = tmp_path / "large.png"
    Image.new("RGB", (300, 300)).save(large)
    np.save(tmp_path / "maps" / "large.npy", np.stack([np.arange(90_000).reshape(300, 300)]))
    photos.insert(place, str(large))
    out = tmp_path / "out"
    assert main(["segment", *photos, "--segmenter", f"maps:{tmp_path / 'maps'}", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert "2 of 3 images segmented" in printed.out
    assert "large-stage0.png would have 90000 segments, and 16 bits hold 65535" in printed.err
    assert sorted(path.name for path in out.iterdir()) == ["a-stage0.png", "b-stage0.png"]


def test_more_segments_of_a_model_than_a_file_holds_end_no_other_image(
    photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = create("cast_nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    save_encoder(encoder, tmp_path / "w.safetensors")
    monkeypatch.setattr("castssl.commands.segment.NONE", 20)  # b.png has 16 superpixels, a.png 24.
    flags = ["--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out")]
    assert main(["segment", *photos, *flags, "--image-size", "32"]) == 1
    printed = capsys.readouterr()
    assert "1 of 2 images segmented" in printed.out
    assert "a-stage0.png would have 24 segments" in printed.err
    names = [*(f"b-stage{stage}.png" for stage in range(4)), "b.npz", "b.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_a_drawing_replaces_no_image_that_it_is_of(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    weights = save_encoder(encoder, tmp_path / "encoder.safetensors")
    before = Path(photos[0]).read_bytes()
    command = ["segment", photos[0], "--weights", str(weights), "--out", str(tmp_path), "--overwrite"]
    assert main(command) == 1
    assert "would replace the image" in capsys.readouterr().err
    assert Path(photos[0]).read_bytes() == before


def test_a_file_in_place_of_the_folder_of_results_is_named(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.npz").write_text("mine")
    command = ["segment", *photos, "--segmenter", MERGE, "--out", str(tmp_path / "f.npz")]
    assert main(command) == 1
    assert "f.npz is a file, expected a folder for a-stage0.png; choose" in capsys.readouterr().err


def test_drawings_of_a_folder_keep_its_sub_folders(photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "flat" / "cat").mkdir(parents=True)
    Path(photos[0]).rename(tmp_path / "flat" / "cat" / "a.png")
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    weights = save_encoder(encoder, tmp_path / "encoder.safetensors")
    command = ["segment", str(tmp_path / "flat"), "--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    written = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/*/*")}
    names = ["cat/a.npz", "cat/a.png", *(f"cat/a-stage{stage}.png" for stage in range(4))]
    assert written == set(names)
