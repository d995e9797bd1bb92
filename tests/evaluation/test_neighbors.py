"""Nearest neighbors against a comparison of all pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.errors import ConfigError, DataError
from castssl.evaluation import features
from castssl.evaluation.held_out import Subject, indexed
from castssl.evaluation.neighbors import Neighbors, find_nearest
from castssl.labels import LabelTree
from castssl.visualization.neighbors import FRAME, NEUTRAL, OTHER, RELATED, SAME, draw_neighbors
from tests.evaluation import toys


def naive(rows: torch.Tensor, k: int) -> list[list[int]]:
    nearest = []
    for place, row in enumerate(rows):
        others = [other for other in range(len(rows)) if other != place]
        nearest.append(sorted(others, key=lambda i: -float(torch.cosine_similarity(row, rows[i], 0)))[:k])
    return nearest


@pytest.mark.parametrize("k", [1, 4, 99])
def test_the_nearest_are_those_of_all_pairs(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CELLS", 40)  # blocks of some rows
    rows = torch.randn(17, 5, generator=torch.Generator().manual_seed(0))
    assert find_nearest(rows, k).tolist() == naive(rows, k)


def test_an_image_is_no_neighbor_of_its_copy_alone() -> None:
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert find_nearest(rows, 1).tolist() == [[1], [0], [0]]
    with pytest.raises(ValueError, match="2 rows or more"):
        find_nearest(rows[:1], 1)


def test_shares_are_counted_over_the_images(image_folder: Path) -> None:
    evaluator = Neighbors(k=3)
    evaluation = toys.evaluation(image_folder, evaluator)
    results = evaluation(Subject(toys.Colors()))
    labels = evaluation.labels()
    assert evaluator.positions.tolist() == list(range(len(labels)))
    for level in range(labels.shape[1]):
        same = [
            [labels[i, level] == labels[j, level] for j in row]
            for i, row in enumerate(evaluator.nearest.tolist())
        ]
        assert results[f"neighbors_level{level}"] == pytest.approx(np.mean(same))
        pairs = [
            labels[i, level] == labels[j, level]
            for i in range(len(labels))
            for j in range(len(labels))
            if i != j
        ]
        assert evaluator.chance()[f"neighbors_level{level}"] == pytest.approx(np.mean(pairs))


def test_one_image_has_no_neighbors(image_folder: Path) -> None:
    evaluation = toys.evaluation(image_folder, Neighbors())
    evaluation.held_out = indexed(evaluation.held_out).take([0])
    with pytest.raises(DataError, match="1 images were read, expected 2 or more"):
        evaluation(Subject(toys.Colors()))


def test_a_stage_without_a_class_token_is_refused(image_folder: Path) -> None:
    with pytest.raises(ConfigError, match="stages 0 to 1"):
        toys.evaluation(image_folder, Neighbors(stage=2))(Subject(toys.Colors()))


def test_frames_tell_which_classes_agree() -> None:
    tree = LabelTree((2, 3), ((0, 0, 1),), (("a", "b"), ("c", "d", "e")))
    labels = torch.tensor([[0, 1], [0, 1], [0, 0], [1, 2], [0, -1]])
    photo = Image.new("RGB", (40, 40), (1, 2, 3))
    drawn = np.asarray(
        draw_neighbors(lambda index: photo, [0], {"m": torch.tensor([[1, 2, 3, 4]])}, labels, tree, panel=40)
    )
    frames = {tuple(color) for color in drawn.reshape(-1, 3).tolist()}
    assert {SAME, RELATED, OTHER, NEUTRAL} <= frames
    row = [tuple(color) for color in drawn[(drawn == SAME).all(-1).argmax(0).max() + FRAME // 2].tolist()]
    order = [
        color
        for place, color in enumerate(row)
        if color != row[place - 1] and color in (SAME, RELATED, OTHER, NEUTRAL)
    ]
    assert list(dict.fromkeys(order)) == [NEUTRAL, SAME, RELATED, OTHER]


def test_the_command_draws_two_models(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4, 2), superpixels="grid:cell=8")
        save_encoder(encoder, tmp_path / name / "encoder.safetensors")
    flags = [
        "--weights",
        str(tmp_path / "a"),
        "--weights",
        str(tmp_path / "b"),
        "--queries",
        "2",
        "--neighbors",
        "3",
    ]
    out = tmp_path / "neighbors.png"
    call = ["neighbors", str(image_folder), *flags, "--workers", "0", "--device", "cpu", "--out", str(out)]
    assert main(call) == 0
    assert Image.open(out).width > 7 * 112
    shown = capsys.readouterr().out
    assert "chance level" in shown
    assert "level 1" in shown
    table = ["file,tags", *(f"{image},x|y" for image in image_folder.glob("val/*/*/*.png"))]
    (tmp_path / "many.csv").write_text("\n".join(table))
    many = f"csv:{tmp_path}/many.csv?labels=tags"
    assert main(["neighbors", many, "--weights", str(tmp_path / "a"), *call[6:], "--overwrite"]) == 0
    assert "level" not in capsys.readouterr().out
    assert main([*call, "--overwrite", "--weights", str(tmp_path / "a")]) == 1
    assert "same model twice" in capsys.readouterr().err
