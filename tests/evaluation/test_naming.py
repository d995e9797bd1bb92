"""Names of segments: by a model whose answer is known, and by a small CLIP beside the released loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as images

import castssl
from castssl.contracts import Encoder
from castssl.data.normalize import normalize
from castssl.encoder_config import BY_HAND, MEAN, STD, EncoderConfig
from castssl.errors import ConfigError
from castssl.evaluation.naming import STYLES, Naming, Style
from castssl.testing.samples import SampleEncoder
from castssl.types import Hierarchy, Tokens, View

SIDE = 8
OBJECTS = {"Apple": (255, 0, 0), "Sea": (0, 0, 255), "Stone": (255, 255, 0)}
PARTS = {"Apple Dark": (128, 0, 0), "Apple Blue": (0, 0, 255), "Sea Red": (255, 0, 0)}
COLORS = {"Background": (0, 0, 0)} | OBJECTS | PARTS
PARTS_OF = [["Apple Dark", "Apple Blue"], ["Sea Red"], []]


class MeanColor(Encoder):
    """An image's vector is the direction from ``rest`` to its mean color; it reads names of colors."""

    uses_superpixels = False
    scale = torch.ones(())

    def __init__(self, rest: Sequence[float], side: int = SIDE) -> None:
        super().__init__()
        self.dim, self.sizes = 3, (1,)
        self.config = EncoderConfig("colors", (0,), (1,), 3, pooling=BY_HAND, image_size=side)
        self.rest = torch.tensor(rest)
        self.seen: list[Tensor] = []
        self.texts: list[tuple[Sequence[str], Sequence[str]]] = []

    def forward(self, view: View) -> Hierarchy:
        assert not self.training
        self.seen.append(view.image)
        color = view.image.mean((2, 3)) * torch.tensor(STD) + torch.tensor(MEAN) - self.rest
        token = color[:, None]
        return Hierarchy(view.segments, (Tokens(token, token, torch.ones(len(color), 1)),), ())

    def zero_shot(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        self.texts.append((names, templates))
        return F.normalize(torch.tensor([COLORS[name] for name in names]) / 255 - self.rest, dim=1)


def by_color(style: Style = "released", side: int = SIDE) -> tuple[MeanColor, Naming]:
    model = MeanColor(STYLES[style].rest, side)
    model.train()
    return model, Naming(model, list(OBJECTS), PARTS_OF, style=style)


def quarters(*ids: int) -> NDArray[np.int32]:
    """Segments top left, top right, bottom left and bottom right."""
    return np.kron(np.array(ids, np.int32).reshape(2, 2), np.ones((SIDE // 2, SIDE // 2), np.int32))


def painted(*names: str) -> NDArray[np.uint8]:
    """An image whose quarters have the colors of names."""
    return np.array([COLORS[name] for name in names], np.uint8)[quarters(0, 1, 2, 3)]


@pytest.mark.parametrize("style", STYLES)
def test_objects_and_only_their_parts(style: Style) -> None:
    model, naming = by_color(style)
    image = painted("Apple", "Sea", "Stone", "Background")
    objects, parts = naming(image, quarters(7, 2, -1, 30), quarters(5, 900, 6, 1))
    assert objects.dtype == parts.dtype == np.int64
    assert objects.tolist() == quarters(1, 2, 3, 0).tolist()
    # The nearest part of all would be "Sea Red" for the apple and "Apple Blue" for the sea.
    assert parts.tolist() == quarters(1, 3, 0, 0).tolist()
    assert model.texts == [
        (["Background", *OBJECTS], ["a photo of a {}"]),
        (list(PARTS), ["a photo of a {}"]),
    ]
    assert [len(seen) for seen in model.seen] == [8]
    assert model.training


def test_a_part_across_objects_belongs_to_that_with_most_of_its_pixels() -> None:
    _, naming = by_color()
    image, whole = painted("Apple", "Sea", "Apple", "Sea"), quarters(0, 1, 0, 1)
    segments = whole.copy()
    segments[:, 3] = 1  # Of its 40 pixels 8 are apple.
    objects, parts = naming(image, whole, segments)
    assert objects.tolist() == (whole + 1).tolist()
    assert parts.tolist() == np.where(segments == 0, 1, 3).tolist()


@pytest.mark.parametrize(("name", "part"), [("Apple", 1), ("Sea", 3), ("Stone", 0), ("Background", 0)])
def test_one_segment_is_the_whole_image(name: str, part: int) -> None:
    model, naming = by_color("paper")
    image, segment = painted(*[name] * 4), quarters(3, 3, 3, 3)
    objects, parts = naming(image, segment, segment)
    assert set(objects.flat) == {[*OBJECTS, "Background"].index(name) + 1 if name in OBJECTS else 0}
    assert set(parts.flat) == {part}
    pixels = normalize(torch.from_numpy(image).permute(2, 0, 1))
    assert torch.equal(model.seen[0], pixels.expand(2, -1, -1, -1))


def test_objects_without_any_parts() -> None:
    model = MeanColor(STYLES["released"].rest)
    segments = quarters(0, 1, 2, 3)
    objects, parts = Naming(model, list(OBJECTS), [()] * 3)(
        painted(*OBJECTS, "Background"), segments, segments
    )
    assert objects.tolist() == quarters(1, 2, 3, 0).tolist()
    assert not parts.any()


def photo(height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_the_released_masking_is_half_after_normalization() -> None:
    model, naming = by_color()
    image, segments = photo(), quarters(1, 0, 4, 4)
    naming(image, segments, quarters(0, 0, 0, 0))
    pixels = normalize(torch.from_numpy(image).permute(2, 0, 1))
    masks = [segments == 0, segments == 1, segments == 4, segments >= 0]
    for shown, inside in zip(model.seen[0], map(torch.from_numpy, masks), strict=True):
        assert torch.equal(shown[:, inside], pixels[:, inside])
        rgb = shown[:, ~inside] * torch.tensor(STD)[:, None] + torch.tensor(MEAN)[:, None]
        clip = (rgb - torch.tensor(OPENAI_CLIP_MEAN)[:, None]) / torch.tensor(OPENAI_CLIP_STD)[:, None]
        torch.testing.assert_close(clip, torch.full_like(clip, 0.5))


def test_the_papers_masking_is_blurred_onto_gray() -> None:
    model, naming = by_color("paper")
    image, segments = photo(), quarters(1, 0, 4, 4)
    naming(image, segments, quarters(0, 0, 0, 0))
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.4**2))
    mask = (segments == 1).astype(np.float64)
    for axis in (0, 1):
        mask = correlate1d(mask, kernel / kernel.sum(), axis, mode="mirror")
    expected = (image / 255 * mask[..., None] + 0.5 * (1 - mask[..., None]) - MEAN) / STD
    np.testing.assert_allclose(model.seen[0][1].permute(1, 2, 0), expected, atol=1e-5)


def test_another_size_is_resized_and_no_segment_is_lost() -> None:
    model, naming = by_color()
    image = photo(3 * SIDE, 2 * SIDE)
    segments = np.zeros(image.shape[:2], np.int32)
    segments[4, 5] = 1
    objects, _ = naming(image, segments, segments)
    assert objects.shape == (3 * SIDE, 2 * SIDE)
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = normalize(torch.from_numpy(np.array(small)).permute(2, 0, 1))
    rest = (torch.tensor(STYLES["released"].rest) - torch.tensor(MEAN)) / torch.tensor(STD)
    expected = rest[:, None, None].repeat(1, SIDE, SIDE)
    expected[:, 1, 2] += (pixels[:, 1, 2] - rest) / 6
    torch.testing.assert_close(model.seen[0][1], expected)


def test_what_cannot_be_named_is_refused() -> None:
    model, naming = by_color()
    with pytest.raises(ConfigError, match=r"SampleEncoder cannot read class names.*clip:"):
        Naming(SampleEncoder(), list(OBJECTS), PARTS_OF)
    with pytest.raises(ConfigError, match=r"each of the 3 objects, got 1 lists"):
        Naming(model, list(OBJECTS), PARTS_OF[:1])
    style: Any = "gray"
    with pytest.raises(ConfigError, match="paper, released, got 'gray'"):
        Naming(model, list(OBJECTS), PARTS_OF, style=style)
    with pytest.raises(ValueError, match=r"height and width \(8, 8\), got \(8, 8\) of objects and \(4, 8\)"):
        naming(photo(), quarters(0, 0, 0, 0), quarters(0, 0, 0, 0)[:4])


@pytest.fixture
def clip(tmp_path: Path) -> Any:
    """A small CLIP with random weights."""
    open_clip = pytest.importorskip("open_clip")
    towers = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    path = tmp_path / "castssl-naming.json"
    path.write_text(json.dumps(towers), encoding="utf-8")
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    encoder: Any = castssl.create("clip:castssl-naming", image_size=32)
    generator = torch.Generator().manual_seed(4)
    for weight in encoder.network.visual.parameters():
        weight.data.normal_(generator=generator)  # Else all images are nearly alike to it.
    return encoder


@torch.no_grad()
def test_as_the_released_loop_names_segments_by_open_clip(clip: Any) -> None:
    names, parts_of = list(OBJECTS), [["Apple Dark"], ["Sea Red"], ["Apple Blue", "Sea Red", "Apple Dark"]]
    image = np.kron(photo(4, 4), np.ones((8, 8, 1), np.uint8))
    fine = np.kron(np.arange(16, dtype=np.int32).reshape(4, 4), np.ones((8, 8), np.int32))
    objects, parts = Naming(clip.train(), names, parts_of)(image, fine // 2, fine)
    pixels = images.normalize(images.to_tensor(image), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    texts = clip.network.encode_text(clip.tokenize([f"a photo of a {name}" for name in COLORS]))
    vectors = dict(zip(COLORS, F.normalize(texts, dim=1), strict=True))

    def nearest(inside: NDArray[np.bool_], names: Sequence[str]) -> int:
        shown = pixels.clone()
        shown[:, ~torch.from_numpy(inside)] = 0.5
        vector = clip.network.eval().encode_image(shown[None])[0]
        return int(torch.stack([vector @ vectors[name] for name in names]).argmax())

    first = np.cumsum([1, *map(len, parts_of)])
    found = set()
    for segment in range(16):
        inside = fine == segment
        number = nearest(fine // 2 == segment // 2, ["Background", *names])
        part = int(first[number - 1]) + nearest(inside, parts_of[number - 1]) if number else 0
        assert set(objects[inside]) == {number}
        assert set(parts[inside]) == {part}
        found |= {(number, part)}
    assert len(found) > 2
