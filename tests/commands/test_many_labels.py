"""What ``castssl predict`` prints and draws of weights of many labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.checkpoints.classifier import save_classifier
from castssl.cli import main
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.averaged import Averaged
from castssl.registry import build

LABELS = LabelTree((2, 3), (), (("animal", "thing"), ("[cat]", "dog", "car")), exclusive=False)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file that says animal 0.9, car 0.6 and little of the others, whatever it sees."""
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    options = {"text": "learned:8"}
    objective = cast(Averaged[Any], build("objectives", "multilabel", encoder, LABELS, **options))
    head = objective.model.head.linear
    head.weight.data.zero_()
    head.bias.data.copy_(torch.tensor([0.9, 0.1, 0.2, 0.3, 0.6]).logit())
    path = tmp_path / "encoder.safetensors"
    return str(save_classifier(objective, path, spec="multilabel", labels=LABELS, options=options))


def test_all_labels_above_the_threshold_are_printed(
    weights: str, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", photo, "--weights", weights, "--device", "cpu"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "photo.png 0 animal 0.900" in lines
    assert "1 car 0.600" in lines
    assert not any("dog" in line for line in lines)
    assert main(["predict", photo, "--weights", weights, "--device", "cpu", "--threshold", "0.95"]) == 0
    assert "none; animal is the likeliest" in " ".join(capsys.readouterr().out.split())


def test_json_has_the_likeliest(weights: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", photo, f"{photo}.missing", "--weights", weights, "--device", "cpu"]
    assert main([*arguments, "--json", "--top", "4"]) == 1
    out, err = capsys.readouterr()
    (found,) = json.loads(out)
    assert [(one["class"], one["level"], one["index"]) for one in found["labels"]] == [
        *(("animal", 0, 0), ("car", 1, 2), ("dog", 1, 1), ("[cat]", 1, 0))
    ]
    assert found["labels"][0]["probability"] == pytest.approx(0.9)
    assert "missing" in err


def test_the_picture_has_a_row_of_attention_for_each_label(weights: str, photo: str, tmp_path: Path) -> None:
    out = tmp_path / "labels.png"
    arguments = ["predict", photo, "--weights", weights, "--device", "cpu", "--out", str(out), "--overwrite"]
    assert main([*arguments, "--top", "1"]) == 0
    one = Image.open(out).height
    assert main([*arguments, "--top", "3"]) == 0
    assert Image.open(out).height > 2 * one


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--min-confidence", "0.5"], "--min-confidence: .* gives many labels per image"),
        (["--names", "boat"], "weights of its own for each label"),
        (["--names", "boat", "--out", "x.png"], "leave --names or --out out"),
        (["--threshold", "2"], "threshold is a probability"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    flags: list[str], words: str, weights: str, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", photo, "--weights", weights, "--device", "cpu", *flags]) != 0
    assert re.search(words, " ".join(capsys.readouterr().err.split()))


def test_labels_of_other_data_are_scored_by_name(
    tmp_path: Path, weights: str, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.csv").write_text("path,tags\nphoto.png,dog|[cat]\n")
    data = f"csv:{tmp_path / 'data.csv'}?labels=tags"
    flags = ["--weights", weights, "--device", "cpu", "--workers", "0"]
    assert main(["evaluate", data, *flags]) != 0
    assert "--zero-shot" in capsys.readouterr().err
    # These weights have scores of their own for each learned label.
    assert main(["evaluate", data, *flags, "--zero-shot"]) != 0
    assert "head_weights=shared" in capsys.readouterr().err


def test_the_average_precision_of_each_label_is_written(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("[cat]", "dog", "car")
    labels = LabelTree((3,), (), (names,), exclusive=False)
    np.save(tmp_path / "text.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "text.txt").write_text("\n".join(names))
    options = {"text": f"file:{tmp_path / 'text.npy'}"}
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    spec = "multilabel:head_weights=shared"
    objective = cast(Averaged[Any], build("objectives", spec, encoder, labels, **options))
    path = save_classifier(
        objective, tmp_path / "shared.safetensors", spec=spec, labels=labels, options=options
    )
    (tmp_path / "data.csv").write_text("path,tags\nphoto.png,dog|[cat]\n")
    flags = ["--weights", str(path), "--device", "cpu", "--workers", "0", "--out", str(tmp_path / "out")]
    data = f"csv:{tmp_path / 'data.csv'}?labels=tags"
    rows = ["level,label,images,unknown,average_precision", "0,[cat],1,0,1.0", "0,dog,1,0,1.0"]
    for more, last in (["--zero-shot"], []), ([], ["0,car,0,1,"]):
        assert main(["evaluate", data, *flags, *more, "--overwrite"]) == 0
        assert (tmp_path / "out" / "classes.csv").read_text().split() == [*rows, *last]
        assert "[cat] 0 1 100.0" in " ".join(capsys.readouterr().out.split())
