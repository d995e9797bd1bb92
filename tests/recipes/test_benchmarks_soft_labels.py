"""The benchmark of labels prints both kinds; its encoder has random weights, and its figures mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import castssl
from castssl.checkpoints.native import save_encoder
from recipes.benchmarks.soft_labels import Config, main


@pytest.mark.recipe
def test_both_kinds_of_labels_are_measured(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4, 2), superpixels="grid:cell=8")
    weights = save_encoder(encoder, tmp_path / "encoder.safetensors")
    main(Config(data=f"folder:{image_folder}", weights=str(weights)))
    lines = (line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines())
    numbers = {name.strip(): [float(cell) for cell in cells] for name, *cells in filter(None, lines)}
    assert numbers["nestedness"][0] == 100 > numbers["nestedness"][1]
    finest, coarsest = numbers["region mIoU, 16 segments"], numbers["region mIoU, 2 segments"]
    assert finest[0] == finest[1]
    assert coarsest[0] != coarsest[1]
