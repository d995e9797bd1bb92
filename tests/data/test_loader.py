from __future__ import annotations

import logging
import os
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from castssl.contracts import Superpixels
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import Loader, load
from castssl.data.views import Augment, CroppedView, TwoViews
from castssl.datasets.image_texts import ImageTexts
from castssl.datasets.images import Images, Plan
from castssl.datasets.open import open_images
from castssl.errors import ConfigError
from castssl.superpixels.grid import Grid
from castssl.superpixels.seeds import Seeds
from castssl.types import Batch
from tests import forked
from tests.datasets.image_files import write

SEEDS = Seeds(16, bins=4, iterations=2)


@pytest.fixture
def images(flat: Path) -> Images:
    result = open_images(f"folder:{flat}")
    assert isinstance(result, Images)
    return result


def _load(images: Images, superpixels: Superpixels | None = SEEDS, **options: Any) -> Loader:
    chosen: dict[str, Any] = {"views": TwoViews(16), "batch_size": 4, "seed": 5} | options
    return load(images, superpixels=superpixels, **chosen)


def _same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = [(a, b) for a, b in zip(one, other, strict=True)]
    return all(
        torch.equal(x, y)
        for a, b in pairs
        for x, y in [(a.target, b.target), *zip(sum(a.views, ()), sum(b.views, ()), strict=True)]
    )


def test_yields_raw_views(images: Images) -> None:
    loader = _load(images)
    assert len(loader) == 3
    assert loader.tree == images.tree
    batches = list(loader)
    assert len(batches) == 3
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.target.shape == (4, 1)
        for view in batch.views:
            assert (view.image.dtype, view.image.shape) == (torch.uint8, (4, 3, 16, 16))
            assert torch.equal(view.segments, SEEDS(view.image))
    assert not torch.equal(batches[0].views[0].image, batches[0].views[1].image)


def test_the_number_of_workers_changes_nothing(images: Images) -> None:
    alone, helped = _load(images), _load(images, workers=2)
    epochs = []
    for epoch in (0, 3):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        epochs.append(list(alone))
        assert _same(epochs[-1], list(helped))
    assert not _same(*epochs)
    assert not _same(epochs[0], list(_load(images, seed=6)))


def test_what_was_loaded_before_changes_nothing(images: Images) -> None:
    loader = _load(images, workers=2)
    expected = list(loader)
    for _ in loader:
        break  # leaves work behind in the workers
    assert _same(list(loader), expected)


def test_each_epoch_augments_anew(tmp_path: Path) -> None:
    only = open_images(f"folder:{write(tmp_path / 'one', ['a/x.png', 'b/y.png'])}")
    assert isinstance(only, Images)
    loader = load(only, views=TwoViews(16), superpixels=None, batch_size=2)
    seen = []
    for epoch in range(6):
        loader.set_epoch(epoch)
        (batch,) = loader
        seen.append(batch.views[0].image[batch.target[:, 0].argsort()])
    assert all(not torch.equal(seen[i], seen[j]) for i in range(6) for j in range(i))


def test_goes_on_from_any_batch(images: Images) -> None:
    loader = _load(images)
    assert loader.resumable
    loader.set_epoch(2)
    full = list(loader)
    fresh = _load(images, workers=1)
    fresh.set_epoch(2, start=1)
    assert _same(list(fresh), full[1:])
    fresh.set_epoch(2)
    assert _same(list(fresh), full)


def test_ranks_share_each_batch(images: Images) -> None:
    full = list(_load(images))
    shares = zip(*(list(_load(images, rank=rank, world=2)) for rank in range(2)), strict=True)
    for batch, (first, second) in zip(full, shares, strict=True):
        assert torch.equal(batch.target, torch.cat([first.target, second.target]))
        for view, a, b in zip(batch.views, first.views, second.views, strict=True):
            assert torch.equal(view.image, torch.cat([a.image, b.image]))
            assert torch.equal(view.segments, torch.cat([a.segments, b.segments]))
    with pytest.raises(ConfigError, match="4 images cannot be shared by 3"):
        _load(images, rank=0, world=3)


@pytest.mark.parametrize("superpixels", [None, Grid(4)])
def test_device_superpixels_are_left_to_the_device(images: Images, superpixels: Superpixels | None) -> None:
    for batch in _load(images, superpixels):
        assert all(view.segments.shape == (4, 0, 0) for view in batch.views)
        assert all(view.segments.dtype == torch.int32 for view in batch.views)


def test_evaluation_sees_all_images_once_in_order(images: Images) -> None:
    loader = _load(
        images, Grid(4, runs_on="worker"), views=CenterView(12), batch_size=5, train=False, workers=2
    )
    batches = list(loader)
    assert [len(batch.target) for batch in batches] == [5, 5, 2]
    expected = torch.stack([CenterView(12)(images[i][0])[0] for i in range(12)])
    assert torch.equal(torch.cat([batch.views[0].image for batch in batches]), expected)
    assert torch.equal(
        torch.cat([batch.target for batch in batches]), torch.stack([images[i][1] for i in range(12)])
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_named_once(
    images: Images, flat: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    names = [images.name(2), images.name(7)]
    for name in names:
        (flat / name).write_bytes(b"broken")
    loader = _load(images, workers=workers)
    with caplog.at_level(logging.WARNING):
        assert sum(len(batch.target) for _ in range(2) for batch in loader) == 24
    assert sorted(loader.bad) == sorted(str(flat / name) for name in names)
    assert loader.images == 12
    assert sum(names[0] in record.getMessage() for record in caplog.records) == 1


def test_leaves_the_global_generators_alone(images: Images) -> None:
    def drawn(loading: bool) -> tuple[float, float, float]:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        if loading:
            list(_load(images))
            list(_load(images, workers=1))
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert drawn(True) == drawn(False)


class _Slow(Augment):
    """A view that takes its time and tells of the process that made it."""

    def crop(self, image: Image.Image, plan: Plan | None = None) -> list[CroppedView]:
        time.sleep(0.02)
        told = torch.get_num_threads(), cv2.getNumThreads(), *divmod(os.getpid() % 2**16, 256)
        return [CroppedView(torch.tensor(told, dtype=torch.uint8).view(4, 1, 1), (0, 0, 1, 1), False)]


def test_knows_how_long_the_consumer_waited(images: Images) -> None:
    loader = _load(images, None, views=_Slow())
    for _ in loader:
        time.sleep(0.05)
    assert 12 * 0.02 <= loader.waited < 12 * 0.02 + 0.15
    before = loader.waited
    list(loader)
    assert loader.waited >= before + 12 * 0.02


def test_workers_have_one_thread_each(images: Images) -> None:
    messages = torch.cat(
        [batch.views[0].image.view(-1, 4) for batch in _load(images, None, views=_Slow(), workers=2)]
    )
    assert set(messages[:, 0].tolist()) == {1}
    assert set(messages[:, 1].tolist()) <= {0, 1}
    workers = {high * 256 + low for high, low in messages[:, 2:].tolist()}
    assert len(workers - {os.getpid() % 2**16}) == 2


def test_too_few_images_for_a_batch(images: Images) -> None:
    with pytest.raises(
        ConfigError, match="16; lower the batch size, such as by --batch-size 8, or add images"
    ):
        _load(images, batch_size=16)


def test_copies_of_an_image_are_augmented_each_by_itself(images: Images) -> None:
    loader = _load(images, repeats=2, batch_size=4)
    (batch, *_) = loader
    for first, second in ((0, 1), (2, 3)):
        assert torch.equal(batch.target[first], batch.target[second])
        assert not torch.equal(batch.views[0].image[first], batch.views[0].image[second])
    assert _same(list(loader), list(_load(images, repeats=2, batch_size=4, workers=2)))
    loader.set_epoch(0, start=1)
    assert _same(list(loader), list(_load(images, repeats=2, batch_size=4))[1:])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_text_of_each_image_comes_with_it(workers: int, images: Images) -> None:
    plain = list(_load(images))
    assert all(batch.text is None for batch in plain)
    row = torch.arange(len(images.source))
    row[3] = -1
    vectors = torch.arange(1.0, 1 + len(row))[:, None].expand(-1, 2).contiguous()
    texts = ImageTexts(vectors, row)
    order = [len(images) - 1 - at for at in range(len(images))]
    shown = replace(images, texts=texts).take(order)
    loader = _load(shown, workers=workers, train=False)
    found = torch.cat([batch.text for batch in loader if batch.text is not None])
    expected = torch.stack([texts.of(int(images.rows[at])) for at in order])
    assert torch.equal(found, expected)
    assert not found[order.index(3)].any()
    assert _same(plain, list(_load(replace(images, texts=texts), workers=workers)))


def test_the_text_of_a_replacement_is_its_own(flat: Path) -> None:
    images = open_images(f"folder:{flat}")
    assert isinstance(images, Images)
    texts = ImageTexts(torch.eye(len(images.source)), torch.arange(len(images.source)))
    Path(images.source.path(int(images.rows[1]))).write_bytes(b"broken")
    found = replace(images, texts=texts).fetch(1)
    assert found.text is not None
    assert found.text.argmax() == int(images.rows[2])


LEAVES = """
import multiprocessing, sys, tempfile

from castssl.data.loader import load
from castssl.data.views import TwoViews
from castssl.datasets.open import open_images

# The server that this process comes from gave it a folder for its sockets.
multiprocessing.current_process()._config.pop("tempdir", None)
tempfile.tempdir = sys.argv[1]
loader = load(open_images(sys.argv[2]), views=TwoViews(16), superpixels=None, batch_size=4, workers=2)
print(len(list(loader)))
"""


def test_workers_leave_no_folder(flat: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LEAVES, encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:  # Shorter than pytest's.
        done = forked.run([str(script), folder, f"folder:{flat}"])
        assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
        assert list(Path(folder).iterdir()) == []


def test_a_folder_whose_name_is_too_long_for_sockets_is_refused(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/" + 75 * "x")
    _load(images)
    with pytest.raises(ConfigError, match="TMPDIR has 76 bytes, expected at most 75"):
        _load(images, workers=1)
