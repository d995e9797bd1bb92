"""``castssl compare``: rows of images, levels of several segmenters beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.cli import main
from castssl.visualization.draw import CAPTION, GAP

MERGE = "merge:superpixels=grid:cell=8,sizes=(8,4,2)"


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    paths = []
    for number, size in enumerate(((64, 48), (40, 40))):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.effect_noise(size, 60).convert("RGB").save(paths[-1])
    return paths


def test_a_row_has_the_image_and_the_coarsest_levels_at_full_size(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid.png"
    flags = ["--segmenter", MERGE, f"{MERGE},by=neighbors", "--levels", "2"]
    assert main(["compare", *photos, *flags, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"merge 1: {MERGE}\n" in shown
    assert f"merge 2: {MERGE},by=neighbors\n" in shown
    picture = np.asarray(Image.open(out))
    row = CAPTION + 3 * GAP
    assert picture.shape == (48 + 40 + 2 * row + 3 * GAP, 5 * (64 + GAP) + 3 * GAP, 3)
    photo = np.asarray(Image.open(photos[0]))
    assert np.array_equal(picture[2 * GAP :][:48, 2 * GAP :][:, :64], photo)
    panels = [picture[2 * GAP :][:48, 2 * GAP + at * (64 + GAP) :][:, :64] for at in range(1, 5)]
    colored = [(np.ptp(panel.astype(int), 2) > 30).mean() for panel in panels]
    assert min(colored) > 0.5


def test_an_unreadable_image_is_left_out(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(photos[0]).write_bytes(b"no image")
    out = tmp_path / "grid.png"
    assert main(["compare", *photos, "--segmenter", MERGE, "--panel", "32", "--out", str(out)]) == 1
    assert Image.open(out).height == 32 + CAPTION + 3 * GAP + 2 * GAP
    absent = tmp_path / "absent.png"
    assert main(["compare", photos[0], "--segmenter", MERGE, "--out", str(absent)]) == 1
    assert not absent.exists()
    assert capsys.readouterr().out.endswith("0 of 1 images segmented\n")
    assert (
        main(["compare", photos[1], "--segmenter", MERGE, "--levels", "0", "--out", str(tmp_path / "x.png")])
        == 1
    )


def test_images_of_one_name_have_their_own_label_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = [tmp_path / "maps" / folder / "1.npy" for folder in "ab"]
    for folder, path in zip("ab", maps, strict=True):
        for parent in (tmp_path / folder, path.parent):
            parent.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / folder / "1.png")
    command = ["compare", *(str(tmp_path / folder / "1.png") for folder in "ab"), "--overwrite"]
    command += ["--segmenter", f"maps:{tmp_path / 'maps'}", "--out", str(tmp_path / "grid.png")]
    for other in (False, True):
        np.save(maps[0], np.tri(32, dtype=int))
        np.save(maps[1], np.tri(32, dtype=int) * (not other))
        assert main(command) == 0
        picture = np.asarray(Image.open(tmp_path / "grid.png"))[GAP:]
        first, second = np.split(picture, 2)
        assert np.array_equal(first, second) != other
    maps[0].rename(tmp_path / "maps" / "1.npy")
    maps[1].unlink()
    assert main(command) == 1
    assert "would be those of two images, 'a/1.png' and 'b/1.png'" in capsys.readouterr().err
