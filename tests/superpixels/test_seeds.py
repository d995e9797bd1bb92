"""SEEDS against check sums of the published pipelines, and the contract at its edges."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as F

from castssl.contracts import Superpixels
from castssl.errors import ConfigError, PluginError
from castssl.superpixels.seeds import Seeds
from castssl.superpixels.seeds_fast import SeedsFast
from castssl.superpixels.seeds_values import Mode


def _hash(number: int, seed: int) -> float:
    word = (number + 1000003 * seed) % 2**32
    for _ in range(2):
        word = (word ^ word >> 16) * 0x45D9F3B % 2**32
    return (word ^ word >> 16) / 2**32


@pytest.fixture(scope="module")
def image() -> Tensor:
    """A blurred 7 x 7 checkerboard of hashed colors, uint8 (1, 3, 224, 224)."""
    values = [int(256 * _hash(number, 11)) for number in range(147)]
    cells = np.array(values, np.uint8).reshape(7, 7, 3).repeat(32, 0).repeat(32, 1)
    blurred = np.asarray(cv2.GaussianBlur(cells, (0, 0), 6))
    assert zlib.crc32(blurred.tobytes()) == 3126286080
    return torch.from_numpy(blurred).permute(2, 0, 1)[None]


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def _summary(segments: Tensor) -> tuple[int, int, int, int]:
    labels = segments[0].numpy()
    thinned = np.unique(labels[::8, ::8])
    return len(np.unique(labels)), int(labels.sum()), zlib.crc32(labels.tobytes()), len(thinned)


# Made with OpenCV 4.9 by the published code; OpenCV 5.0 gives the same.
FAST: dict[str, Any] = {"bins": 5, "iterations": 15}
PUBLISHED = {
    "moco": ({}, (196, 4950035, 1395542656, 193)),
    "deit": (FAST | {"mode": "deit"}, (196, 4872795, 102186608, 196)),
    "breeds": (FAST | {"count": 256, "mode": "deit"}, (256, 6348290, 2924000995, 247)),
    "exact": (FAST, (196, 4896861, 274145294, 193)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_the_published_pipeline(name: str, image: Tensor) -> None:
    options, expected = PUBLISHED[name]
    assert _summary(Seeds(**options)(image)) == expected


def test_equals_the_published_segmenter_inversion(image: Tensor) -> None:
    inverted = (256 - image.int()).remainder(256).to(torch.uint8)
    assert _summary(Seeds(**FAST)(inverted)) == (196, 4885237, 3082506263, 192)


def test_equals_opencv_with_the_published_settings() -> None:
    image = _noise(1, 3, 64, 80)
    lab = cv2.cvtColor(image[0].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2LAB)
    engine = cv2.ximgproc.createSuperpixelSEEDS(80, 64, 3, 100, 1, 2, 15, False)
    engine.iterate(lab, 20)
    assert torch.equal(Seeds(100)(image)[0], torch.from_numpy(engine.getLabels()))


def _deit_round_trip(image: Tensor) -> Tensor:
    """What the supervised code does before SEEDS: ToTensor, Normalize, back in float64, truncate."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalized = F.normalize(image.float().div(255), list(mean), list(std))[0].permute(1, 2, 0).numpy()
    back = ((normalized * std + mean) * 255).astype(np.uint8)
    return torch.from_numpy(back).permute(2, 0, 1)[None]


def _segmenter_round_trip(image: Tensor) -> Tensor:
    """mmcv's normalization in units of 0 to 255, back in float32, and the product with 255 that overflows.

    mmseg keeps mean and std in float32, and mmcv widens what was rounded.
    """
    mean, std = (
        np.array([values], np.float32).astype(np.float64)
        for values in ([123.68, 116.28, 103.53], [58.40, 57.12, 57.38])
    )
    pixels = image[0].permute(1, 2, 0).numpy().astype(np.float32)
    cv2.subtract(pixels, mean, pixels)
    cv2.multiply(pixels, 1 / std, pixels)
    back = (pixels * std.astype(np.float32) + mean.astype(np.float32)).astype(np.uint8)
    return torch.from_numpy((back * np.uint8(255)).astype(np.uint8)).permute(2, 0, 1)[None]


def test_deit_mode_is_its_round_trip(image: Tensor) -> None:
    trip = _deit_round_trip(image)
    assert int((trip != image).sum()) == 38960
    assert torch.equal(Seeds(**FAST, mode="deit")(image), Seeds(**FAST)(trip))


def test_segmenter_mode_is_its_round_trip(image: Tensor) -> None:
    trip = _segmenter_round_trip(image)
    assert torch.equal(Seeds(**FAST, mode="segmenter")(image), Seeds(**FAST)(trip))


@pytest.mark.parametrize(
    ("height", "width", "count", "labels"),
    [
        (224, 224, 196, 196),
        (224, 224, 256, 256),
        (512, 512, 1024, 1024),
        (256, 256, 1024, 1024),
        (480, 480, 900, 900),
        (512, 512, 784, 625),
        (375, 500, 1024, 910),
        (333, 500, 1024, 805),
        (384, 512, 768, 768),
        (224, 160, 196, 160),
    ],
)
def test_capacity_is_the_published_count(height: int, width: int, count: int, labels: int) -> None:
    assert Seeds(count).capacity(height, width) == labels


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(10, 300), st.sampled_from([0.5, 1.0, 1.3]))
def test_labels_stay_below_capacity_at_any_size(height: int, width: int, count: int, scale: float) -> None:
    seeds = Seeds(count, bins=4, iterations=2, scale=scale)
    segments = seeds(_noise(1, 3, height, width))
    assert segments.shape == (1, height, width)
    assert segments.dtype == torch.int32
    assert 0 <= segments.min() <= segments.max() < seeds.capacity(height, width) <= count


@settings(max_examples=80, deadline=None)
@given(st.integers(16, 600), st.integers(16, 600), st.integers(10, 64))
def test_capacity_is_what_opencv_makes(height: int, width: int, count: int) -> None:
    if max(height, width) > count * min(height, width) / 2:
        return  # a strip, which would kill OpenCV's process
    engine = cv2.ximgproc.createSuperpixelSEEDS(width, height, 3, count, 1, 2, 5, False)
    if made := engine.getNumberOfSuperpixels():  # where it makes none at all, a grid takes its place
        assert Seeds(count).capacity(height, width) == made


# Each kills OpenCV's process, or has it run out of memory: that is why a grid must take its place.
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 3), (7, 5), (1, 224), (1000, 4), (14, 14), (16, 16)]
)
def test_tiny_images_and_strips_are_cut_evenly(height: int, width: int) -> None:
    seeds = Seeds(196)
    segments = seeds(_noise(1, 3, height, width))
    sizes = torch.bincount(segments.flatten(), minlength=seeds.capacity(height, width))
    assert sizes.min() >= 1


def test_a_flat_image_works() -> None:
    segments = Seeds(100)(torch.full((2, 3, 60, 60), 77, dtype=torch.uint8))
    assert len(set(segments[0].flatten().tolist())) == Seeds(100).capacity(60, 60)
    assert torch.equal(segments[0], segments[1])


def test_remembers_nothing() -> None:
    seeds, images = Seeds(64, iterations=5), _noise(3, 3, 48, 64)
    alone = [Seeds(64, iterations=5)(image[None]) for image in images]
    seeds(_noise(1, 3, 30, 30, seed=1))
    assert torch.equal(seeds(images), torch.cat(alone))
    seeds(_noise(2, 3, 48, 64, seed=2))
    assert torch.equal(seeds(images), torch.cat(alone))


def test_keeps_no_memory_for_each_image_size() -> None:
    seeds = Seeds(64, bins=2, iterations=1)
    for width in range(40, 70):
        seeds(_noise(1, 3, 40, width))
    assert 1 < len(seeds._engines) < 10
    assert (40, 69) in seeds._engines


def test_an_image_size_in_use_is_kept() -> None:
    seeds = Seeds(64, bins=2, iterations=1)
    seeds(_noise(1, 3, 40, 40))
    engine = seeds._engines[40, 40]
    for width in range(41, 80):
        seeds(_noise(1, 3, 40, width))
        seeds(_noise(1, 3, 40, 40))
    assert seeds._engines[40, 40] is engine


def test_pickles_after_use() -> None:
    seeds, images = Seeds(36, bins=5, iterations=4, scale=0.5), _noise(1, 3, 40, 40)
    assert isinstance(seeds, Superpixels)
    assert seeds.runs_on == "worker"
    before = seeds(images)
    copy = pickle.loads(pickle.dumps(seeds))
    assert torch.equal(copy(images), before)
    assert repr(copy) == repr(seeds)


def test_scale_partitions_the_smaller_image() -> None:
    image = _noise(1, 3, 64, 96)
    small = torch.from_numpy(cv2.resize(image[0].permute(1, 2, 0).numpy(), (48, 32))).permute(2, 0, 1)[None]
    expected = Seeds(48)(small).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(Seeds(48, scale=0.5)(image), expected)


def test_a_smaller_prior_smooths_less() -> None:
    image = _noise(1, 3, 64, 64)
    rough, published, smooth = (Seeds(36, prior=prior)(image)[0] for prior in (0, 2, 5))

    def edges(labels: Tensor) -> int:
        return int((labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum())

    assert edges(rough) > edges(published) > edges(smooth)


def test_superpixels_follow_an_edge() -> None:
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[..., 37:] = 200
    segments = Seeds(36)(image)[0]
    left, right = segments[:, :37].flatten().tolist(), segments[:, 37:].flatten().tolist()
    assert not set(left) & set(right)


def _count_threads(sent: Any) -> None:
    cv2.setNumThreads(3)
    image = _noise(1, 3, 900, 1200)
    before = len(os.listdir("/proc/self/task"))
    Seeds(100, bins=4, iterations=1, scale=0.9)(image)
    sent.send((len(os.listdir("/proc/self/task")) - before, cv2.getNumThreads()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_starts_no_thread_and_leaves_the_setting() -> None:
    context = multiprocessing.get_context("fork")
    received, sent = context.Pipe()
    child = context.Process(target=_count_threads, args=(sent,), daemon=True)
    child.start()
    assert received.poll(60), "hangs: OpenCV waits for threads that did not survive the fork"
    assert received.recv() == (0, 3)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing forks here")
def test_works_in_a_process_forked_after_opencv_used_threads() -> None:
    # Of a data loader that is not castssl's: its workers keep OpenCV's number of threads.
    before, context = cv2.getNumThreads(), multiprocessing.get_context("fork")
    backend, image = Seeds(16, bins=4, iterations=1), _noise(1, 3, 32, 32)
    cv2.setNumThreads(2)
    try:
        for _ in range(10):
            cv2.GaussianBlur(np.zeros((600, 600, 3), np.uint8), (11, 11), 3)
            child = context.Process(target=backend, args=(image,), daemon=True)
            child.start()
            child.join(30)
            hangs = child.exitcode is None
            child.kill()
            assert not hangs, "OpenCV waits for threads that did not survive the fork"
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("kind", [Seeds, SeedsFast])
def test_threads_may_share_it(kind: type[Seeds]) -> None:
    """OpenCV computes without the interpreter's lock."""
    images = torch.randint(0, 256, (8, 1, 3, 64, 64), dtype=torch.uint8)
    seeds = kind(bins=5, iterations=1)
    alone = [seeds(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(seeds, images.repeat(5, 1, 1, 1, 1)))
    assert all(torch.equal(one, other) for one, other in zip(alone * 5, together, strict=True))


def test_says_how_to_mend_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc")
    version = metadata.version("opencv-contrib-python-headless")
    command = f"install --(force-)?reinstall --no-deps opencv-contrib-python-headless=={version}"
    with pytest.raises(PluginError, match=f"(?s)lacks.*Repair it with:.*{command}"):
        Seeds()


def test_names_every_wrong_option_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Seeds(9, bins=0, iterations=-1, scale=0.0, mode="lab", prior=6)  # type: ignore[arg-type]
    for name in ("count=9", "bins=0", "iterations=-1", "scale=0.0", "mode='lab'", "prior=6", *get_args(Mode)):
        assert name in str(caught.value)


def test_refuses_float_images() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Seeds()(torch.rand(1, 3, 32, 32))
