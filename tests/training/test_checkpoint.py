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
from castssl.training.random_state import random_state, set_random_state
from castssl.training.sharded import save_sharded

CPU = torch.device("cpu")


def _save(folder: Path, step: int, *, keep: int = 2, **state: Any) -> Path:
    return checkpoint.save(folder, {"step": step, **state}, step=step, keep=keep)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_and_the_latest_is_found(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") == (None, {})
    _save(tmp_path, 9, weights={"a": torch.arange(3)}, nothing=None, pair=(1, "x"))
    path = _save(tmp_path, 10)
    assert checkpoint.latest(tmp_path) == (path, {})
    assert path == checkpoint.path_of(tmp_path, 10)
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
    found = checkpoint.latest(tmp_path)
    assert found.path == whole
    assert [path.name for path in found.damaged] == ["step-00000008.pt", "step-00000007.pt"]
    _save(tmp_path, 6, keep=2)
    assert _names(tmp_path) == ["step-00000005.pt", "step-00000006.pt"]


def test_any_flipped_bit_is_found_or_changes_no_value(tmp_path: Path) -> None:
    weights = torch.arange(300)
    content = _save(tmp_path, 5, weights=weights, name="a").read_bytes()
    path = tmp_path / "step-00000006.pt"
    found = 0
    for bit in random.Random(0).sample(range(8 * len(content)), 400):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if checkpoint.damage(path):
            found += 1
        else:
            state = checkpoint.read(path)
            assert torch.equal(state["weights"], weights)
            assert state["name"] == "a"
    assert found > 100
    assert not checkpoint.damage(tmp_path / "step-00000005.pt")


def test_damaged_files_are_replaced_by_the_next_save_and_a_new_file_of_that_name_stays(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 3):
        path = _save(tmp_path, step, keep=3, weights=torch.rand(100))
    content = bytearray(path.read_bytes())
    content[content.index(b"data/0") + 200] ^= 1
    path.write_bytes(content)
    found = checkpoint.latest(tmp_path)
    assert (found.path, [*found.damaged]) == (tmp_path / "step-00000002.pt", [path])
    assert "step-00000003.pt is damaged (the check sum of" in found.story()[0]
    checkpoint.save(tmp_path, {"step": 4}, step=4, keep=3, damaged=found.damaged)
    assert _names(tmp_path) == ["step-00000001.pt", "step-00000002.pt", "step-00000004.pt"]
    checkpoint.save(tmp_path, {"step": 4}, step=4, keep=3, damaged=[tmp_path / "step-00000004.pt"])
    assert "step-00000004.pt" in _names(tmp_path)


def test_without_a_whole_checkpoint_each_is_named(tmp_path: Path) -> None:
    _save(tmp_path, 1).write_bytes(b"PK")
    (tmp_path / "step-00000002.pt").touch()
    with pytest.raises(
        DataError, match=r"(?s)no checkpoint in .* is whole.*00002\.pt: .*empty.*00001\.pt: File is"
    ):
        checkpoint.latest(tmp_path)


class _Accelerator:
    """What saves a share of a sharded model."""

    is_main_process = True

    def wait_for_everyone(self) -> None: ...

    def save_state(self, folder: str) -> None:
        (Path(folder) / "model").mkdir(parents=True)
        (Path(folder) / "model" / "shard").write_bytes(bytes(1000))


def test_a_damaged_share_of_a_sharded_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (1, 2):
        save_sharded(tmp_path, _Accelerator(), {"step": step}, step=step, keep=2)
    assert checkpoint.latest(tmp_path) == (tmp_path / "step-00000002", {})
    (tmp_path / "step-00000002" / "model" / "shard").write_bytes(bytes(999) + b"1")
    found = checkpoint.latest(tmp_path)
    assert found.path == tmp_path / "step-00000001"
    assert [*found.damaged.values()] == ["model/shard changed since it was written"]


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
    path = _save(tmp_path, 1, random=random_state(CPU))
    expected = _draws()
    assert _draws() != expected
    set_random_state(checkpoint.read(path)["random"], CPU)
    assert _draws() == expected


def test_another_model_is_told_and_the_same_is_filled(tmp_path: Path) -> None:
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.rand(4, 3))
    state: dict[str, Tensor] = source.state_dict()
    checkpoint.load_module(target, state, tmp_path)
    assert torch.equal(target.running_mean, source.running_mean)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="another model than Linear"):
        checkpoint.load_module(nn.Linear(3, 3), state, tmp_path)
