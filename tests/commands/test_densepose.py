"""``castssl densepose``: a table by hand, and what is listed instead of scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from castssl.cli import main
from castssl.metrics.regions import f_score
from tests.datasets import densepose_files


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Label maps of three levels: the true parts, left and right, the whole image."""
    (tmp_path / "maps").mkdir()
    sides = np.broadcast_to(np.arange(24) // 12, (16, 24))
    for number, parts in zip(("139", "785"), densepose_files.maps(), strict=True):
        levels = np.stack([parts, sides, np.zeros_like(parts)])
        np.save(tmp_path / "maps" / f"COCO_val2014_{number:0>12}.npy", levels)
    return tmp_path / "maps"


def test_the_table_is_what_is_computed_by_hand(
    halves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = densepose_files.coco(tmp_path / "coco"), tmp_path / "scores.json"
    assert main(["densepose", f"maps:{halves}", "--data", str(root), "--out", str(out)]) == 0
    shown = capsys.readouterr()
    result = json.loads(out.read_text())[f"maps:{halves}"]
    rows = {row["labels"]: row for row in result["rows"]}
    assert (result["images"], result["unscored"]) == (2, {})
    assert rows[14] == {
        "labels": 14,
        "untrained": False,
        "segments": 2.5,
        "precision": 1,
        "recall": 1,
        "f": 1,
    }
    # Left halves have 192 of 384 pixels: torso 72, head 12; a hand of 32.  All pixels: a person of 84; 32.
    expected = {4: ((72 + 12) / 192 / 2 + 32 / 192, 2), 1: (84 / 384 + 32 / 384, 1)}
    for labels, (precision, segments) in expected.items():
        row = rows[labels]
        assert (row["segments"], row["recall"]) == (segments, 1)
        assert row["precision"] == pytest.approx(precision / 2)
        assert row["f"] == pytest.approx(f_score(precision / 2, 1))
    assert [line.split()[-4:] for line in shown.out.splitlines() if " 14 " in line] == [
        ["14", "100.0", "100.0", "100.0"]
    ]


def test_the_name_of_a_folder_is_no_markup(
    halves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = halves.rename(tmp_path / "m[")
    (tmp_path / "m[" / "a]").mkdir()
    spec = f"maps:{folder}/a]/.."
    assert main(["densepose", spec, "--data", str(densepose_files.coco(tmp_path / "coco"))]) == 0
    shown = "".join(line.strip().split("  ")[0] for line in capsys.readouterr().out.splitlines())
    assert spec.replace(" ", "") in shown.replace(" ", "")


def test_a_level_that_was_never_trained_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("castssl.segmenters.merging.Merge.untrained", 1)
    root = densepose_files.coco(tmp_path)
    assert main(["densepose", "merge:superpixels=grid:cell=4,sizes=(6,4,2)", "--data", str(root)]) == 0
    cells = [line.split()[-4] for line in capsys.readouterr().out.splitlines() if "merge" in line]
    assert cells == ["14", "4", "1*"]


def test_images_that_cannot_be_scored_are_listed(
    halves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = densepose_files.coco(tmp_path / "coco")
    annotations = densepose_files.two_persons()[::2]
    densepose_files.write(
        root / "annotations" / "densepose_coco_2014_train.json", densepose_files.densepose(annotations)
    )
    (root / "val2014" / "COCO_val2014_000000000139.jpg").unlink()
    out = tmp_path / "scores.json"
    flags = ["--data", str(root), "--out", str(out)]
    assert main(["densepose", f"maps:{halves}", "merge", *flags, "--split", "train"]) == 1
    assert all(
        not found["rows"] and len(found["unscored"]) == 2 for found in json.loads(out.read_text()).values()
    )
    told = capsys.readouterr().err
    assert "merge: 2 of 2 images could not be scored" in told
    assert "COCO_val2014_000000000785.jpg: no person in it has body parts" in told
    (halves / "COCO_val2014_000000000785.npy").unlink()
    assert main(["densepose", f"maps:{halves}", "merge:superpixels=grid:cell=4", *flags, "--overwrite"]) == 0
    first, second = json.loads(out.read_text()).values()
    assert (first["images"], second["images"]) == (0, 1)
    assert "has no label maps" in first["unscored"]["val2014/COCO_val2014_000000000785.jpg"]
