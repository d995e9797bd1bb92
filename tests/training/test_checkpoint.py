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

from castssl import step_files
from castssl.errors import CastError, DataError
from castssl.training import checkpoint
from castssl.training.random_state import random_state, set_random_state

CPU = torch.device("cpu")


def _save(folder: Path, step: int, *, keep: int = 2, **state: Any) -> Path:
    return checkpoint.save(folder, {"step": step, **state}, step=step, keep=keep)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_the_latest_are_kept_and_strangers_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.pt.bak").touch()
    (tmp_path / "notes.txt").touch()
    for step in (1, 2, 3, 100_000_000):
        _save(tmp_path, step, keep=2)
    expected = ["notes.txt", "step-00000001.pt.bak", "step-00000003.pt", "step-100000000.pt"]
    assert _names(tmp_path) == expected


def test_damaged_files_are_replaced_by_the_next_save_and_a_new_file_of_that_name_stays(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 3):
        path = _save(tmp_path, step, keep=3, weights=torch.rand(100))
    content = bytearray(path.read_bytes())
    content[content.index(b"data/0") + 200] ^= 1
    path.write_bytes(content)
    found = step_files.latest(tmp_path)
    assert (found.path, [*found.damaged]) == (tmp_path / "step-00000002.pt", [path])
    assert "step-00000003.pt is damaged (the check sum of" in found.story()[0]
    checkpoint.save(tmp_path, {"step": 4}, step=4, keep=3, damaged=found.damaged)
    assert _names(tmp_path) == ["step-00000001.pt", "step-00000002.pt", "step-00000004.pt"]
    checkpoint.save(tmp_path, {"step": 4}, step=4, keep=3, damaged=[tmp_path / "step-00000004.pt"])
    assert "step-00000004.pt" in _names(tmp_path)


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


def _draws() -> list[Any]:
    return [random.random(), float(np.random.normal()), torch.rand(3).tolist()]  # noqa: NPY002


def test_random_streams_go_on_through_a_file(tmp_path: Path) -> None:
    np.random.normal()  # noqa: NPY002 - leaves half a pair behind, which is part of the state
    path = _save(tmp_path, 1, random=random_state(CPU))
    expected = _draws()
    assert _draws() != expected
    set_random_state(step_files.read(path)["random"], CPU)
    assert _draws() == expected


def test_another_model_is_told_and_the_same_is_filled(tmp_path: Path) -> None:
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.rand(4, 3))
    state: dict[str, Tensor] = source.state_dict()
    checkpoint.load_module(target, state, tmp_path)
    assert torch.equal(target.running_mean, source.running_mean)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="another model than Linear"):
        checkpoint.load_module(nn.Linear(3, 3), state, tmp_path)
