from __future__ import annotations

import pytest
import torch

from castssl.labels import LabelTree
from castssl.testing import samples


def test_pixels_are_images_with_regions() -> None:
    images = samples.pixels(3, 40, 56, seed=1)
    assert images.dtype == torch.uint8
    assert images.shape == (3, 3, 40, 56)
    assert torch.equal(images, samples.pixels(3, 40, 56, seed=1))
    assert not torch.equal(images[0], images[1])


def test_looks_share_their_images_and_nothing_else() -> None:
    first, second, stranger = samples.view(noise=0), samples.view(noise=1), samples.view(seed=1)
    near = (first.image - second.image).abs().mean()
    far = (first.image - stranger.image).abs().mean()
    assert 0 < near < 0.5 * far


@pytest.mark.parametrize("tree", samples.TREES)
@pytest.mark.parametrize("views", [1, 2])
def test_batches_fit_their_tree(tree: LabelTree, views: int) -> None:
    batch = samples.batch(views, tree, 6)
    assert len(batch.views) == views
    if not tree.exclusive:
        assert batch.target.dtype == torch.float32
        assert batch.target.shape == (6, tree.sizes[-1])
        assert batch.target.unique().tolist() == [-1, 0, 1]
        return
    assert batch.target.dtype == torch.int64
    assert batch.target.shape == (6, tree.levels)
    for level, parents in enumerate(tree.parents):
        assert batch.target[:, level].tolist() == [parents[fine] for fine in batch.target[:, level + 1]]


def test_tokens_hold_what_is_needed_and_padding_in_all_but_the_first_image() -> None:
    plain, full = samples.tokens(), samples.tokens({"keys", "received"})
    assert plain.keys is None
    assert plain.received is None
    assert full.keys is not None
    assert full.received is not None
    assert (full.mass <= 0).sum(1).tolist() == [0, samples.PADDED]
    assert bool((full.received[full.mass <= 0] == 0).all())


def test_the_sample_encoder_is_an_encoder() -> None:
    encoder = samples.SampleEncoder()
    hierarchy = encoder(samples.view())
    assert tuple(stage.x.shape[1] for stage in hierarchy.stages) == encoder.sizes
    for stage in hierarchy.stages:
        assert stage.mass.sum(1).tolist() == [samples.SIDE**2] * 4
    for assign, coarse in zip(hierarchy.assigns, hierarchy.stages[1:], strict=True):
        assert bool((assign.sum(-1) == 1).all())
        assert assign.shape[-1] == coarse.x.shape[1]
    hierarchy.stages[-1].cls.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
    assert sorted(set(hierarchy.labels(-1).flatten().tolist())) == [0, 1, 2, 3]


def test_the_pyramid_widens_and_its_blocks_can_be_visited() -> None:
    encoder, view = samples.SamplePyramid((4, 6, 10)), samples.view()
    hierarchy = encoder(view)
    assert [stage.x.shape[1:] for stage in hierarchy.stages] == [(16, 4), (8, 6), (4, 10)]
    for stage in hierarchy.stages:
        assert stage.mass.sum(1).tolist() == [samples.SIDE**2] * 4
    for assign, count in zip(hierarchy.assigns, (16, 8), strict=True):
        assert assign.tolist() == [[token // 2 for token in range(count)]] * 4
    hierarchy.stages[-1].cls.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
    zeros = encoder.visit_blocks(view, lambda stage, tokens: torch.zeros_like(tokens.x))
    assert not any(stage.x.any() for stage in zeros.stages)
