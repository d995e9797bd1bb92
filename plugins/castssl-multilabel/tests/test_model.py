from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from castssl import create
from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.testing import samples
from castssl.types import Hierarchy, Tokens, View
from castssl_multilabel.model import HSVLT, LabelModel, PlainHead
from castssl_multilabel.timm_features import TimmFeatures

SIDE = samples.SIDE
TRUNKS = ("nano", "timm-features:test_resnet", "timm-features:test_convnext")


def trunk(name: str) -> Encoder:
    torch.manual_seed(0)
    if name == "nano":
        return create(name, image_size=SIDE, sizes=(64, 8, 4), depths=(1, 2, 1, 0))
    return create(name, image_size=SIDE)


def vectors(labels: int = 5, channels: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(labels, channels, generator=torch.Generator().manual_seed(seed))


def made(name: str = "nano", **options: Any) -> HSVLT:
    encoder = trunk(name)
    torch.manual_seed(1)
    return HSVLT(encoder, vectors(), **options)


def moved(model: HSVLT) -> HSVLT:
    """As after some steps: no weight is 0, and labels change visibly."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * weight.shape[-1] ** -0.5 / 2)
    return model


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_released_configuration_has_the_released_parameters() -> None:
    with torch.device("meta"):
        encoder = TimmFeatures("convnext_small", image_size=448)
        model = HSVLT(encoder, torch.empty(80, 768))
    assert encoder.visits == (3, 3, 27, 3)
    assert encoder.sizes == (12544, 3136, 784, 196)
    assert parameters(encoder) == 49_453_152
    stages = [parameters(stage) for stage in model.interactions]
    assert stages == [222_048, 886_464, 31_881_600, 14_162_688]
    assert parameters(model.scaling) == 462_240
    assert parameters(model.head) == 115_280
    assert parameters(model) == 97_183_472
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == 2 * 768**2  # the last gate


@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"interact": "stage", "blocks": 2, "norm": "pre", "heads": 2},
        {"attention": "standard", "aggregation": "none"},
        {"visual": "gated", "blocks": 1, "norm": "pre"},
        {"aggregation": "hamburger", "kernel": 3, "head_weights": "shared"},
    ],
    ids=str,
)
def test_a_gradient_reaches_every_trained_parameter(name: str, options: dict[str, Any]) -> None:
    model = moved(made(name, learn_vectors=True, **options))
    scores = model.logits(samples.view())
    assert scores.shape == (4, 5)
    (scores * torch.randn(scores.shape)).sum().backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert not [name for name, weight in trained.items() if weight.grad is None or not weight.grad.any()]


def test_the_plain_head_is_linear_in_the_class_token() -> None:
    encoder, view = trunk("nano").eval(), samples.view()
    model = PlainHead(encoder, 3).eval()
    expected = encoder(view).stages[-1].cls[:, 0] @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model.logits(view), expected)
    assert isinstance(model, LabelModel)


def written_out(model: HSVLT, view: View) -> tuple[Tensor, list[Tensor]]:
    """Scores (B, C) and the attention of each stage, from tokens that no label changes."""
    seen: list[list[Tokens]] = [[] for _ in model.encoder.visits]

    def keep(stage: int, tokens: Tokens) -> Tensor:
        seen[stage].append(tokens)
        return tokens.x

    model.encoder.visit_blocks(view, keep)
    labels, fused, weights = model.vectors.expand(len(view.image), -1, -1), [], []
    for stage, (scale, blocks) in enumerate(zip(model.scaling, model.interactions, strict=True)):
        labels, count = scale(labels), len(list(blocks.children()))
        read = seen[stage][-count:] if model.interact == "block" else [seen[stage][-1]] * count
        if stage == len(seen) - 1 and model.encoder.last_norm is not None:
            read = [tokens._replace(x=model.encoder.last_norm(tokens.x)) for tokens in read]
        for number, tokens in enumerate(read):
            block = model.interaction(stage, number)
            weight = block.weights(labels, tokens)
            labels, found = block(labels, tokens)
        fused.append(found)
        weights.append(weight)
    return model.head(model.aggregation(fused)), weights


@pytest.mark.parametrize("name", ["nano", "timm-features:test_convnext"])
@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({}, {"nano": [1, 2, 1], "timm-features:test_convnext": [1, 2, 4, 2]}),
        ({"blocks": 2}, {"nano": [1, 2, 1], "timm-features:test_convnext": [1, 2, 2, 2]}),
        ({"interact": "stage"}, {"nano": [1, 1, 1], "timm-features:test_convnext": [1, 1, 1, 1]}),
        (
            {"interact": "stage", "blocks": 3},
            {"nano": [3, 3, 3], "timm-features:test_convnext": [3, 3, 3, 3]},
        ),
    ],
    ids=str,
)
def test_stages_and_blocks_as_written_out(
    name: str, options: dict[str, Any], counts: dict[str, list[int]]
) -> None:
    model, view = moved(made(name, **options)).eval(), samples.view()
    if name == "nano":
        assert model.encoder.visits == (1, 2, 1)
    assert [len(list(stage.children())) for stage in model.interactions] == counts[name]
    with torch.no_grad():
        scores, weights = written_out(model, view)
        torch.testing.assert_close(model.logits(view), scores)
        for weight, expected in zip(model.attention(view).weights, weights, strict=True):
            torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize("name", ["nano", "timm-features:test_convnext"])
def test_gated_tokens_pass_on(name: str) -> None:
    """Labels change the class token; another encoder is refused."""
    model, view = moved(made(name, visual="gated")).eval(), samples.view()
    with torch.no_grad():
        plain = model.encoder(view).stages[-1].cls
        hierarchy, weights = model.attention(view)
        assert (hierarchy.stages[-1].cls - plain).abs().max() > 1e-3
        for weight in weights:
            torch.testing.assert_close(weight.sum(-1), torch.ones(4, 5))
    with pytest.raises(ConfigError, match="a TimmFeatures does not take"):
        made("timm-features:test_vit", visual="gated")


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"aggregation": "concat"}, True),
        ({"aggregation": "none", "attention": "standard"}, True),
        ({"aggregation": "hamburger"}, True),
        ({"aggregation": "hamburger", "kernel": 3}, False),
    ],
    ids=str,
)
def test_the_order_of_labels(options: dict[str, Any], same: bool) -> None:
    """With one row of weights for all labels, a label's score does not depend on its place."""
    model, view = moved(made(head_weights="shared", **options)).eval(), samples.view()
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.no_grad():
        expected, found = model.logits(view)[:, order], model.logits(view, vectors()[order])
    assert ((found - expected).abs().max() < 1e-5 * expected.abs().max()) == same


class Padded(Encoder):
    """Another encoder, with rows of padding that hold anything beside its tokens."""

    def __init__(self, encoder: Encoder, value: float) -> None:
        super().__init__()
        self.inner, self.value = encoder, value
        self.dim, self.config, self.sizes = encoder.dim, encoder.config, encoder.sizes

    def forward(self, view: View) -> Hierarchy:
        found = self.inner(view)
        return found._replace(stages=tuple(self._padded(tokens) for tokens in found.stages))

    def _padded(self, tokens: Tokens) -> Tokens:
        x = nn.functional.pad(tokens.x, (0, 0, 2, 3), value=self.value)
        return tokens._replace(x=x, mass=nn.functional.pad(tokens.mass, (2, 3)))


def test_padding_changes_no_score() -> None:
    scores = []
    for value in (0.0, 50.0):
        torch.manual_seed(1)
        model = moved(HSVLT(Padded(samples.SampleEncoder(), value), vectors(), interact="stage")).eval()
        scores.append(model.logits(samples.view()))
    torch.manual_seed(1)
    plain = moved(HSVLT(samples.SampleEncoder(), vectors(), interact="stage")).eval()
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], plain.logits(samples.view()))


def test_an_image_that_is_not_finite_changes_no_other_score() -> None:
    model, (image, segments) = made().eval(), samples.view()
    broken = image.clone()
    broken[1] = torch.inf
    expected, scores = model.logits(View(image, segments)), model.logits(View(broken, segments))
    assert scores[1].isnan().all()
    torch.testing.assert_close(scores[[0, 2, 3]], expected[[0, 2, 3]])


@pytest.mark.parametrize("name", ["nano", "timm-features:test_convnext"])
def test_attention_is_over_the_tokens_of_each_stage(name: str) -> None:
    model, view = made(name).eval(), samples.view()
    hierarchy, weights = model.attention(view)
    assert len(weights) == len(hierarchy.stages)
    for stage, weight in zip(hierarchy.stages, weights, strict=True):
        assert weight.shape == (4, 5, stage.x.shape[1])
        torch.testing.assert_close(weight.sum(-1), torch.ones(4, 5))
        assert not weight.masked_select(stage.mass[:, None].expand_as(weight) == 0).any()


def test_other_labels_need_shared_weights() -> None:
    view, others = samples.view(), vectors(3, seed=7)
    with pytest.raises(ConfigError, match="head_weights=shared"):
        made().logits(view, others)
    model = made(head_weights="shared").eval()
    assert model.logits(view, others).shape == (4, 3)
    same = vectors()[[3, 1]]
    torch.testing.assert_close(model.logits(view, same), model.logits(view)[:, [3, 1]])
    with pytest.raises(ConfigError, match=r"expected \(labels, 16\)"):
        model.logits(view, vectors(3, 8))


def test_scaled_weights_give_a_new_trunk_a_larger_gradient() -> None:
    """The gradient that the first layer gets, from random weights of the scores of an image."""

    def first(init: Any) -> Tensor:
        model = made("timm-features:test_resnet", norm="pre", init=init)
        scores = model.logits(samples.view(2))
        torch.autograd.backward((scores * vectors(2, 5)).sum())
        gradient = next(model.encoder.parameters()).grad
        assert gradient is not None
        return gradient.abs().mean()

    assert first("scaled") > 20 * first("released")


def test_a_copy_runs_its_own_modules() -> None:
    model, view = made("timm-features:test_convnext").eval(), samples.view()
    copied, before = copy.deepcopy(model), model.logits(view)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied.logits(view), before)


def test_unusable_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected floating-point numbers"):
        HSVLT(trunk("nano"), torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ConfigError, match="got -1"):
        made(blocks=-1)
    with pytest.raises(ConfigError, match="divides the channels"):
        made(heads=5)
