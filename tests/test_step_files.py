from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from castssl import step_files
from castssl.errors import DataError
from castssl.training import checkpoint
from castssl.training.sharded import save_sharded


def _save(folder: Path, step: int, *, keep: int = 2, **state: Any) -> Path:
    return checkpoint.save(folder, {"step": step, **state}, step=step, keep=keep)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_and_the_latest_is_found(tmp_path: Path) -> None:
    assert step_files.latest(tmp_path / "none") == (None, {})
    _save(tmp_path, 9, weights={"a": torch.arange(3)}, nothing=None, pair=(1, "x"))
    path = _save(tmp_path, 10)
    assert step_files.latest(tmp_path) == (path, {})
    assert path == step_files.path_of(tmp_path, 10)
    found = step_files.read(tmp_path / "step-00000009.pt")
    assert torch.equal(found["weights"]["a"], torch.arange(3))
    assert (found["step"], found["nothing"], found["pair"]) == (9, None, (1, "x"))


def test_half_written_files_are_passed_over_and_cleared_away(tmp_path: Path) -> None:
    whole = _save(tmp_path, 5, weights=torch.rand(1000))
    (tmp_path / "step-00000007.pt").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "step-00000008.pt").touch()
    (tmp_path / ".step-00000009.pt.partial").touch()
    found = step_files.latest(tmp_path)
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
        if step_files.damage(path):
            found += 1
        else:
            state = step_files.read(path)
            assert torch.equal(state["weights"], weights)
            assert state["name"] == "a"
    assert found > 100
    assert not step_files.damage(tmp_path / "step-00000005.pt")


def test_without_a_whole_checkpoint_each_is_named(tmp_path: Path) -> None:
    _save(tmp_path, 1).write_bytes(b"PK")
    (tmp_path / "step-00000002.pt").touch()
    with pytest.raises(
        DataError, match=r"(?s)no checkpoint in .* is whole.*00002\.pt: .*empty.*00001\.pt: File is"
    ):
        step_files.latest(tmp_path)


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
    assert step_files.latest(tmp_path) == (tmp_path / "step-00000002", {})
    (tmp_path / "step-00000002" / "model" / "shard").write_bytes(bytes(999) + b"1")
    found = step_files.latest(tmp_path)
    assert found.path == tmp_path / "step-00000001"
    assert [*found.damaged.values()] == ["model/shard changed since it was written"]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.putenv, ("CASTSSL_EVIL", "1")


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save({"step": _Evil()}, path)
    with pytest.raises(DataError) as caught:
        step_files.read(path)
    assert "step-00000001.pt holds more than tensors and plain values" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "CASTSSL_EVIL" not in os.environ


def test_a_damaged_or_strange_file_is_named(tmp_path: Path) -> None:
    path = _save(tmp_path, 3, weights=torch.rand(1000))
    torch.save([1], tmp_path / "list.pt")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"step-00000003\.pt.*delete it"):
        step_files.read(path)
    with pytest.raises(DataError, match="holds a list"):
        step_files.read(tmp_path / "list.pt")


def test_a_checkpoint_that_its_run_replaces_meanwhile_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _save(tmp_path, 1)
    assert step_files.newest(tmp_path / "none") is None
    for reader in ("damage", "read"):
        before = getattr(step_files, reader)

        def goes_on(path: Path, before: Any = before, reader: str = reader) -> Any:
            monkeypatch.setattr(step_files, reader, before)
            checkpoint.save(tmp_path, {"step": (step := 2 + (reader == "read"))}, step=step, keep=1)
            return before(path)

        monkeypatch.setattr(step_files, reader, goes_on)
        found = step_files.newest(tmp_path)
        assert found is not None
        assert found[1]["step"] == (2 if reader == "damage" else 3)
        assert step_files.latest(tmp_path) == (found[0], {})
    with pytest.raises(step_files.Vanished) as caught:
        step_files.read(old)
    assert "is gone" in str(caught.value)
    assert "delete" not in str(caught.value)


def test_a_link_to_nothing_is_damage(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.pt").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"00001\.pt: step-00000001\.pt is missing"):
        step_files.newest(tmp_path)
