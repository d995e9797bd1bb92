"""Images and label maps that encode the positions of their pixels stay aligned in every draw."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from castssl.contracts import LabelMaps, Superpixels
from castssl.data.dense_views import (
    DenseAugment,
    RandomDenseView,
    WholeView,
    distort_colors,
    scaled_size,
)
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import Loader, load
from castssl.data.rng import seeded
from castssl.data.superpixel_cache import Cache
from castssl.data.views import CroppedView
from castssl.datasets.folder import Files
from castssl.datasets.images import Images
from castssl.datasets.label_maps import class_table
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.superpixels.grid import Grid
from castssl.superpixels.seeds import Seeds

sides = st.integers(1, 90)
seeds = st.integers(0, 10_000)


def positions(width: int, height: int) -> tuple[Image.Image, NDArray[np.int32]]:
    """An image whose red is the column and green the row, and a map of both: column + 256 * row."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([2 * columns, 2 * rows, np.full_like(rows, 200)], -1).astype(np.uint8)
    return Image.fromarray(pixels), (columns + 256 * rows).astype(np.int32)


@given(width=sides, height=sides, seed=seeds, size=st.integers(1, 64), low=st.floats(0.2, 1))
@settings(deadline=None, max_examples=150)
def test_image_and_map_stay_aligned(width: int, height: int, seed: int, size: int, low: float) -> None:
    image, labels = positions(width, height)
    augment = RandomDenseView(size, shorter=max(size // 2, 1), scales=(low, 2 * low), largest=1.0)
    with seeded(seed):
        view, classes = augment.crop_labels(image, labels)
    assert view.image.shape == (3, size, size)
    assert classes.shape == (size, size)
    known = classes >= 0
    assert known.any()
    assert view.image.permute(1, 2, 0)[~known].eq(torch.tensor((124, 116, 104))).all()
    rows, columns = known.any(1), known.any(0)
    assert torch.equal(known, rows[:, None] & columns)  # Shown is a rectangle, in the top left corner.
    assert rows[: int(rows.sum())].all()
    assert columns[: int(columns.sum())].all()
    # A pixel shows its nearest stored pixel up to half a pixel and the rounding of colors: two gray values.
    for channel, stored in ((0, classes % 256), (1, classes // 256)):
        apart = (view.image[channel].float() / 2 - stored).abs()[known]
        assert float(apart.max()) <= 0.5 + 0.51
    _check_box(view.box, view.flipped, classes, width, height)


def _check_box(
    box: tuple[float, float, float, float], flipped: bool, classes: Tensor, width: int, height: int
) -> None:
    """The place that the view records is where the map says that it lies, up to a stored pixel."""
    known = classes[classes >= 0]
    columns, rows = known % 256, known // 256
    assert 0 <= box[0] < box[2] <= 1
    assert 0 <= box[1] < box[3] <= 1
    for low, high, got in (
        (box[0] * width, box[2] * width, columns),
        (box[1] * height, box[3] * height, rows),
    ):
        assert low - 1 <= int(got.min())
        assert int(got.max()) <= high
    first = classes[0][classes[0] >= 0] % 256
    if int(first[0]) != int(first[-1]):
        assert flipped == bool(first[0] > first[-1])


@given(seed=seeds)
@settings(deadline=None, max_examples=30)
def test_a_draw_depends_on_the_seed_alone(seed: int) -> None:
    image, labels = positions(50, 37)
    augment = RandomDenseView(24, distort=True)
    drawn = []
    for _ in range(2):
        with seeded(seed, 3):
            drawn.append(augment.crop_labels(image, labels))
        torch.rand(3)
    assert torch.equal(drawn[0][0].image, drawn[1][0].image)
    assert torch.equal(drawn[0][1], drawn[1][1])


def test_scale_crop_and_flip_vary_within_their_limits() -> None:
    augment = RandomDenseView(16, shorter=32)
    image, labels = positions(64, 32)
    with seeded(0):
        places = [augment.draw(image.size, labels) for _ in range(300)]
    heights = [place.scaled[1] for place in places]
    assert min(heights) in (16, 17)
    assert max(heights) in (63, 64)
    assert all(abs(place.scaled[0] - 2 * place.scaled[1]) <= 1 for place in places)
    assert 100 < sum(place.flipped for place in places) < 200
    assert len({place.left for place in places}) > 40


def test_a_crop_of_one_class_is_drawn_again() -> None:
    labels = np.zeros((64, 64), dtype=np.int32)
    labels[:32] = 1
    image = Image.new("RGB", (64, 64))
    mixed = dict.fromkeys((0.75, 1.0), 0)
    for largest in mixed:
        augment = RandomDenseView(16, shorter=64, scales=(1, 1), largest=largest)
        with seeded(0):
            for _ in range(100):
                mixed[largest] += len(augment.crop_labels(image, labels)[1].unique()) > 1
    assert mixed[0.75] > 70
    assert mixed[1.0] < 50


def test_the_whole_view_is_the_same_each_time_and_keeps_the_maps_size() -> None:
    image, labels = positions(100, 60)
    view, classes = WholeView(32).crop_labels(image, labels)
    assert view.image.shape == (3, 32, 53)
    assert torch.equal(classes, torch.from_numpy(labels).long())
    assert torch.equal(view.image, WholeView(32).crop_labels(image, None)[0].image)
    assert view.box == (0, 0, 1, 1)


def test_a_slim_image_does_not_become_large() -> None:
    assert scaled_size((20_000, 1), 512, 4) == (2048, 1)
    assert scaled_size((683, 512), 512, 4) == (683, 512)
    assert scaled_size((683, 512), 1024, 4) == (1366, 1024)


def test_distortion_is_off_by_default_and_changes_colors_only() -> None:
    image, labels = positions(40, 40)
    plain, other = (RandomDenseView(40, scales=(1, 1), flip=0, distort=on) for on in (False, True))
    with seeded(1):
        same, classes = plain.crop_labels(image, labels)
    assert torch.equal(same.image, torch.from_numpy(np.array(image)).permute(2, 0, 1))
    with seeded(1):
        changed, kept = other.crop_labels(image, labels)
    assert torch.equal(kept, classes)
    assert not torch.equal(changed.image, same.image)


def test_distortion_keeps_shape_and_dtype_and_often_leaves_colors_as_they_are() -> None:
    pixels = np.asarray(positions(9, 7)[0])
    with seeded(0):
        drawn = [distort_colors(pixels) for _ in range(200)]
    assert {(array.shape, array.dtype) for array in drawn} == {((7, 9, 3), np.dtype(np.uint8))}
    assert 2 <= sum(np.array_equal(array, pixels) for array in drawn) <= 40  # A sixteenth is expected.


@pytest.mark.parametrize(
    "options", [{"scales": (0.0, 1.0)}, {"scales": (2.0, 1.0)}, {"slim": 0.5}, {"largest": 0}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected|needs"):
        RandomDenseView(32, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        WholeView(0)


def data(
    folder: Path, sizes: tuple[tuple[int, int], ...] = ((40, 30), (24, 50), (33, 33), (20, 20))
) -> Images:
    """Images and label maps of four classes, on disk."""
    for number, (width, height) in enumerate(sizes):
        draw = np.random.default_rng(number)
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        classes = draw.integers(0, 4, (height, width), dtype=np.uint8)
        classes[:, :2] = 255
        Image.fromarray(classes).save(folder / f"{number}_map.png")
    files, maps = (Files(folder, [f"{n}{end}.png" for n in range(len(sizes))]) for end in ("", "_map"))
    empty = torch.empty(len(sizes), 0, dtype=torch.int64)
    table = LabelMaps(maps, class_table(4))
    return Images(files, np.arange(len(sizes)), empty, LabelTree.none(), maps=table)


def loader(
    images: Images, views: DenseAugment, superpixels: Superpixels | None = None, **options: object
) -> Loader:
    settings: dict[str, object] = {"batch_size": 2, "seed": 5} | options
    return load(images, views=views, superpixels=superpixels, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("superpixels", [Grid(4, runs_on="worker"), Seeds(16)])
def test_batches_of_maps_do_not_depend_on_workers_and_processes(
    tmp_path: Path, superpixels: Superpixels
) -> None:
    images, views = data(tmp_path), RandomDenseView(32, distort=True)
    build = partial(loader, images, views, superpixels)
    whole = list(build())
    for batch in whole:
        ((image, segments),) = batch.views
        assert image.shape == (2, 3, 32, 32)
        assert batch.target.dtype == torch.int64
        assert batch.target.shape == segments.shape == (2, 32, 32)
        assert set(batch.target.unique().tolist()) <= {-1, 0, 1, 2, 3}
    forked = list(build(workers=2))
    shared = [list(build(rank=rank, world=2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        parts = [shared[rank][step] for rank in range(2)]
        for other in (forked[step].target, torch.cat([part.target for part in parts])):
            assert torch.equal(batch.target, other)
        for field in range(2):
            assert torch.equal(batch.views[0][field], torch.cat([part.views[0][field] for part in parts]))
    again = build()
    again.set_epoch(1)
    assert not torch.equal(next(iter(again)).target, whole[0].target)
    again.set_epoch(0, 1)
    assert torch.equal(next(iter(again)).target, whole[1].target)


@given(seed=seeds)
@settings(deadline=None, max_examples=15)
def test_superpixels_of_the_padded_part_are_those_of_the_padded_view(seed: int) -> None:
    """They fit the capacity, whatever the share of padding, and padding of a whole superpixel is unknown."""
    image, labels = positions(40, 30)
    with seeded(seed):
        view, classes = RandomDenseView(64, shorter=30, scales=(0.5, 1.0)).crop_labels(image, labels)
    assert (classes < 0).float().mean() > 0.5
    for superpixels in (Grid(8), Seeds(64)):
        segments = superpixels(view.image[None])[0]
        assert segments.shape == classes.shape
        assert int(segments.max()) < superpixels.capacity(64, 64)
        padded = segments[int((classes >= 0).any(1).sum()) + 16 :]
        inside = segments[classes >= 0]
        assert not set(padded.unique().tolist()) & set(inside.unique().tolist())


def test_device_superpixels_are_left_to_the_device(tmp_path: Path) -> None:
    batch = next(iter(loader(data(tmp_path), RandomDenseView(32))))
    assert batch.views[0].segments.shape == (2, 0, 0)
    assert batch.target.shape == (2, 32, 32)


def test_whole_views_come_one_by_one_with_maps_of_the_images_own_sizes(tmp_path: Path) -> None:
    batches = list(loader(data(tmp_path), WholeView(16), batch_size=1, train=False))
    assert [tuple(batch.target.shape) for batch in batches] == [
        (1, 30, 40),
        (1, 50, 24),
        (1, 33, 33),
        (1, 20, 20),
    ]
    assert [min(batch.views[0].image.shape[-2:]) for batch in batches] == [16] * 4
    with pytest.raises(ConfigError, match="got 2 images per process, expected 1"):
        loader(data(tmp_path), WholeView(16), batch_size=4, rank=0, world=2, train=False)


def test_dense_views_need_label_maps(tmp_path: Path) -> None:
    images = data(tmp_path)
    images.maps = None
    with pytest.raises(ConfigError, match="needs images with label maps"):
        loader(images, RandomDenseView(32))


def test_the_superpixel_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--superpixel-cache does not fit"):
        loader(data(tmp_path), RandomDenseView(32), Seeds(16), cache=Cache(tmp_path / "cache"))


def test_other_views_of_these_images_have_no_labels(tmp_path: Path) -> None:
    """Self-supervised training on the images of a segmentation data set."""
    batch = next(iter(load(data(tmp_path), views=CenterView(16), superpixels=None, batch_size=2)))
    assert batch.target.shape == (2, 0)


def test_a_broken_label_map_is_replaced_and_a_wrong_one_stops_the_run(tmp_path: Path) -> None:
    images = data(tmp_path)
    (tmp_path / "1_map.png").write_bytes((tmp_path / "1_map.png").read_bytes()[:60])
    (tmp_path / "2_map.png").unlink()
    loaded = loader(images, WholeView(16), batch_size=1, train=False)
    shapes = [tuple(batch.target.shape) for batch in loaded]
    assert shapes == [(1, 30, 40), (1, 20, 20), (1, 20, 20), (1, 20, 20)]
    assert len(loaded.bad) == 2
    assert "its label map" in loaded.bad[str(tmp_path / "1.png")]
    Image.new("L", (20, 21)).save(tmp_path / "3_map.png")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"3_map.png has 20 x 21 pixels, expected 20 x 20"):
            list(loader(images, WholeView(16), batch_size=1, train=False, workers=workers))


def test_native_scales_are_of_the_images_own_sides() -> None:
    """Whatever its shape: 90 x 20 pixels are more than four times as wide as they are high."""
    image, labels = positions(90, 20)
    for scale in (0.5, 1.0, 1.5):
        augment = RandomDenseView(64, native=True, scales=(scale, scale), largest=1)
        place = augment.draw(image.size, labels)
        assert place.scaled == (90 * scale, 20 * scale)
        assert (place.width, place.height) == (min(90 * scale, 64), 20 * scale)
    view, classes = WholeView(None).crop_labels(image, labels)
    assert np.array_equal(view.image.permute(1, 2, 0).numpy(), np.asarray(image))
    assert np.array_equal(classes.numpy(), labels)


def test_superpixels_of_a_reduced_view_stay_at_its_resolution(tmp_path: Path) -> None:
    superpixels = Seeds(16)
    batch = next(iter(loader(data(tmp_path), RandomDenseView(32, reduction=2), superpixels)))
    (view,) = batch.views
    assert view.image.shape[2:] == (32, 32)
    # Bilinear at half the side is the mean of 2 x 2 pixels, up to rounding.
    small = torch.nn.functional.avg_pool2d(view.image.float(), 2)
    reduced = RandomDenseView(32, reduction=2).reduced
    for at in range(len(view.image)):
        seen = reduced(CroppedView(view.image[at], (0, 0, 1, 1), False)).image
        assert (seen.float() - small[at]).abs().max() <= 0.5
        assert torch.equal(view.segments[at], superpixels(seen[None])[0])
    with pytest.raises(ConfigError, match="a divisor of the size"):
        RandomDenseView(33, reduction=2)
