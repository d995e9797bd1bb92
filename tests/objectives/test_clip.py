from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.objectives.clip import CLIP, phrase
from castssl.testing import objectives, samples
from castssl.testing.claims import Check
from castssl.types import Batch, LabelTree, View
from tests.objectives.clips import SIDE, tiny

NAMES = (("bird", "red_fox, Vulpes vulpes"), ("bald eagle", "kit fox", "eft, ..."), ("a", "b", "c", "d"))
PARENTS = ((0, 1, 1), (0, 0, 1, 2))
TEMPLATES = ("a photo of a {}", "{} in the wild")


def tree(levels: int) -> LabelTree:
    names = NAMES[:levels]
    return LabelTree(tuple(map(len, names)), PARENTS[: levels - 1], names)


def made(levels: int, encoder: Any = None, **options: Any) -> CLIP:
    return CLIP(encoder or tiny(), tree(levels), **options)


def look() -> tuple[Tensor, View]:
    """Images in [0, 1], and the view that castssl makes of them."""
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    seen = normalize(images, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return images, View(seen, torch.zeros(3, 0, 0, dtype=torch.int32))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_logits_are_those_that_open_clip_computes(levels: int) -> None:
    encoder = tiny()
    objective = made(levels, encoder).eval()
    images, view = look()
    found = objective.predict(view)
    assert list(found) == [f"level{level}" for level in range(levels)]
    network: Any = encoder.network
    for logits, names in zip(found.values(), NAMES[:levels], strict=True):
        texts = encoder.tokenize([f"a photo of a {phrase(name)}" for name in names])
        expected, _ = network.get_logits(normalize(images, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), texts)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_several_templates_are_averaged_as_unit_vectors() -> None:
    encoder = tiny()
    objective = made(1, encoder, templates=TEMPLATES).eval()
    network: Any = encoder.network
    for at, name in enumerate(NAMES[0]):
        texts = encoder.tokenize([text.format(phrase(name)) for text in TEMPLATES])
        expected = F.normalize(network.encode_text(texts, normalize=True).mean(0), dim=0)
        torch.testing.assert_close(objective.level_heads[0].get_buffer("vectors")[at], expected)


def test_bfloat16_does_not_round_the_logits() -> None:
    objective = made(1, tiny(init_logit_scale=4.6)).eval()
    feature = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.level_heads[0](feature)
    torch.testing.assert_close(found, objective.level_heads[0](feature))


def test_the_image_tower_alone_is_trained() -> None:
    objective, (_, view) = made(2).train(), look()
    objective(Batch([view], torch.tensor([[0, 0], [1, -1], [1, 2]]))).loss.backward()
    taught = {name for name, part in objective.named_parameters() if part.grad is not None}
    wanted = {name for name, _ in objective.named_parameters() if name.startswith("encoder.network.visual.")}
    assert taught == wanted


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eft, ...", "eft"),
        ("red_fox", "red fox"),
        ("cock ,  hen", "cock"),
        ("707-320", "707-320"),
        (",", ","),
    ],
)
def test_a_name_becomes_part_of_a_sentence(name: str, expected: str) -> None:
    assert phrase(name) == expected


def test_what_cannot_be_told_by_names_is_refused() -> None:
    with pytest.raises(ConfigError, match="SampleEncoder cannot read class names"):
        CLIP(samples.SampleEncoder(), tree(1))
    with pytest.raises(ConfigError, match="have no names"):
        CLIP(cast(Encoder, tiny()), LabelTree((2,)))
    with pytest.raises(ConfigError, match="once in each"):
        made(1, templates="a photo")


class Reader(samples.SampleEncoder):
    """The samples' encoder, which reads names as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(10.0))

    def zero_shot(self, names: list[str], templates: list[str]) -> Tensor:
        seeds = [torch.Generator().manual_seed(sum(map(ord, name))) for name in names]
        return F.normalize(torch.stack([torch.randn(self.dim, generator=seed) for seed in seeds]), dim=1)


def on_reader(encoder: Encoder, labels: LabelTree) -> CLIP:
    """The objective on the encoder of the checks, taught to read."""
    encoder.__class__ = Reader
    encoder.register_buffer("scale", torch.tensor(10.0))  # type: ignore[attr-defined]
    return CLIP(encoder, labels)


@pytest.mark.parametrize(
    "check",
    [check for check in objectives.checks if "ranks" not in check.__name__],
    ids=lambda each: each.__name__,
)
def test_contract(check: Check) -> None:
    check(on_reader)
