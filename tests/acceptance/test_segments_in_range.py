"""Segments that are more than the tokens, or do not fit the image: an error, and no other image changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

import castssl
from castssl.contracts import Superpixels
from castssl.errors import ContractError
from castssl.models.presets import PRESETS
from castssl.testing import superpixels as contract
from tests.acceptance.conftest import Command

SIDE = 64


@pytest.fixture(scope="module")
def encoder() -> Any:
    """A model of 64 tokens for images of 64 pixels."""
    torch.manual_seed(0)
    return castssl.create("nano", image_size=SIDE).eval()


def grid() -> Tensor:
    """64 square segments in each of two images: int32 (2, 64, 64)."""
    cell = torch.arange(SIDE) // 8
    return (cell[:, None] * 8 + cell).int().repeat(2, 1, 1)


def images() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("change", [32, -1])
def test_a_label_beyond_the_tokens_is_refused_in_any_image(encoder: Any, image: int, change: int) -> None:
    segments = grid()
    segments[image] += change
    with pytest.raises(ContractError, match=r"expected 0 to 63.*castssl check superpixels"):
        encoder(castssl.View(images(), segments))


def test_a_label_beyond_the_tokens_is_refused_on_a_pixel_that_no_token_samples(encoder: Any) -> None:
    segments = grid()
    segments[0, 1, 1] = 64
    with pytest.raises(ContractError, match="labels from 0 to 64, expected 0 to 63"):
        encoder(castssl.View(images(), segments))


def test_sizes_that_are_given_count_the_sampled_labels_as_the_published_models_do(encoder: Any) -> None:
    """They have as many tokens as the largest sampled label says; others may lie between the samples."""
    segments, x = grid(), images()
    with torch.no_grad():
        whole = encoder(castssl.View(x, segments), encoder.sizes)
        segments[0, 1, 1] = 64
        same = encoder(castssl.View(x, segments), encoder.sizes)
    assert torch.equal(same.stages[-1].cls, whole.stages[-1].cls)
    assert (same.labels(0) == -1).nonzero().tolist() == [[0, 1, 1]]
    segments[0, 0, 0] = 64
    with pytest.raises(ContractError, match="labels from 0 to 64, expected 0 to 63"):
        encoder(castssl.View(x, segments), encoder.sizes)


CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("membership", ["nearest", "area"])
def test_on_a_device_it_changes_no_other_image_and_ends_the_run_with_the_loss_check(
    device: str, membership: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor is treated as a device, whose labels are not waited for."""
    from castssl import superpixel_labels
    from castssl.training.signals import LAG, LossMonitor

    if device == "cpu":
        monkeypatch.setattr(superpixel_labels, "_at_once", lambda _: False)
    superpixel_labels.take_strays(torch.device(device))
    torch.manual_seed(0)
    model: Any = castssl.create("nano", image_size=SIDE, membership=membership).eval().to(device)
    watch, seen = LossMonitor(torch.device(device)), list[Tensor]()
    lag = LAG if device == "cuda" else 0

    def step(number: int, change: int = 0) -> None:
        segments = grid()
        segments[0] += change
        with torch.no_grad():
            found = model(castssl.View(images().to(device), segments.to(device)))
        seen.append(found.stages[-1].cls)
        watch.add(seen[-1].sum())
        watch.step(number)

    step(1)
    output = pytest.raises(ContractError, match="2048 pixels of the images of step 2 have segments beyond")
    for number in range(2, 2 + lag):
        step(number, change=32 * (number == 2))
    with output:
        step(2 + lag, change=0 if lag else 32)
    assert torch.isfinite(seen[1]).all()
    # The order of sums is not the same in each call on a GPU.
    torch.testing.assert_close(seen[1][1], seen[0][1], rtol=0, atol=1e-4)
    assert (seen[1][0] - seen[0][0]).abs().max() > 1e-3


@pytest.mark.parametrize("membership", ["nearest", "area"])
def test_in_a_compiled_graph_it_joins_no_token_and_changes_no_other_image(membership: Any) -> None:
    """A compiled graph takes the way of a device, which cannot raise without waiting."""
    torch.manual_seed(0)
    shape: Any = {"depths": (1, 1), "sizes": (64, 4), "image_size": SIDE, "membership": membership}
    model: Any = castssl.create(replace(PRESETS["cast_nano"], **shape)).eval()
    run: Any = torch.compile(model, backend="eager")
    segments, x = grid(), images()
    with torch.no_grad():
        whole = run(castssl.View(x, segments))
        segments[0] += 32
        broken = run(castssl.View(x, segments))
    assert torch.equal(broken.stages[-1].cls[1], whole.stages[-1].cls[1])
    assert torch.isfinite(broken.stages[-1].cls).all()
    labels = broken.labels(0)
    assert torch.equal(labels[0] == -1, segments[0] >= 64)
    assert torch.equal(labels[1], whole.labels(0)[1])
    assert broken.stages[0].mass[0].sum() == whole.stages[0].mass[0].sum() / 2


@pytest.mark.parametrize("shape", [(2, 32, 64), (1, 64, 64), (2, 1, 64, 64), (2, 0, 0)])
def test_segments_that_do_not_fit_the_images_are_refused(encoder: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match=r"do not fit images of shape \(2, 3, 64, 64\)"):
        encoder(castssl.View(images(), torch.zeros(shape, dtype=torch.int32)))


class Regions(Superpixels):
    """Felzenszwalb's graph-based regions: their number depends on the image, whatever capacity promises."""

    runs_on: Literal["worker", "device"] = "worker"

    def capacity(self, height: int, width: int) -> int:
        return 196

    def __call__(self, images: Tensor) -> Tensor:
        from skimage.segmentation import felzenszwalb

        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        options: dict[str, Any] = {"scale": 100, "sigma": 0.5, "min_size": 50}
        found = [felzenszwalb(image.permute(1, 2, 0).numpy(), **options) for image in images]
        return torch.from_numpy(np.stack(found).astype(np.int32))


def test_superpixels_without_a_fixed_count_fail_the_contract_checks() -> None:
    pytest.importorskip("skimage")
    with pytest.raises(ContractError, match="raise capacity"):
        contract.check_noise(Regions)


class TooMany(Superpixels):
    """64 promised; of a light image 8 more."""

    def __init__(self, runs_on: Literal["worker", "device"] = "device") -> None:
        self.runs_on = runs_on

    def capacity(self, height: int, width: int) -> int:
        return 64

    def __call__(self, images: Tensor) -> Tensor:
        light = (images.float().mean((1, 2, 3)) > 128).int()
        rows = torch.arange(images.shape[2], dtype=torch.int32) * 8 // images.shape[2]
        columns = torch.arange(images.shape[3], dtype=torch.int32) * 8 // images.shape[3]
        return (rows[:, None] * 8 + columns).repeat(len(images), 1, 1) + 8 * light[:, None, None]


@pytest.mark.parametrize("runs_on", ["worker", "device"])
def test_an_image_with_too_many_superpixels_is_refused(
    encoder: Any, runs_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from castssl import registry

    build = registry.build

    def many(kind: str, spec: str, *options: Any) -> Any:
        return TooMany(runs_on) if spec == "many" else build(kind, spec, *options)

    monkeypatch.setattr(registry, "build", many)
    dark, light = (np.full((SIDE, SIDE, 3), value, np.uint8) for value in (10, 250))
    assert castssl.segment(dark, encoder, superpixels="many").labels(0).max() == 63
    with pytest.raises(ContractError, match="labels from 8 to 71, expected 0 to 63, the capacity of"):
        castssl.segment(light, encoder, superpixels="many")


PLUGIN = """
import torch
from castssl.contracts import Superpixels

class TooMany(Superpixels):
    def capacity(self, height, width):
        return 64

    def __call__(self, images):
        bright = images.float().mean((1, 2, 3)).int() % 4 == 0
        rows, columns = (torch.arange(side, dtype=torch.int32) * 8 // side for side in images.shape[2:])
        return (rows[:, None] * 8 + columns).repeat(len(images), 1, 1) + 8 * bright.int()[:, None, None]
"""


def test_a_run_ends_with_words_where_a_worker_makes_too_many_superpixels(
    process: Command, image_folder: Path, tmp_path: Path
) -> None:
    package = tmp_path / "site"
    about = package / "many-0.1.dist-info"
    about.mkdir(parents=True)
    (package / "many.py").write_text(PLUGIN, encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: many\nVersion: 0.1\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[castssl.superpixels]\nmany = many:TooMany\n", encoding="utf-8")
    import os

    done = process(
        "recipes/moco_in1k.py",
        *("--data", f"folder:{image_folder}", "--out", tmp_path / "run", "--model", "nano"),
        *("--image-size", "32", "--batch-size", "16", "--epochs", "1", "--warmup-epochs", "0"),
        *("--workers", "1", "--superpixels", "many", "--hidden", "32", "--knn-every", "0"),
        PYTHONPATH=os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")])),
    )
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    assert "expected 0 to 63" in done.err
    assert "castssl check superpixels" in done.err
