from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import functional as F

from castssl.data.normalize import denormalize, normalize, to_views
from castssl.errors import ContractError
from castssl.superpixels.grid import Grid
from castssl.superpixels.seeds import Seeds
from castssl.types import Batch, View


def _raw(segments: tuple[int, int] = (0, 0)) -> Batch:
    images = [torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8) for _ in range(2)]
    return Batch(
        [View(image, torch.full((2, *segments), 3, dtype=torch.int32)) for image in images],
        torch.tensor([[1], [0]]),
    )


def _reference(image: Tensor) -> Tensor:
    normalized: Tensor = F.normalize(image.float().div(255), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return normalized


def test_device_superpixels_run_here() -> None:
    raw = _raw()
    batch = to_views(raw, Grid(8), "cpu")
    assert torch.equal(batch.target, raw.target)
    for view, before in zip(batch.views, raw.views, strict=True):
        assert torch.equal(view.image, _reference(before.image))
        assert torch.equal(view.segments, Grid(8)(before.image))


def test_worker_superpixels_are_there_already() -> None:
    batch = to_views(_raw((16, 24)), Seeds(10))
    assert all(int(view.segments.min()) == 3 for view in batch.views)


def test_no_superpixels_at_all() -> None:
    assert to_views(_raw()).views[0].segments.shape == (2, 0, 0)


def test_says_when_the_loader_did_not_run_them() -> None:
    with pytest.raises(ContractError, match=r"\(2, 0, 0\).*\(2, 3, 16, 24\).*load\(\)"):
        to_views(_raw(), Seeds(10))


def test_every_value_is_normalized_exactly() -> None:
    image = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    assert torch.equal(normalize(image), _reference(image))
    assert normalize(image).dtype == torch.float32


def test_compiles_whole() -> None:
    raw = _raw()
    compiled = torch.compile(lambda batch: to_views(batch, Grid(8)), fullgraph=True, backend="eager")
    expected = to_views(raw, Grid(8))
    for view, same in zip(compiled(raw).views, expected.views, strict=True):
        assert torch.equal(view.image, same.image)
        assert torch.equal(view.segments, same.segments)


def test_never_looks_at_a_value() -> None:
    with FakeTensorMode():
        batch = to_views(_raw(), Grid(8))
    assert batch.views[1].segments.shape == (2, 16, 24)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_does_not_wait_for_the_gpu() -> None:
    raw = _raw()
    pinned = Batch([View(*(t.pin_memory() for t in view)) for view in raw.views], raw.target.pin_memory())
    to_views(pinned, Grid(8), "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = to_views(pinned, Grid(8), "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(batch.views[0].image.cpu(), _reference(raw.views[0].image))


def test_bytes_survive_normalization() -> None:
    """All values of all channels."""
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)
    assert torch.equal(denormalize(normalize(image)), image)


def test_texts_come_along() -> None:
    text = torch.randn(2, 5)
    assert to_views(_raw()._replace(text=text)).text is text
    moved = to_views(_raw()._replace(text=text), Grid(8), "meta").text
    assert moved is not None
    assert moved.device.type == "meta"
    assert to_views(_raw()).text is None
