"""What is no image, no model or no view is refused in words; random states are left alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import castssl
import castssl.models
from castssl.checkpoints.hub import save_pretrained
from castssl.data.normalize import normalize
from castssl.errors import ContractError, DataError

PICTURE = (np.arange(64 * 64 * 3) % 251).astype(np.uint8).reshape(64, 64, 3)


@pytest.fixture(scope="module")
def encoder() -> Any:
    return castssl.create("nano", image_size=64).eval()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(8, 8, 3), r"got torch.float32 of shape \(8, 8, 3\)"),
        (torch.zeros(2), r"got torch.float32 of shape \(2,\)"),
        ([PICTURE, None], "got a NoneType"),
        ({"image": PICTURE}, "got a dict"),
        (None, "got a NoneType"),
        (3, "got a int"),
    ],
)
def test_segment_takes_images_alone(encoder: Any, image: Any, words: str) -> None:
    with pytest.raises(DataError, match=rf"expected a file's path, a PIL image.*{words}"):
        castssl.segment(image, encoder)


def test_segment_says_what_becomes_an_encoder() -> None:
    foreign = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1)
    with pytest.raises(DataError, match=r"VisionTransformer.*castssl\.create\('timm:NAME'\)"):
        castssl.segment(PICTURE, foreign)
    given: Any
    for given in (None, 5, torch.nn.Linear(1, 1)):
        with pytest.raises(DataError, match="expected an encoder, a run's folder"):
            castssl.segment(PICTURE, given)


def test_segment_takes_a_cast_of_timm(encoder: Any) -> None:
    model: Any = timm.create_model("cast_nano", pretrained=False, img_size=64, superpixels="grid:cell=8")
    model.encoder.load_state_dict(encoder.state_dict())
    found = castssl.segment(PICTURE, model, image_size=64)
    expected = castssl.segment(PICTURE, encoder, superpixels="grid:cell=8", image_size=64)
    assert torch.equal(found.labels(0), expected.labels(0))


@pytest.mark.parametrize("name", ["nano", "timm:vit_tiny_patch16_224"])
def test_an_encoder_takes_a_view_of_a_normalized_image(name: str) -> None:
    model: Any = castssl.create(name, image_size=32).eval()
    raw = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    segments = torch.zeros(1, 32, 32, dtype=torch.int32)
    with pytest.raises(ContractError, match=r"bare tensor of shape \(1, 3, 32, 32\).*castssl\.segment"):
        model(raw.float())
    with pytest.raises(ContractError, match=r"torch\.uint8 of shape.*normalize"):
        model(castssl.View(raw, segments))
    with pytest.raises(ContractError, match=r"float \(B, 3, H, W\)"):
        model(castssl.View(raw[:, :1].float(), segments))
    assert torch.isfinite(model(castssl.View(normalize(raw), segments)).stages[-1].cls).all()


def states() -> tuple[Any, Any, Tensor]:
    numbers: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (numbers[1].tolist(), numbers[2]), torch.get_rng_state()


def test_create_and_segment_leave_the_random_states_alone(tmp_path: Any) -> None:
    torch.manual_seed(3)
    before = states()
    first: Any = castssl.create("nano", image_size=64)
    again: Any = castssl.create("nano", image_size=64, pooling="random")
    save_pretrained(first, tmp_path / "kept")
    for model in (first, again, tmp_path / "kept"):
        castssl.segment(PICTURE, model)
    after = states()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_the_seed_still_decides_the_weights() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        model: Any = castssl.create("nano")
        return torch.as_tensor(model.stages[0].blocks[0].mlp.fc1.weight)

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
