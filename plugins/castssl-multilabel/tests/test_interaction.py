"""The interaction against the equations written out for one image and one label at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from castssl.errors import ConfigError
from castssl.testing import samples
from castssl.types import Tokens
from castssl_multilabel.interaction import (
    INTERACTIONS,
    Interaction,
    Interactive,
    Kind,
    Norm,
    Standard,
    TokensToLabels,
    Updated,
)

DIM, LABELS = 12, 5


def drawn(module: nn.Module) -> nn.Module:
    """With weights of a size at which a fault shows, in double precision."""
    draw = torch.Generator().manual_seed(3)
    for weight in module.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5, generator=draw)
    return module.double()


def inputs() -> tuple[Tensor, Tokens]:
    """Labels and tokens of three images; the second and third have padding."""
    tokens = samples.tokens(images=3, dim=DIM)
    labels = torch.randn(3, LABELS, DIM, generator=torch.Generator().manual_seed(2))
    return labels.double(), tokens._replace(x=tokens.x.double())


def attend(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """One query (D,) over keys and values (N, D): what it gets (D,), and weights (N,), mean over heads."""
    width = len(query) // heads
    found, weights = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weight = (keys[:, part] @ query[part] / width**0.5).softmax(0)
        found.append(weight @ values[:, part])
        weights.append(weight)
    return torch.cat(found), torch.stack(weights).mean(0)


def gated(gate: nn.Module, x: Tensor) -> Tensor:
    first, second = (layer.weight for layer in gate.modules() if isinstance(layer, nn.Linear))
    return torch.tanh(second @ torch.relu(first @ x))


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, nn.LayerNorm):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        x = x * norm.weight + norm.bias
    return x


def oracle(block: Interaction, label: Tensor, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """For one label (D,) and the tokens (N, D) that exist: the label after it, M, and the weights (N,)."""
    attention = block.attention
    own, x = normed(block.norm_labels, label), normed(block.norm_tokens, x)
    query, keys, values = attention.query(own), attention.key(x), attention.value(x)
    found, weights = attend(query, keys, values, heads)
    found = attention.out.weight @ found + attention.out.bias
    if isinstance(block, Standard):
        label = label + found
        hidden = gelu(block.mlp[0](normed(block.norm_mlp, label)))
        label = label + block.mlp[2](hidden)
        return label, label, weights
    assert isinstance(block, Interactive)
    fused = gelu(block.fuse(gelu(block.ask(own)) * found))
    label = label + fused
    return label + gated(block.gate, normed(block.norm_gate, label)) * label, fused, weights


def claim_as_the_oracle(block: Interaction, heads: int) -> None:
    labels, tokens = inputs()
    updated = block(labels, tokens)
    weights = block.weights(labels, tokens)
    for image in range(len(labels)):
        present = tokens.mass[image] > 0
        for number, label in enumerate(labels[image]):
            after, fused, weight = oracle(block, label, tokens.x[image, present], heads)
            torch.testing.assert_close(updated.labels[image, number], after)
            torch.testing.assert_close(updated.fused[image, number], fused)
            torch.testing.assert_close(weights[image, number, present].double(), weight, rtol=1e-5, atol=1e-6)
            assert not weights[image, number, ~present].any()


def made(kind: type[Interaction] = Interactive, heads: int = 1, norm: Norm = "none") -> Interaction:
    block = drawn(kind(DIM, heads, norm))
    assert isinstance(block, Interaction)
    return block


@pytest.mark.parametrize("kind", list(INTERACTIONS))
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("norm", ["none", "pre"])
def test_as_written_out(kind: Kind, heads: int, norm: Norm) -> None:
    claim_as_the_oracle(made(INTERACTIONS[kind], heads, norm), heads)


class Adds(Interactive):
    """A fault: A is added, not multiplied."""

    def update(self, labels: Tensor, normed: Tensor, found: Tensor) -> Updated:
        fused = functional.gelu(self.fuse(functional.gelu(self.ask(normed)) + found))
        labels = labels + fused
        return Updated(labels + self.gate(labels) * labels, fused)


class GatesFirst(Interactive):
    """A fault: M is added after the gate."""

    def update(self, labels: Tensor, normed: Tensor, found: Tensor) -> Updated:
        fused = super().update(labels, normed, found).fused
        return Updated(labels + self.gate(labels) * labels + fused, fused)


class SeesPadding(Interactive):
    """A fault: padding gets attention."""

    def forward(self, labels: Tensor, tokens: Tokens) -> Updated:
        return super().forward(labels, tokens._replace(mass=torch.ones_like(tokens.mass)))


@pytest.mark.parametrize("fault", [Adds, GatesFirst, SeesPadding])
def test_a_fault_is_found(fault: type[Interactive]) -> None:
    with pytest.raises(AssertionError, match="not close"):
        claim_as_the_oracle(made(fault), 1)


@pytest.mark.parametrize("kind", list(INTERACTIONS))
def test_padding_changes_nothing(kind: Kind) -> None:
    block, (labels, tokens) = made(INTERACTIONS[kind]), inputs()
    other = torch.where(tokens.mass[..., None] > 0, tokens.x, 100 * tokens.x + 7)
    for a, b in zip(block(labels, tokens), block(labels, tokens._replace(x=other)), strict=True):
        torch.testing.assert_close(a, b)


def test_an_image_without_tokens_is_finite() -> None:
    block, (labels, tokens) = made(), inputs()
    tokens.mass[1] = 0
    updated, weights = block(labels, tokens), block.weights(labels, tokens)
    assert not weights[1].any()
    found = block.attention(labels, tokens.x, tokens.mass)[1]
    torch.testing.assert_close(found, block.attention.out.bias.expand(LABELS, -1))
    updated.labels.sum().backward()
    gradients = [p.grad for p in block.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert updated.labels.isfinite().all()


@pytest.mark.parametrize("kind", list(INTERACTIONS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite(kind: Kind, dtype: torch.dtype) -> None:
    block, (labels, tokens) = made(INTERACTIONS[kind], 2).float(), inputs()
    labels, tokens = labels.float(), tokens._replace(x=tokens.x.float())
    expected = block(labels, tokens)
    with torch.autocast("cpu", dtype):
        found = block(labels, tokens)
        weights = block.weights(labels, tokens)
    assert weights.dtype == torch.float32
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.1)


def test_the_last_gate_is_not_computed() -> None:
    block, (labels, tokens) = made(), inputs()
    before = block(labels, tokens)
    block.end()
    after = block(labels, tokens)
    torch.testing.assert_close(after.fused, before.fused)
    torch.testing.assert_close(after.labels, labels + after.fused)
    assert {name.partition(".")[0] for name, p in block.named_parameters() if not p.requires_grad} == {"gate"}


def visual_oracle(block: TokensToLabels, labels: Tensor, token: Tensor, heads: int) -> Tensor:
    """One token (D,) after it attended to the labels (C, D) of its image."""
    own, others = normed(block.norm_tokens, token), normed(block.norm_labels, labels)
    found, _ = attend(block.query(own), block.key(others), block.value(others), heads)
    found = block.out.weight @ found + block.out.bias
    return token + gated(block.gate, found) * found


@pytest.mark.parametrize(("heads", "norm"), [(1, "none"), (3, "pre")])
def test_tokens_attend_to_labels_as_written_out(heads: int, norm: Norm) -> None:
    block, (labels, tokens) = TokensToLabels(DIM, heads, norm), inputs()
    drawn(block)
    updated = block(labels, tokens.x)
    for image in range(len(labels)):
        for number, token in enumerate(tokens.x[image]):
            expected = visual_oracle(block, labels[image], token, heads)
            torch.testing.assert_close(updated[image, number], expected)


def law(weight: Tensor) -> tuple[float, float]:
    """Deviation and largest value."""
    return float(weight.detach().std()), float(weight.detach().abs().max())


@pytest.mark.parametrize("kind", list(INTERACTIONS))
def test_weights_begin_as_released(kind: Kind) -> None:
    """Truncated normals of 0.02, but the two layers of M as a convolution's: uniform up to 1 / sqrt(D)."""
    torch.manual_seed(0)
    block = INTERACTIONS[kind](256)
    for name, layer in block.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        deviation, largest = law(layer.weight)
        if name in ("ask", "fuse"):
            assert deviation == pytest.approx(256**-0.5 / 3**0.5, rel=0.02)
            assert 0.99 / 16 < largest <= 1 / 16
            assert 0 < layer.bias.abs().max() <= 1 / 16
        else:
            assert deviation == pytest.approx(0.02, rel=0.02)
            assert layer.bias is None or not layer.bias.any()


def test_heads_divide_the_width() -> None:
    made_blocks: list[Callable[[], nn.Module]] = [lambda: Interactive(12, 5), lambda: TokensToLabels(12, 0)]
    for make in made_blocks:
        with pytest.raises(ConfigError, match="divides the channels"):
            make()
