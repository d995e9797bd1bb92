"""Weights of a run that has not ended: its folder and its checkpoints, by every reader."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from castssl.checkpoints import load_encoder, read
from castssl.checkpoints.native import Weights, objective_weights
from castssl.cli import main
from castssl.errors import DataError
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3
from castssl.training import checkpoint
from tests.checkpoints.test_load import Bomb

PLACE: dict[str, Any] = {"castssl": "0", "config": "{}", "batches": 1, "module": {}}


@pytest.fixture
def weights() -> Weights:
    moco = MoCoV3(create("nano", image_size=32), hidden=8, out=4)
    return objective_weights(moco, moco.encoder)


def _save(run: Path, weights: Any, step: int = 5, keep: int = 2) -> Path:
    state = {**PLACE, "step": step, "weights": weights}
    return checkpoint.save(run / "checkpoints", state, step=step, keep=keep)


def test_the_newest_whole_checkpoint_is_what_the_run_would_have_written(
    tmp_path: Path, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    run, done = tmp_path / "run", weights.write(tmp_path / "done.safetensors")
    path = _save(run, weights.state_dict())
    (run / "checkpoints" / "step-00000007.pt").write_bytes(b"PK")
    for source in (run, path):
        out = tmp_path / f"{source.name}.safetensors"
        assert main(["convert", str(source), str(out)]) == 0
        assert out.read_bytes() == done.read_bytes()
    assert read(run, which="momentum").encoder.keys() == read(run).encoder.keys()
    note = f"{run} is a run that has not ended; the weights are those of step 5"
    assert caplog.messages == [note], "one note"
    with pytest.raises(DataError, match="run holds no moving average"):
        read(run, ema=True)
    weights.write(run / "encoder.safetensors")
    assert read(run).source == str(run / "encoder.safetensors")


def test_no_tensor_is_stored_twice(tmp_path: Path, weights: Weights) -> None:
    module = dict(weights.now().encoder)
    once, both = (
        checkpoint.save(tmp_path / str(n), {"module": module, **more}, step=1, keep=1).stat().st_size
        for n, more in enumerate(({}, {"weights": {"tensors": dict(module)}}))
    )
    assert both < 1.1 * once


def test_a_replaced_checkpoint_is_not_missed(
    tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, weights.state_dict())
    load = torch.load

    def goes_on(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        _save(tmp_path, weights.state_dict(), step=6, keep=1)
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", goes_on)
    assert read(tmp_path).source.endswith("step-00000006.pt")


def test_what_cannot_be_used_says_why_and_what_to_do(tmp_path: Path, weights: Weights) -> None:
    mark, state = tmp_path / "ran", weights.state_dict()
    cases: list[tuple[object, str]] = [
        (None, r"does not say which model .*; run the command of the run again"),
        ([1], "are damaged"),
        ({"tensors": {"a": 1}, "castssl": "{}"}, "are damaged"),
        ({**state, "castssl": "{}"}, "describe no model"),
        (Bomb(mark), "might run code"),
    ]
    for number, (content, message) in enumerate(cases):
        run = tmp_path / str(number)
        path = _save(run, content)
        with pytest.raises(DataError, match=message):
            read(run)
        with pytest.raises(DataError, match="never unpickles" if "code" in message else message):
            load_encoder(path)
    assert not mark.exists()
    shared = tmp_path / "sharded" / "checkpoints" / "step-00000002"
    shared.mkdir(parents=True)
    torch.save({**PLACE, "step": 2, "module": None}, shared / "place.pt")
    place = {name: value for name, value in PLACE.items() if name != "module"}
    torch.save({**place, "step": 2}, shared / "place.pt")
    for source in (shared, shared.parents[1], shared / "place.pt"):
        with pytest.raises(DataError, match=r"is sharded over the processes .*; run the command"):
            read(source)


def test_the_note_is_a_warning(tmp_path: Path, weights: Weights, caplog: pytest.LogCaptureFixture) -> None:
    _save(tmp_path, weights.state_dict())
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
