from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import time
from hashlib import sha256
from inspect import getsource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castssl.data import superpixel_tree
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.rng import seeded
from castssl.data.superpixel_cache import SHARDS, Cache, CachedSuperpixels, method, read_file
from castssl.data.supervised_views import SupervisedView
from castssl.data.views import TwoViews
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError
from castssl.superpixels import seeds, seeds_cells, seeds_fast, seeds_values
from castssl.superpixels.grid import Grid
from castssl.superpixels.seeds import Seeds
from castssl.types import Batch
from tests.datasets.image_files import write

SEEDS = Seeds(16, bins=4, iterations=2)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def images(flat: Path) -> Images:
    result = open_images(f"folder:{flat}")
    assert isinstance(result, Images)
    return result


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def entries(cache: Cache) -> list[Path]:
    return sorted(path for path in cache.folder.glob("*/*") if path.is_file())


def test_gives_back_what_was_kept(cache: Cache) -> None:
    assert cache.read("abc0") is None
    assert cache.write("abc0", b"one")
    assert cache.write("abc1", b"other")
    assert cache.write("abc0", b"again")
    assert (cache.read("abc0"), cache.read("abc1"), cache.read("abc2")) == (b"again", b"other", None)
    assert [path.name for path in entries(cache)] == ["abc0", "abc1"]


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--superpixel-cache: cannot write to .*Not a directory"):
        Cache(tmp_path / "file" / "cache")


def hammer(cache: Cache, seed: int, result: Any) -> None:
    """Write entries of 100 kB, and read them: each is whole, or not there."""
    random = np.random.default_rng(seed)
    wrong = read = 0
    for _ in range(300):
        name = f"abc{random.integers(4)}"
        if random.random() < 0.5:
            cache.write(name, bytes([int(random.integers(256))]) * 100_000)
        elif (entry := cache.read(name)) is not None:
            read += 1
            wrong += len(entry) != 100_000 or len(set(entry)) != 1
    result.put((wrong, read))


def test_processes_never_see_half_an_entry(cache: Cache) -> None:
    result = FORK.Queue()
    workers = [FORK.Process(target=hammer, args=(cache, seed, result)) for seed in range(4)]
    for worker in workers:
        worker.start()
    answers = [result.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert [wrong for wrong, _ in answers] == [0] * 4
    assert all(read > 50 for _, read in answers)
    assert [path.name for path in entries(cache)] == ["abc0", "abc1", "abc2", "abc3"]


LARGE = 10_000_000


def write_for_ever(cache: Cache) -> None:
    while True:
        cache.write("abc0", bytes(LARGE))


def test_a_killed_writer_leaves_the_entry_whole_and_its_rest_is_swept(cache: Cache) -> None:
    rests: list[Path] = []
    for _ in range(20):
        writer = FORK.Process(target=write_for_ever, args=(cache,))
        writer.start()
        while not cache.path("abc0").exists() or len(entries(cache)) < 2:
            time.sleep(0.0001)  # until there is one, and another on its way
        assert writer.pid
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        entry = cache.read("abc0")
        assert entry is not None
        assert len(entry) == LARGE
        rests = [path for path in entries(cache) if path.name != "abc0"]
        if rests:
            break
    assert rests, "no writer was killed while it wrote"
    assert cache.write("abc1", b"new")
    assert set(rests) <= set(entries(cache)), "a fresh one may still have its writer"
    for rest in rests:
        os.utime(rest, (0, 0))
    assert cache.write("abc2", b"new")
    assert [path.name for path in entries(cache)] == ["abc0", "abc1", "abc2"]


def test_holds_no_more_than_it_may(tmp_path: Path) -> None:
    cache = Cache(tmp_path, gigabytes=SHARDS * 1000 / 1e9)
    kept = [cache.write(f"abc{index}", bytes(300)) for index in range(5)]
    assert kept == [True, True, True, False, False]
    assert cache.write("abd0", bytes(1000)), "another sub-folder has its own share"
    assert not cache.write("abe0", bytes(1001))
    assert cache.write("abc2", bytes(400)), "a larger one in its own place"
    assert not cache.write("abc2", bytes(401))
    assert sum(path.stat().st_size for path in entries(cache)) == 2000


def write_where_nothing_fits(cache: Cache, result: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with_room = cache.write("abc0", bytes(900))
    logging.getLogger("castssl.data.superpixel_cache").addHandler(output := _Told())
    full = [cache.write(f"abc{index}", bytes(2000)) for index in range(1, 4)]
    result.put(
        (with_room, full, cache.read("abc0"), output.messages, sorted(os.listdir(cache.folder / "abc")))
    )


class _Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_a_full_disk_is_told_once_and_costs_nothing(cache: Cache) -> None:
    result = FORK.Queue()
    worker = FORK.Process(target=write_where_nothing_fits, args=(cache, result))
    worker.start()
    with_room, full, entry, messages, names = result.get(timeout=60)
    worker.join()
    assert with_room
    assert full == [False] * 3
    assert entry == bytes(900)
    assert names == ["abc0"]
    assert len(messages) == 1
    assert "computed each time from here on" in messages[0]


# superpixels in it


def test_computed_once_and_the_same_ever_after(
    images: Images, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = read_file(images, 3)
    made = CachedSuperpixels(SEEDS, cache).tree(file)
    (entry,) = entries(cache)
    monkeypatch.setattr(superpixel_tree, "partition", None)
    again = CachedSuperpixels(Seeds(16, bins=4, iterations=2), cache).tree(file)
    assert np.array_equal(again.labels, made.labels)
    assert np.array_equal(again.merge_order, made.merge_order)
    assert entries(cache) == [entry]


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_entry_is_computed_again(images: Images, cache: Cache, damage: str) -> None:
    kept, file = CachedSuperpixels(SEEDS, cache), read_file(images, 0)
    expected = kept.tree(file)
    (path,) = entries(cache)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-5], "empty": b"", "other": whole[::-1]}[damage])
    assert np.array_equal(kept.tree(file).labels, expected.labels)
    assert path.read_bytes() == whole


def test_a_name_tells_image_and_method_apart(images: Images, cache: Cache) -> None:
    def name(superpixels: Any, index: int = 0) -> str:
        return CachedSuperpixels(superpixels, cache).name(read_file(images, index))

    others = [Seeds(16, bins=4, iterations=3), Seeds(17, bins=4, iterations=2), Grid(4, runs_on="worker")]
    names = [name(SEEDS), name(SEEDS, 1), *map(name, others)]
    assert len(set(names)) == 5
    SEEDS(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert name(SEEDS) == name(Seeds(16, bins=4, iterations=2)) == names[0]
    output = [path.read_text() for path in cache.folder.glob("*.json")]
    assert len(output) == 4
    assert sum("Seeds(count=17, bins=4" in text for text in output) == 1


class _Nameless(Grid):
    __repr__ = object.__repr__


def test_a_backend_that_does_not_tell_its_options_is_known_by_them_still() -> None:
    one, same, other = (_Nameless(cell, runs_on="worker") for cell in (4, 4, 5))
    assert method(one) == method(same) != method(other)


def test_the_method_knows_options_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    described = method(SEEDS)
    assert described["backend"] == "castssl.superpixels.seeds.Seeds"
    assert method(Seeds(16, bins=4, iterations=3)) != described
    assert {"castssl", "cv2", "numpy", "PIL"} <= described["versions"].keys()
    monkeypatch.setattr("castssl.data.superpixel_cache.version", lambda name: f"{name} 0.0")
    assert method(SEEDS) != described


def test_the_code_of_the_modules_beside_the_backend_counts() -> None:
    code = method(SEEDS)["code"]
    assert {sha256(getsource(used).encode()).hexdigest() for used in (seeds, seeds_cells, seeds_values)} <= {
        *code
    }
    assert sha256(getsource(seeds_fast).encode()).hexdigest() not in code


def batches(images: Images, cache: Cache | None, **options: Any) -> list[Batch]:
    chosen: dict[str, Any] = {"views": TwoViews(16), "superpixels": SEEDS, "batch_size": 4} | options
    return list(load(images, cache=cache, **chosen))


def test_a_loader_cuts_them_out_for_each_view(images: Images, cache: Cache) -> None:
    plain, loaded = batches(images, None), batches(images, cache)
    assert len(entries(cache)) == len(images)
    views = TwoViews(16)
    order = load(images, views=views, superpixels=None, batch_size=4).batches
    assert order is not None
    for batch, without, indices in zip(loaded, plain, order, strict=True):
        for row, index in enumerate(indices):
            image = images[index][0]
            whole = superpixel_tree.partition(image, SEEDS)
            with seeded(0, 0, index):
                placed = views.crop(image)
            for view, other, spot in zip(batch.views, without.views, placed, strict=True):
                assert torch.equal(view.image[row], spot.image)
                assert torch.equal(view.image[row], other.image[row])
                expected = superpixel_tree.crop(whole, spot.box, spot.flipped, 16, SEEDS.capacity(16, 16))
                assert torch.equal(view.segments[row], expected)
                assert not torch.equal(view.segments[row], other.segments[row])


def test_cold_or_warm_with_or_without_workers_is_the_same(images: Images, tmp_path: Path) -> None:
    cold = batches(images, Cache(tmp_path / "a"))
    warm = batches(images, Cache(tmp_path / "a"), workers=2)
    helped = batches(images, Cache(tmp_path / "b"), workers=2)
    nothing_fits = batches(images, Cache(tmp_path / "c", gigabytes=1e-6))
    assert not entries(Cache(tmp_path / "c"))
    for others in (warm, helped, nothing_fits):
        for one, other in zip(cold, others, strict=True):
            for a, b in zip(one.views, other.views, strict=True):
                assert torch.equal(a.image, b.image)
                assert torch.equal(a.segments, b.segments)


def test_an_unreadable_image_is_not_taken_for_another(flat: Path, images: Images, cache: Cache) -> None:
    (flat / images.name(2)).write_bytes(b"broken")
    loaded = batches(images, cache, views=CenterView(16), batch_size=12, train=False)
    whole = superpixel_tree.partition(images[3][0], SEEDS)
    (view,) = CenterView(16).crop(images[3][0])
    assert torch.equal(loaded[0].views[0].segments[2], superpixel_tree.crop(whole, view.box, False, 16, 16))
    assert len(entries(cache)) == 11


def test_what_cannot_be_cached_is_refused(images: Images, cache: Cache) -> None:
    with pytest.raises(ConfigError, match=r"Grid.* does not run in workers"):
        batches(images, cache, superpixels=Grid(4))
    with pytest.raises(ConfigError, match="SupervisedView shears, rotates or shifts"):
        batches(images, cache, views=SupervisedView(16))
    assert batches(images, cache, views=SupervisedView(16, policy="none"))


def test_a_stream_is_refused(tmp_path: Path, cache: Cache) -> None:
    pytest.importorskip("webdataset")
    import tarfile

    root = write(tmp_path / "pictures", ["0.png"])
    (root / "0.cls").write_text("0")
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for name in ("0.png", "0.cls"):
            archive.add(root / name, name)
    stream = open_images(f"wds/shards:{tmp_path}?num_classes=1")
    with pytest.raises(ConfigError, match="the data are a stream"):
        load(stream, views=TwoViews(16), superpixels=SEEDS, batch_size=1, cache=cache)
