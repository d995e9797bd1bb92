"""``cast`` and ``kmeans`` as segmenters, against what the encoder itself returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

import castssl
from castssl.checkpoints.native import save_encoder
from castssl.contracts import Encoder
from castssl.data.normalize import normalize
from castssl.errors import ConfigError, DataError
from castssl.pooling.spherical_kmeans import spherical_kmeans
from castssl.registry import build_segmenter
from castssl.segmenters.encoders import KMeans, fill
from castssl.testing.segmenters import images
from castssl.types import View

IMAGE = images()["sample-1.png"]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Encoder]:
    """The path of an encoder's weights, and the encoder."""
    torch.manual_seed(0)
    encoder = castssl.create("nano", image_size=32).eval()
    path = save_encoder(encoder, tmp_path_factory.mktemp("nano") / "encoder.safetensors")
    return str(path), encoder


def same_partition(one: NDArray[np.integer], other: NDArray[np.integer]) -> bool:
    """True if two label maps differ in the numbers of their segments alone."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return bool(len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1])


def test_cast_is_the_hierarchy_of_castssl_segment(nano: tuple[str, Encoder]) -> None:
    path, encoder = nano
    maps = build_segmenter(f"cast:{path},image_size=48")(IMAGE)
    found = castssl.segment(Image.fromarray(IMAGE), encoder, image_size=48)
    assert len(maps) == len(found) == len(encoder.sizes)
    for stage, level in enumerate(maps):
        labels = found.labels(stage).numpy()
        assert same_partition(level[labels >= 0], labels[labels >= 0])
    half = build_segmenter(f"cast:{path},image_size=48,sizes=(196,16,8,4)")(IMAGE)
    assert (half.max((1, 2)) < [196, 16, 8, 4]).all()


def test_a_pooling_before_a_stage_without_blocks_is_untrained(
    nano: tuple[str, Encoder], tmp_path: Path
) -> None:
    assert build_segmenter(f"cast:{nano[0]}").untrained == 1
    assert not any(weight.requires_grad for weight in nano[1].get_submodule("poolings.2").parameters())
    whole = castssl.create("nano", image_size=32, depths=(1, 1, 1, 1))
    path = save_encoder(whole, tmp_path / "encoder.safetensors")
    assert build_segmenter(f"cast:{path}").untrained == build_segmenter(f"kmeans:{path}").untrained == 0
    assert all(weight.requires_grad for weight in whole.get_submodule("poolings.2").parameters())


def test_no_loss_of_a_fused_encoder_reaches_the_assignment_of_its_last_pooling() -> None:
    torch.manual_seed(0)
    encoder = castssl.create("nano_seg", image_size=32)
    cells = torch.arange(64).reshape(8, 8).kron(torch.ones(4, 4, dtype=torch.int64))
    view = View(torch.rand(2, 3, 32, 32), cells.expand(2, 32, 32).int())
    (encoder(view).stages[-1].cls.sum() + encoder.dense(view).x.sum()).backward()
    moved = {
        place: {
            name.partition(".")[0]
            for name, weight in encoder.get_submodule(f"poolings.{place}").named_parameters()
            if weight.grad is not None and bool(weight.grad.any())
        }
        for place in (1, 2)
    }
    assert moved == {1: {"attn", "bias", "fc1", "fc2", "norm"}, 2: {"fc1", "fc2"}}


def test_pixels_without_a_segment_get_those_of_the_nearest_pixel() -> None:
    draw = np.random.default_rng(0)
    maps = draw.integers(0, 9, (2, 12, 14))
    without = draw.random((12, 14)) < 0.6
    maps[:, without] = -1
    filled = fill(maps)
    inside = np.argwhere(~without)
    for y, x in np.argwhere(without):
        apart = ((inside - (y, x)) ** 2).sum(1)
        nearest = {tuple(maps[:, a, b]) for a, b in inside[apart == apart.min()]}
        assert tuple(filled[:, y, x]) in nearest
    assert (filled[:, ~without] == maps[:, ~without]).all()
    assert (fill(np.full((1, 2, 2), -1)) == -1).all()


def test_kmeans_of_a_grid_clusters_tokens_and_then_means() -> None:
    segmenter = build_segmenter("kmeans:timm:test_vit,pretrained=false,sizes=(5,2),image_size=64,seed=3")
    assert isinstance(segmenter, KMeans)
    maps = segmenter(IMAGE)
    seen = np.asarray(Image.fromarray(IMAGE).resize((64, 64), Image.Resampling.BILINEAR))
    view = View(normalize(torch.tensor(seen).permute(2, 0, 1)[None]), torch.zeros(1, 64, 64).int())
    with torch.no_grad():
        tokens = segmenter.encoder.dense(view)
    assert tokens.grid is not None
    valid = torch.ones(1, tokens.x.shape[1], dtype=torch.bool)
    weight = torch.full(valid.shape, 64 * 64 / valid.shape[1])
    fine = spherical_kmeans(tokens.x, valid, 5, weight=weight, seed=3)
    present = fine.mass > 0
    coarse = spherical_kmeans(fine.centers, present, 2, seed=3)
    # The features themselves are interpolated here, and their cosines there.
    columns = tokens.x.transpose(1, 2).unflatten(2, tokens.grid)
    pixels = F.interpolate(columns, IMAGE.shape[:2], mode="bilinear")[0].flatten(1).T
    cosines = (F.normalize(pixels, dim=1) @ fine.centers[0].T).masked_fill(~present, -torch.inf)
    labels = cosines.argmax(1).view(IMAGE.shape[:2])
    assert len(labels.unique()) > 2
    assert same_partition(maps[0], labels.numpy())
    assert same_partition(maps[1], coarse.group[0][labels].numpy())


def test_kmeans_of_superpixels_keeps_them_whole(nano: tuple[str, Encoder]) -> None:
    maps = build_segmenter(f"kmeans:{nano[0]},sizes=(7,3),image_size=48")(IMAGE)
    superpixels = build_segmenter(f"cast:{nano[0]},image_size=48")(IMAGE)[0]
    assert maps.max((1, 2)).tolist() == [6, 2]
    pairs = np.unique(np.stack([superpixels.ravel(), maps[0].ravel()]), axis=1)
    assert pairs.shape[1] == superpixels.max() + 1


def test_an_image_with_fewer_directions_than_clusters_has_fewer_segments(nano: tuple[str, Encoder]) -> None:
    maps = build_segmenter("kmeans:timm:test_vit,pretrained=false,image_size=32")(IMAGE)
    assert (maps.max((1, 2)) < [4, 4, 4]).all()  # It has four tokens.


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("cast", DataError, "got no weights"),
        ("kmeans", DataError, "got no weights"),
        ("cast:nowhere", DataError, "no weights at nowhere"),
        ("kmeans:timm:test_vet", ConfigError, "timm knows no model 'test_vet'"),
        ("kmeans:timm:test_vit,sizes=(8,16)", ConfigError, "fine to coarse"),
        ("cast:nowhere,device=abacus", DataError, "no weights"),
        ("kmeans:timm:test_vit,pretrained=false,device=abacus", ConfigError, "'abacus'"),
    ],
)
def test_what_cannot_be_built_is_refused(spec: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build_segmenter(spec)


def test_weights_of_timm_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, *, pretrained: bool, **options: object) -> None:
        assert pretrained
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DataError, match=r"OSError: no network.*pretrained=false"):
        build_segmenter("kmeans:timm:test_vit")


@pytest.mark.parametrize("kind", ["cast", "kmeans"])
def test_a_model_of_other_channels_is_refused(kind: str, tmp_path: Path) -> None:
    encoder = castssl.create("nano", image_size=32, channels=4)
    path = save_encoder(encoder, tmp_path / "encoder.safetensors")
    with pytest.raises(ConfigError, match="expected a model of RGB images, got 4 channels"):
        build_segmenter(f"{kind}:{path}")


def test_random_weights_follow_the_seed() -> None:
    one, same, other = (
        build_segmenter(f"kmeans:timm:test_vit,pretrained=false,image_size=64,seed={seed}")(IMAGE)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
