"""Files of models of many labels: round trips, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from castssl.checkpoints import load_encoder, native, read
from castssl.checkpoints.classifier import load_classifier, save_classifier
from castssl.checkpoints.many_labels import has_many_labels, load_many_labels
from castssl.checkpoints.native import save_encoder
from castssl.errors import CastError, DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.averaged import Averaged
from castssl.registry import build

LABELS = LabelTree((3,), (), (("cat", "dog", "car"),), exclusive=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of HSVLT on a small CAST."""
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    objective = cast(
        Averaged[Any], build("objectives", "multilabel:norm=pre", encoder, LABELS, text="learned:8", ema=0.5)
    )
    torch.nn.init.normal_(objective.model.head.linear.bias)
    file, options = tmp_path / "encoder.safetensors", {"text": "learned:8"}
    return save_classifier(objective, file, spec="multilabel:norm=pre", labels=LABELS, options=options)


def test_what_is_loaded_is_what_was_saved(path: Path) -> None:
    state = torch.random.get_rng_state()
    loaded = load_many_labels(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    checkpoint = read(path)
    assert has_many_labels(checkpoint)
    assert (loaded.labels, loaded.superpixels, loaded.image_size) == (LABELS, "grid:cell=8", 32)
    assert not loaded.objective.training
    assert set(loaded.objective.branches()) == {"base"}
    for name, value in loaded.objective.heads().items():
        assert torch.equal(checkpoint.heads[name], value)
    for name, value in load_encoder(path).state_dict().items():
        assert torch.equal(loaded.objective.encoder.state_dict()[name], value)


def test_what_is_no_model_of_many_labels_is_refused(path: Path, tmp_path: Path) -> None:
    alone = save_encoder(load_encoder(path), tmp_path / "alone.safetensors")
    with pytest.raises(
        DataError, match=r"no model of many labels per image; recipes/multilabel\.py trains one"
    ):
        load_many_labels(alone)
    with pytest.raises(DataError, match="gives many labels per image, not one path of classes"):
        load_classifier(path)


@pytest.mark.parametrize("options", [{"stored": 10**15}, {"stored": 9}, {"norm": "post"}])
def test_settings_of_another_model_are_refused_before_memory_is_taken(
    path: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = read(path)
    checkpoint.options = {**checkpoint.options, **options}
    native.write(checkpoint, tmp_path / "other.safetensors")
    with pytest.raises(CastError):
        load_many_labels(tmp_path / "other.safetensors")


def test_a_file_does_not_make_the_reader_write(path: Path, tmp_path: Path) -> None:
    checkpoint = read(path)
    checkpoint.options = {**checkpoint.options, "store": str(tmp_path / "written.safetensors"), "stored": 0}
    native.write(checkpoint, tmp_path / "other.safetensors")
    load_many_labels(tmp_path / "other.safetensors")
    assert not (tmp_path / "written.safetensors").exists()


@pytest.mark.parametrize("text", ["file:/etc/passwd", "clip:ViT-B-32/openai", "bert:someone/model"])
def test_a_file_does_not_make_the_reader_read_another(
    path: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_source(*args: object, **options: object) -> None:
        pytest.fail("a text source was read")

    monkeypatch.setattr("castssl_multilabel.objective.embeddings", read_source)
    checkpoint = read(path)
    options = {name: value for name, value in checkpoint.options.items() if name != "stored"}
    checkpoint.options = {**options, "text": text}
    native.write(checkpoint, tmp_path / "other.safetensors")
    vectors = load_many_labels(tmp_path / "other.safetensors").objective.heads()["vectors"]
    assert torch.equal(vectors, checkpoint.heads.pop("vectors"))
    native.write(checkpoint, tmp_path / "other.safetensors")
    with pytest.raises(
        DataError, match=r"no label embeddings: got vectors of shape None, .* is not read; copy"
    ):
        load_many_labels(tmp_path / "other.safetensors")
