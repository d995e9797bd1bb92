"""Settings in a file of weights ask for no more memory than weights of its size need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from castssl.checkpoints import native, read
from castssl.checkpoints.classifier import load_classifier, save_classifier
from castssl.checkpoints.many_labels import load_many_labels
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.registry import build

TREE = LabelTree((2, 3), ((0, 0, 1),))
MANY = LabelTree((3,), (), (("cat", "dog", "car"),), exclusive=False)


def saved(path: Path, spec: str, tree: LabelTree, **changed: Any) -> Path:
    """Weights of this objective, with other options than it was built with."""
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    objective: Any = build("objectives", spec, encoder, tree)
    save_classifier(objective, path, spec=spec, labels=tree)
    checkpoint = read(path)
    checkpoint.options = {**checkpoint.options, **changed}
    return native.write(checkpoint, path)


@pytest.mark.parametrize(
    ("option", "least"),
    [({"memory": 2 * 10**8}, 1526), ({"alignment": 10**8}, 1907), ({"text_dim": 10**8}, 10**4)],
)
def test_what_training_kept_asks_for_little_memory(
    option: dict[str, int], least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "e.safetensors", "taxon-ssl", TREE, **option)
    devices = []
    built = build

    def watched(*args: Any, **options: Any) -> Any:
        devices.append(torch.empty(0).device.type)
        if devices[-1] != "meta":
            pytest.fail("it was built with memory")
        return built(*args, **options)

    monkeypatch.setattr("castssl.checkpoints.classifier.build", watched)
    with pytest.raises(DataError, match=r"a TaxonSSL that takes [\d,]+ MiB beside.*at most 512; ") as raised:
        load_classifier(path)
    assert float(str(raised.value).split("takes ")[1].split(" MiB")[0].replace(",", "")) >= least
    assert devices == ["meta"]


def test_a_large_queue_that_someone_may_have_trained_with_is_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path / "e.safetensors", "taxon-ssl", TREE, memory=10**6, alignment=1000)
    assert load_classifier(path).objective.get_buffer("scores").shape == (2, 10**6)


def test_a_number_of_modules_asks_for_little_memory_and_time(tmp_path: Path) -> None:
    options = {"interact": "stage", "blocks": 10**7}
    path = saved(tmp_path / "e.safetensors", "multilabel:text=learned:4", MANY, **options)
    with pytest.raises(DataError, match=r"a model of more than \d+ modules and parameters, expected about"):
        load_many_labels(path)
    create("nano")  # The limit is gone.
