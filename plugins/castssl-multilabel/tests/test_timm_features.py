from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from castssl import create
from castssl.encoder_config import MEAN, STD, plugin_config
from castssl.errors import ConfigError, ContractError
from castssl.testing import Check, parametrize
from castssl.testing import encoders as contract
from castssl.testing.claims import claim_trained
from castssl.types import Tokens, View
from castssl_multilabel.timm_features import TimmFeatures, from_config

NAMES = {
    "resnet18": (1, 2, 2, 2, 2),
    "test_convnext": (1, 2, 4, 2),
    "swin_tiny_patch4_window7_224": (2, 2, 6, 2),
    "regnetx_002": (1, 1, 1, 1, 1),
    "test_vit": (1, 1, 1),
    "mobilenetv3_small_050": (1, 1, 1, 1, 1),
}
"""Visits of each stage.  The stages of a RegNet are not sequences of blocks; the last two run as a whole."""
SIDE = 64


@pytest.fixture(scope="module")
def encoders() -> dict[str, TimmFeatures]:
    """One of each, in evaluation mode."""
    torch.manual_seed(0)
    return {name: TimmFeatures(name, image_size=SIDE).eval() for name in NAMES}


@parametrize(contract.checks, ["timm-features:test_resnet", "timm-features:test_vit"])
def test_contract(check: Check, subject: str) -> None:
    check(subject)


def view(batch: int = 2, height: int = SIDE, width: int = SIDE) -> View:
    image = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    return View(image, torch.zeros(batch, 0, 0, dtype=torch.int32))


def same(stage: int, tokens: Tokens) -> Tensor:
    return tokens.x


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_timms_feature_maps(name: str, encoders: dict[str, TimmFeatures]) -> None:
    encoder, shown = encoders[name], view()
    with torch.no_grad():
        maps, hierarchy = encoder.network(shown.image), encoder(shown)
    assert encoder.visits == NAMES[name]
    network: Any = encoder.network
    assert encoder.stage_dims == tuple(network.feature_info.channels())
    for found, stage, size in zip(maps, hierarchy.stages, encoder.sizes, strict=True):
        cells = found.flatten(1, 2) if "swin" in name else found.flatten(2).transpose(1, 2)
        assert torch.equal(stage.x, cells)
        assert cells.shape[1] == size
        torch.testing.assert_close(stage.cls[:, 0], cells.mean(1))
        torch.testing.assert_close(stage.mass.sum(1), torch.full((2,), float(encoder.sizes[0])))
    assert encoder.dim == encoder.stage_dims[-1]


@pytest.mark.parametrize("name", NAMES)
def test_block_by_block_is_the_forward_pass(name: str, encoders: dict[str, TimmFeatures]) -> None:
    encoder, shown, seen = encoders[name], view(), [0] * len(NAMES[name])

    def visit(stage: int, tokens: Tokens) -> Tensor:
        seen[stage] += 1
        return tokens.x

    with torch.no_grad():
        for a, b in zip(encoder.visit_blocks(shown, visit).stages, encoder(shown).stages, strict=True):
            for value, expected in zip(a[:3], b[:3], strict=True):
                assert torch.equal(value, expected)
    assert tuple(seen) == encoder.visits


@pytest.mark.parametrize("name", NAMES)
def test_updates_pass_on_where_the_encoder_says_so(name: str, encoders: dict[str, TimmFeatures]) -> None:
    encoder, shown = encoders[name], view()

    def double(stage: int, tokens: Tokens) -> Tensor:
        return tokens.x * 2 if stage == 0 else tokens.x

    with torch.no_grad():
        before, after = (encoder.visit_blocks(shown, visit).stages for visit in (same, double))
    assert encoder.takes_updates == ("vit" not in name and "mobilenet" not in name)
    moved = [not torch.equal(a.x, b.x) for a, b in zip(before, after, strict=True)]
    assert moved == [encoder.takes_updates] * len(moved)
    if encoder.takes_updates and encoder.visits[0] == 1:
        assert torch.equal(after[0].x, 2 * before[0].x)


def test_cells_and_masses_of_an_image_that_does_not_divide(encoders: dict[str, TimmFeatures]) -> None:
    """72 x 40 pixels: maps of 36 x 20, 18 x 10, 9 x 5, 5 x 3, 3 x 2 cells."""
    shown = view(height=72, width=40)
    with torch.no_grad():
        segments, stages, assigns = encoders["resnet18"](shown)
    shapes = [(36, 20), (18, 10), (9, 5), (5, 3), (3, 2)]
    assert [stage.x.shape[1] for stage in stages] == [rows * cols for rows, cols in shapes]
    assert segments[0, 71, 39] == 719
    assert segments[0, 2, 0] == 20
    for (rows, cols), (fewer, narrow), assign, fine, coarse in zip(
        shapes, shapes[1:], assigns, stages, stages[1:], strict=False
    ):
        expected = [
            (r * fewer // rows) * narrow + c * narrow // cols for r in range(rows) for c in range(cols)
        ]
        assert assign.dtype == torch.int64
        assert assign.tolist() == [expected] * 2
        mass = torch.zeros(2, fewer * narrow).index_add_(1, assign[0], fine.mass)
        assert torch.equal(coarse.mass, mass)
        assert (mass > 0).all()


class Doubles(nn.Module):
    """A stage with the names of a ConvNeXt's, which does more than to run them."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        parts = dict(stage.named_children())
        self.downsample, self.blocks = parts["downsample"], parts["blocks"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(2 * self.downsample(x))
        assert isinstance(x, Tensor)
        return x


class Last(nn.Module):
    """A block that takes channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.ones(48)


class Moves(Doubles):
    """The stage moves its channels before its blocks, which cannot run without that."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__(stage)
        self.blocks = nn.Sequential(Last(), Last())

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.downsample(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        assert isinstance(x, Tensor)
        return x


@pytest.mark.parametrize("stage", [Doubles, Moves])
def test_a_stage_that_is_more_than_its_blocks_runs_as_a_whole(
    stage: type[Doubles], monkeypatch: pytest.MonkeyPatch
) -> None:
    network: Any = timm.create_model("test_convnext", features_only=True)
    network["stages_2"] = stage(network["stages_2"])
    monkeypatch.setattr("castssl_multilabel.timm_features._create", lambda *_: network)
    encoder = TimmFeatures("test_convnext", image_size=SIDE).eval()
    assert encoder.visits == (1, 2, 1, 2)
    with torch.no_grad():
        expected = encoder(view()).stages[-1].x
        assert torch.equal(encoder.visit_blocks(view(), same).stages[-1].x, expected)


def test_a_copy_runs_its_own_modules(encoders: dict[str, TimmFeatures]) -> None:
    copied = copy.deepcopy(encoders["test_convnext"])
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
        stage = copied.visit_blocks(view(), same).stages[-1]
        assert not stage.x.any()
        assert encoders["test_convnext"].visit_blocks(view(), same).stages[-1].x.any()


def test_config() -> None:
    encoder = create("timm-features:test_convnext", image_size=96, drop_path=0.2)
    assert isinstance(encoder, TimmFeatures)
    assert encoder.sizes == encoder.config.sizes == (576, 144, 36, 9)
    assert encoder.config.image_size == 96
    rates = {m.drop_prob for m in encoder.modules() if isinstance(m, DropPath)}
    assert max(rates) == pytest.approx(0.2)
    assert create(encoder.config).config == encoder.config
    with pytest.raises(ConfigError, match=r"has the sizes \(576, 144, 36, 9\) at 96 pixels"):
        create("timm-features:test_convnext", image_size=96, sizes=(49,))


@pytest.mark.parametrize(
    ("name", "drop_path", "message"),
    [
        ("convnext_smal", 0, "names that look alike: .*convnext_small"),
        ("", 0, "names that look alike: none"),
        ("bat_resnext26ts", 0, "no feature maps of bat_resnext26ts at 64 pixels"),
        ("dpn48b", 0.1, "takes no stochastic depth"),
    ],
)
def test_what_timm_cannot_build_is_refused(name: str, drop_path: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create(f"timm-features:{name}", image_size=SIDE, drop_path=drop_path)


def test_a_huge_size_is_refused_before_an_image_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", None)
    with pytest.raises(ConfigError, match="test_resnet is built for images of 1 to 2048 pixels per side"):
        create("timm-features:test_resnet", image_size=100_000)


def test_inputs_are_checked(encoders: dict[str, TimmFeatures]) -> None:
    with pytest.raises(ContractError, match="takes normalized images"):
        encoders["resnet18"](View(torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1, 0, 0, dtype=torch.int32)))
    with pytest.raises(ConfigError, match="reads RGB, got 1 channels"):
        from_config(plugin_config("timm-features:resnet18", channels=1))


def test_downloaded_weights_get_images_as_they_were_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of a ViT that was trained with a mean and deviation of 0.5 gets pixels from -1 to 1."""
    network: Any = timm.create_model("test_vit", features_only=True, img_size=SIDE)
    assert network.pretrained_cfg["mean"] == network.pretrained_cfg["std"] == (0.5, 0.5, 0.5)
    monkeypatch.setattr("castssl_multilabel.timm_features._create", lambda *_: network)
    encoder = TimmFeatures("test_vit", image_size=SIDE, pretrained=True).eval()
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    shown = View((pixels - mean) / std, torch.zeros(2, 0, 0, dtype=torch.int32))
    with torch.no_grad():
        expected = network(2 * pixels - 1)[-1].flatten(2).mT
        torch.testing.assert_close(encoder(shown).stages[-1].x, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            encoder.visit_blocks(shown, same).stages[-1].x, expected, rtol=1e-4, atol=1e-5
        )
        again = from_config(encoder.config).eval()
        torch.testing.assert_close(again(shown).stages[-1].x, expected, rtol=1e-4, atol=1e-5)


class Apart(nn.Module):
    """A finer map with a layer of its own, as HRNet's have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine, self.coarse = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 2, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        return [self.fine(x), self.coarse(x)]


def test_a_layer_of_a_finer_map_alone_gets_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """DDP waits for that of all that is trained, also where the last class token alone is read."""
    monkeypatch.setattr("castssl_multilabel.timm_features._create", lambda *_: Apart())
    encoder = TimmFeatures("apart", image_size=SIDE)
    with torch.no_grad():
        expected = encoder(view()).stages[-1]
    last = encoder(view()).stages[-1]
    assert torch.equal(last.x, expected.x)
    last.cls.square().sum().backward()
    claim_trained(encoder)
