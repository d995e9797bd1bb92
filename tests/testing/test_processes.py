from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from castssl import distributed
from castssl.errors import ContractError
from castssl.testing.processes import WORLD, together


def gather_ranks(rank: int, expected: int) -> None:
    assert distributed.world() == expected
    assert distributed.gather(torch.tensor([float(rank)])).tolist() == [0.0, 1.0]


def be_alone(rank: int, folder: str) -> None:
    assert distributed.world() == 1
    Path(folder, f"was here {rank}").touch()


def sleep(rank: int) -> None:
    time.sleep(60)


def fail_on_the_second(rank: int) -> None:
    if rank:
        raise RuntimeError("rank one is unwell")


@pytest.mark.distributed
def test_two_processes_talk() -> None:
    together(gather_ranks, WORLD)


@pytest.mark.distributed
def test_a_failure_in_one_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(ContractError, match="rank one is unwell"):
        together(fail_on_the_second)
    assert list(tmp_path.glob("*.pickle")) == []


def test_one_process_joins_no_group(tmp_path: Path) -> None:
    together(be_alone, str(tmp_path), world=1)
    assert [path.name for path in tmp_path.iterdir()] == ["was here 0"]


def test_a_process_is_given_up_after_its_limit() -> None:
    with pytest.raises(ContractError, match=r"the process has not ended after 0\.5 s"):
        together(sleep, world=1, limit=0.5)


def test_what_does_not_pickle_is_refused() -> None:
    with pytest.raises(ContractError, match="no lambda"):
        together(gather_ranks, lambda: None)
