"""CLIP: the encoder of open_clip's models, and classes of all levels told by their names."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

import castssl
from castssl.checkpoints.hub import save_pretrained
from castssl.contracts import Encoder
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.testing import Check, encoders, objectives, samples
from castssl.text import phrase
from castssl.types import Batch, View
from castssl_baselines.clip import CLIP
from castssl_baselines.clip_encoder import ClipEncoder, named

open_clip: Any = pytest.importorskip("open_clip")

SIDE = 32
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@cache
def tokenizer() -> Any:
    """Made once: it reads a long table."""
    return open_clip.SimpleTokenizer(context_length=24)


def tiny(**options: Any) -> ClipEncoder:
    """A CLIP of two small towers, with weights drawn at random and open_clip's own tokenizer."""
    torch.manual_seed(0)
    network = open_clip.CLIP(**CONFIG, **options)
    return ClipEncoder(network, tokenizer())


def view(batch: int = 2, side: int = SIDE) -> View:
    image = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    return View(image, torch.zeros(batch, 0, 0, dtype=torch.int32))


@pytest.fixture
def architecture(tmp_path: Path) -> str:
    """The name of a small architecture that open_clip knows."""
    path = tmp_path / "castssl-tiny.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    open_clip.add_model_config(path)
    return path.stem


def test_one_stage_of_cells_and_the_image_vector() -> None:
    encoder = tiny().eval()
    found = encoder(view())
    network: Any = encoder.network
    (stage,) = found.stages
    assert (encoder.dim, encoder.sizes) == (16, (16,))
    assert encoder.stage_dims == (32,)
    assert stage.x.shape == (2, 16, 32)
    assert (
        found.labels(0) == torch.arange(16).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    ).all()
    image = view().image * encoder.factor + encoder.shift
    torch.testing.assert_close(stage.cls[:, 0], network.encode_image(image))


def test_texts_are_frozen_and_the_copy_reads_the_same() -> None:
    encoder = tiny()
    trained = {name for name, part in encoder.named_parameters() if part.requires_grad}
    assert trained == {f"network.visual.{name}" for name, _ in encoder.network.visual.named_parameters()}  # type: ignore[union-attr]
    copied = copy.deepcopy(encoder)
    names, texts = ["fox", "eagle"], ["a photo of a {}"]
    vectors = encoder.zero_shot(names, texts)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(copied.zero_shot(names, texts), vectors)
    assert encoder.training
    assert copied.scale == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize(("default", "own"), [("cpu", "meta"), ("meta", "cpu")])
def test_constants_are_on_the_device_of_the_weights(default: str, own: str) -> None:
    with torch.device(own):
        network = open_clip.CLIP(**CONFIG)
    with torch.device(default):
        encoder = ClipEncoder(network, tokenizer())
    assert {value.device.type for value in encoder.state_dict().values()} == {own}


def test_stochastic_depth_is_refused(architecture: str) -> None:
    with pytest.raises(ConfigError, match=r"has no stochastic depth: got drop_path=0\.1, expected 0; leave"):
        castssl.create(f"clip:{architecture}", image_size=SIDE, drop_path=0.1)
    built = castssl.create(f"clip:{architecture}", image_size=SIDE).config
    assert castssl.create(replace(built, drop_path=0.1)).config.drop_path == 0


def test_by_name_from_a_checkpoint_and_back_from_our_file(architecture: str, tmp_path: Path) -> None:
    weights = tiny().network.state_dict()
    path = tmp_path / "clip.safetensors"
    save_file(weights, path)
    name = f"clip:{architecture}/{path}"
    encoder = castssl.create(name, image_size=SIDE)
    assert isinstance(encoder, ClipEncoder)
    assert encoder.config.superpixels == "grid:cell=16"
    for key, value in encoder.network.state_dict().items():
        torch.testing.assert_close(value, weights[key])
    save_pretrained(encoder, tmp_path / "ours")
    path.unlink()
    back = castssl.load_encoder(tmp_path / "ours")
    torch.testing.assert_close(back(view()).stages[0].cls, encoder.eval()(view()).stages[0].cls)


def test_another_image_size_resizes_positions(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    save_file(tiny().network.state_dict(), path)
    encoder = castssl.create(f"clip:{architecture}/{path}", image_size=2 * SIDE)
    assert encoder.sizes == (64,)
    assert encoder(view(side=2 * SIDE)).stages[0].x.shape == (2, 64, 32)


def test_weights_of_another_model_are_refused(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match=f"does not hold the weights of {architecture}"):
        castssl.create(f"clip:{architecture}/{path}", image_size=SIDE)


def test_weights_that_openai_trained_get_their_activation() -> None:
    assert named("ViT-B-32/openai") == ("ViT-B-32-quickgelu", "openai")
    assert named("ViT-B-32/laion2b_s34b_b79k").architecture == "ViT-B-32"


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="ViT-B-32"):
        castssl.create("clip:ViT-B32/openai")
    with pytest.raises(ConfigError, match="laion2b_s34b_b79k"):
        castssl.create("clip:ViT-B-32/opnai")


def test_without_a_network_it_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match=r"timm/vit_base_patch32_clip_224\.openai.*clip:ViT-B-32-quickgelu//path"
    ):
        castssl.create("clip:ViT-B-32/openai")


@pytest.mark.parametrize("check", encoders.checks, ids=lambda each: each.__name__)
def test_contract_of_the_encoder(check: Check) -> None:
    check("clip:ViT-S-32-alt")


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
        torch.testing.assert_close(objective.model.level_heads[0].get_buffer("vectors")[at], expected)


def test_bfloat16_does_not_round_the_logits() -> None:
    objective = made(1, tiny(init_logit_scale=4.6)).eval()
    feature = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.model.level_heads[0](feature)
    torch.testing.assert_close(found, objective.model.level_heads[0](feature))


def test_the_image_tower_alone_is_trained() -> None:
    objective, (_, view) = made(2).train(), look()
    objective(Batch([view], torch.tensor([[0, 0], [1, -1], [1, 2]]))).loss.backward()
    taught = {name for name, part in objective.named_parameters() if part.grad is not None}
    wanted = {name for name, _ in objective.named_parameters() if "model.encoder.network.visual." in name}
    assert taught == wanted


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
    if not isinstance(encoder, samples.SampleEncoder):
        raise ConfigError("the reader of these tests has one width")
    encoder.__class__ = Reader
    encoder.register_buffer("scale", torch.tensor(10.0))
    return CLIP(encoder, labels)


@pytest.mark.parametrize(
    "check",
    [check for check in objectives.checks if "ranks" not in check.__name__],
    ids=lambda each: each.__name__,
)
def test_contract(check: Check) -> None:
    check(on_reader)
