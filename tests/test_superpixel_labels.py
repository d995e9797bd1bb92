"""Labels out of range: an error on a processor, -1 and a count where a device must not be waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from castssl import superpixel_labels
from castssl.errors import ContractError
from castssl.superpixels.grid import Grid

CPU = torch.device("cpu")


def labels() -> torch.Tensor:
    return torch.tensor([[[0, 3], [4, -2]]], dtype=torch.int32)


CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device; the processor is treated as one."""
    found = torch.device(request.param)
    if found == CPU:
        monkeypatch.setattr(superpixel_labels, "_at_once", lambda _: False)
    superpixel_labels.take_strays(found)
    return found


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """To wait for a GPU is an error."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_a_processor_refuses_at_once_and_returns_what_is_in_range() -> None:
    with pytest.raises(ContractError, match="from -2 to 4, expected 0 to 3, the size of x"):
        superpixel_labels.bounded(labels(), 4, "the size of x")
    good = labels().clamp(0, 3)
    assert superpixel_labels.bounded(good, 4, "the size of x") is good


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_device_marks_and_counts(device: torch.device, dtype: torch.dtype) -> None:
    first, second = labels().to(device, dtype), labels().to(device)
    with no_waiting(device):
        found = superpixel_labels.bounded(first, 4, "")
        superpixel_labels.bounded(second, 4, "")
        count, then = superpixel_labels.take_strays(device), superpixel_labels.take_strays(device)
    assert found.tolist() == [[[0, 3], [-1, -1]]]
    assert found.dtype == dtype
    assert (count.item(), then.item()) == (4, 0)


def test_fake_tensors_pass() -> None:
    real = torch.zeros(1, 4, 4, dtype=torch.int32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert superpixel_labels.bounded(torch.empty(1, 4, 4, dtype=torch.int32), 4, "").shape == (1, 4, 4)
        assert superpixel_labels.bounded(real, 4, "").shape == (1, 4, 4)


def test_a_backend_is_held_against_its_contract() -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert superpixel_labels.partition(Grid(), images).max() == 3

    class Wide(Grid):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return super().__call__(images).long()

    with pytest.raises(ContractError, match=r"returned torch\.int64 of shape \(2, 32, 32\)"):
        superpixel_labels.partition(Wide(), images)
