"""Labels out of range: an error on a processor, -1 and a count where a device must not be waited for."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from castssl import partition
from castssl.errors import ContractError
from castssl.superpixels.grid import Grid

CPU = torch.device("cpu")


def labels() -> torch.Tensor:
    return torch.tensor([[[0, 3], [4, -2]]], dtype=torch.int32)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is treated as a device."""
    monkeypatch.setattr(partition, "_at_once", lambda _: False)
    partition.take_strays(CPU)


def test_a_processor_refuses_at_once_and_returns_what_is_in_range() -> None:
    with pytest.raises(ContractError, match="from -2 to 4, expected 0 to 3, the size of x"):
        partition.bounded(labels(), 4, "the size of x")
    good = labels().clamp(0, 3)
    assert partition.bounded(good, 4, "the size of x") is good


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_device_marks_and_counts(dtype: torch.dtype) -> None:
    found = partition.bounded(labels().to(dtype), 4, "")
    assert found.tolist() == [[[0, 3], [-1, -1]]]
    assert found.dtype == dtype
    partition.bounded(labels(), 4, "")
    assert partition.take_strays(CPU).item() == 4
    assert partition.take_strays(CPU).item() == 0


def test_fake_tensors_pass() -> None:
    real = torch.zeros(1, 4, 4, dtype=torch.int32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert partition.bounded(torch.empty(1, 4, 4, dtype=torch.int32), 4, "").shape == (1, 4, 4)
        assert partition.bounded(real, 4, "").shape == (1, 4, 4)


def test_a_backend_is_held_against_its_contract() -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert partition.partition(Grid(), images).max() == 3

    class Wide(Grid):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return super().__call__(images).long()

    with pytest.raises(ContractError, match=r"returned torch\.int64 of shape \(2, 32, 32\)"):
        partition.partition(Wide(), images)
