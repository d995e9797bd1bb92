from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from castssl.errors import CastError, DataError
from castssl.training import checkpoint

CPU = torch.device("cpu")


def _save(folder: Path, step: int, *, keep: int = 2, **state: Any) -> Path:
    return checkpoint.save(folder, {"step": step, **state}, step=step, keep=keep)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_and_the_latest_is_found(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    _save(tmp_path, 9, weights={"a": torch.arange(3)}, nothing=None, pair=(1, "x"))
    path = _save(tmp_path, 10)
    assert checkpoint.latest(tmp_path) == path == checkpoint.path_of(tmp_path, 10)
    found = checkpoint.read(tmp_path / "step-00000009.pt")
    assert torch.equal(found["weights"]["a"], torch.arange(3))
    assert (found["step"], found["nothing"], found["pair"]) == (9, None, (1, "x"))


def test_only_the_latest_are_kept_and_strangers_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.pt.bak").touch()
    (tmp_path / "notes.txt").touch()
    for step in (1, 2, 3, 100_000_000):
        _save(tmp_path, step, keep=2)
    expected = ["notes.txt", "step-00000001.pt.bak", "step-00000003.pt", "step-100000000.pt"]
    assert _names(tmp_path) == expected


def test_half_written_files_are_passed_over_and_cleared_away(tmp_path: Path) -> None:
    whole = _save(tmp_path, 5, weights=torch.rand(1000))
    (tmp_path / "step-00000007.pt").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "step-00000008.pt").touch()
    (tmp_path / ".step-00000009.pt.partial").touch()
    assert checkpoint.latest(tmp_path) == whole
    _save(tmp_path, 6, keep=2)
    assert _names(tmp_path) == ["step-00000005.pt", "step-00000006.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path) -> None:
    before = _save(tmp_path, 1, weights=torch.rand(10))
    content = before.read_bytes()
    (tmp_path / ".step-00000002.pt.partial").symlink_to("/dev/full")
    with pytest.raises(CastError) as caught:
        _save(tmp_path, 2, weights=torch.rand(100_000))
    assert "step-00000002.pt (No space left on device)" in str(caught.value)
    assert "earlier files are whole" in str(caught.value)
    assert _names(tmp_path) == ["step-00000001.pt"]
    assert before.read_bytes() == content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_only_at_the_flush_is_told(tmp_path: Path) -> None:
    (tmp_path / ".step-00000002.pt.partial").symlink_to("/dev/full")
    with pytest.raises(CastError, match="No space left"):
        _save(tmp_path, 2)
    assert _names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_nobody_may_write_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CastError, match="Permission denied"):
        _save(tmp_path, 1)


def test_a_bug_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        _save(tmp_path, 1, broken=lambda: None)
    assert _names(tmp_path) == []


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.putenv, ("CASTSSL_EVIL", "1")


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save({"step": _Evil()}, path)
    with pytest.raises(DataError) as caught:
        checkpoint.read(path)
    assert "step-00000001.pt holds more than tensors and plain values" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "CASTSSL_EVIL" not in os.environ


def test_a_damaged_or_strange_file_is_named(tmp_path: Path) -> None:
    path = _save(tmp_path, 3, weights=torch.rand(1000))
    torch.save([1], tmp_path / "list.pt")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"step-00000003\.pt.*delete it"):
        checkpoint.read(path)
    with pytest.raises(DataError, match="holds a list"):
        checkpoint.read(tmp_path / "list.pt")


def _draws() -> list[Any]:
    return [random.random(), float(np.random.normal()), torch.rand(3).tolist()]  # noqa: NPY002


def test_random_streams_go_on_through_a_file(tmp_path: Path) -> None:
    np.random.normal()  # noqa: NPY002 - leaves half a pair behind, which is part of the state
    path = _save(tmp_path, 1, random=checkpoint.random_state(CPU))
    expected = _draws()
    assert _draws() != expected
    checkpoint.set_random_state(checkpoint.read(path)["random"], CPU)
    assert _draws() == expected


def test_another_model_is_told_and_the_same_is_filled(tmp_path: Path) -> None:
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.rand(4, 3))
    state: dict[str, Tensor] = source.state_dict()
    checkpoint.load_module(target, state, tmp_path)
    assert torch.equal(target.running_mean, source.running_mean)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="another model than Linear"):
        checkpoint.load_module(nn.Linear(3, 3), state, tmp_path)
