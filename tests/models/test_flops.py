"""What a model costs, by the published numbers and by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.models.flops import PUBLISHED, account
from castssl.models.sizes import with_sizes
from castssl.objectives.moco import MoCoV3


@pytest.mark.parametrize(("name", "sizes"), [key for key in PUBLISHED if key[0].startswith("cast")])
def test_no_more_than_the_released_code(name: str, sizes: tuple[int, ...]) -> None:
    paper, released = PUBLISHED[name, sizes]
    assert released is not None
    here = account(create(name, sizes=sizes)).macs / 1e9
    assert 0.98 * released < here <= released
    assert 1.06 * here < paper < 1.11 * here


def test_the_vit_baseline_is_the_papers() -> None:
    assert account(create("vit_small")).macs / 1e9 == pytest.approx(4.7, abs=0.11)


def test_another_models_count_is_its_own_papers() -> None:
    """Swin-T has 4.5 GFLOPs and 28.3 million parameters (arXiv:2103.14030, Table 1)."""
    swin = account(create("timm:swin_tiny_patch4_window7_224"))
    assert swin.macs / 1e9 == pytest.approx(4.5, abs=0.05)
    assert swin.parameters == 28_288_354
    assert swin.published == (swin.parameters, swin.trainable)


def by_hand(depths: tuple[int, ...], sizes: tuple[int, ...], dim: int, cells: int) -> list[int]:
    """Stages and poolings by turns, from the layers' definitions."""
    counts = []
    for i, depth in enumerate(depths):
        tokens = 1 + sizes[i]
        block = tokens * 12 * dim * dim + 2 * tokens * tokens * dim
        counts.append(depth * block)
        if i < len(depths) - 1:
            fine, coarse = sizes[i : i + 2]
            attention = fine * 4 * dim * dim + 2 * fine * fine * dim + fine * dim  # The last is a mean.
            assign = fine * coarse * dim + fine * coarse * 4 * dim
            mlp = (1 + fine + 1 + coarse) * 4 * dim * dim
            counts.append(attention + assign + mlp)
    return counts


def test_each_part_is_what_its_layers_say() -> None:
    sizes = (196, 64, 32, 16)
    counted = account(create("cast_small", sizes=sizes))
    staged = [part.macs for part in counted.parts if part.name.startswith(("stage", "pooling"))]
    assert staged[:-1] == by_hand((3, 3, 3, 2), sizes, 384, 784)
    assert staged[-1] == 0, "the coarsest pooling serves no class token"
    assert counted.sampling == sum(fine * (fine + 1) * 384 for fine, _ in pairwise(sizes))
    stem = 3 * 48 * 9 * 112**2 + 48 * 96 * 9 * 56**2 + (96 * 192 + 192 * 384) * 9 * 28**2 + 384**2 * 28**2
    assert counted.parts[0].macs == stem
    assert counted.parts[-1].macs == 1000 * 384


@pytest.mark.parametrize(
    ("name", "options", "classes", "total", "trainable"),
    [
        ("cast_small", {}, (1000,), 28_339_864, 26_260_504),
        ("cast_small_deep", {}, (1000,), 35_437_720, 33_358_360),
        ("cast_base", {}, (1000,), 111_799_624, 104_101_960),
        ("cast_small", {"positions": "learned"}, (1000,), 28_339_864, 26_561_944),
        ("cast_small_seg", {}, (4096,), 30_124_336, 29_822_896),
        ("cast_small_seg", {"image_size": 512}, (1000,), 30_204_184, 28_630_936),
        ("cast_small", {"positions": "learned"}, (10000, 1103, 273), 32_334_624, 30_556_704),
        ("cast_small", {"positions": "learned"}, (34, 17), 27_974_499, 26_196_579),
    ],
)
def test_parameters_are_the_published_ones(
    name: str, options: dict[str, Any], classes: tuple[int, ...], total: int, trainable: int
) -> None:
    # Parameters do not depend on the sizes, and few tokens are sampled sooner.
    encoder = create(name, sizes=(10, 8, 6, 4), **options)
    assert account(encoder, classes=classes).published == (total, trainable)


def test_the_segmenters_encoder_has_what_the_released_one_uses() -> None:
    encoder = create("cast_small_dense", sizes=(10, 8, 6, 4), positions="learned")
    # The released one holds a head and a last norm, too, which nothing calls.
    unused = (1000 * 384 + 1000) + 2 * 384
    assert account(encoder, classes=()).published == (28_933_144 - unused,) * 2


@pytest.mark.parametrize(("name", "trainable"), [("cast_small", 47_395_888), ("cast_small_seg", 49_766_320)])
def test_moco_has_the_published_number_of_parameters(name: str, trainable: int) -> None:
    method = MoCoV3(create(name), LabelTree.none())
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == trainable


def test_counting_leaves_the_encoder_as_it_was() -> None:
    encoder = create("nano", image_size=32, sizes=(64, 8, 4))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    account(encoder, image_size=32)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_other_sizes_cost_otherwise_with_the_same_weights() -> None:
    encoder = create("nano", sizes=(64, 8, 4, 2))
    own, more = account(encoder), account(with_sizes(encoder, (64, 12, 6, 2)))
    assert own.parameters == more.parameters
    assert own.macs < more.macs
    assert next(part.name for part in more.parts if "pooling" in part.name) == "pooling 0: 64 to 12"


def test_an_area_membership_is_counted_between_the_parts() -> None:
    parts = {
        part.name: part.macs for part in account(create("nano", sizes=(64, 8, 4), membership="area")).parts
    }
    assert parts["between the parts"] == 56 * 56 * 64 * 64
