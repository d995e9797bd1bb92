"""timm's own Mixup, with its arguments and draws, is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from castssl.errors import ConfigError
from castssl.objectives.mixing import Mixing
from castssl.types import View


def view(count: int, seed: int = 0) -> View:
    draw = torch.Generator().manual_seed(seed)
    return View(
        torch.randn(count, 3, 12, 10, generator=draw), torch.arange(120).view(12, 10).expand(count, -1, -1)
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_images_and_targets_are_those_of_timm(mixup: float, cutmix: float, seed: int) -> None:
    given, path = view(6), torch.tensor([[0], [3], [1], [4], [4], [2]])
    options = {"label_smoothing": 0.1, "num_classes": 5}
    np.random.seed(seed)  # noqa: NPY002
    timms = Mixup(mixup, cutmix, **options)  # type: ignore[no-untyped-call]
    images, target = timms(given.image.clone(), path[:, 0])
    np.random.seed(seed)  # noqa: NPY002
    mixed, (ours,) = Mixing((5,), mixup=mixup, cutmix=cutmix, smoothing=0.1)(given, path)
    assert torch.equal(mixed.image, images)
    assert torch.equal(ours, target)


def test_both_ways_of_mixing_occur() -> None:
    """Blending touches every pixel; pasting leaves some, and takes the others over as they are."""
    given, path = view(2), torch.tensor([[0], [1]])
    mixing, blended, pasted = Mixing((2,)), 0, 0
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        image = mixing(given, path)[0].image
        kept = (image == given.image) | (image == given.image.flip(0))
        blended += int(not kept.any())
        pasted += int(kept.all() and not torch.equal(image, given.image))
    assert min(blended, pasted) >= 4
    assert blended + pasted <= 20


def test_the_view_that_is_given_stays_as_it_is_and_segments_are_not_mixed() -> None:
    given = view(4)
    before = given.image.clone()
    mixed, _ = Mixing((2,))(given, torch.zeros(4, 1, dtype=torch.int64))
    assert torch.equal(given.image, before)
    assert mixed.segments is given.segments


def test_all_levels_share_one_draw() -> None:
    coarse = torch.tensor([0, 1, 0, 1])
    fine = coarse * 2
    for seed in range(5):
        np.random.seed(seed)  # noqa: NPY002
        _, (above, below) = Mixing((2, 4), smoothing=0.0)(view(4), torch.stack([coarse, fine], 1))
        assert torch.allclose(above, below[:, [0, 2]])
        assert torch.allclose(above.sum(1), torch.ones(4))


def test_without_mixing_targets_are_smoothed_only() -> None:
    given = view(3)
    mixed, (target,) = Mixing((4,), mixup=0, cutmix=0, smoothing=0.2)(given, torch.tensor([[1], [0], [3]]))
    assert torch.equal(mixed.image, given.image)
    assert torch.allclose(target[0], torch.tensor([0.05, 0.85, 0.05, 0.05]))


def test_the_middle_of_an_odd_batch_is_its_own_partner() -> None:
    given, path = view(3), torch.tensor([[0], [1], [2]])
    np.random.seed(1)  # noqa: NPY002
    mixed, (target,) = Mixing((3,), cutmix=0, smoothing=0)(given, path)
    torch.testing.assert_close(mixed.image[1], given.image[1])
    assert target[1].tolist() == pytest.approx([0, 1, 0])
    share = float(target[0, 0])
    torch.testing.assert_close(mixed.image[0], share * given.image[0] + (1 - share) * given.image[2])


@pytest.mark.parametrize("options", [{"mixup": -1.0}, {"cutmix": -0.1}, {"smoothing": 1.5}, {"prob": 2.0}])
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(options.values())))):
        Mixing((2,), **options)
