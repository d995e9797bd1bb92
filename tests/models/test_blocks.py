"""A stage's attention with a bias: what stands for several tokens has the weight of several."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from castssl.models.blocks import Stage
from castssl.types import Tokens

DIM, HEADS = 12, 3


def stage(*, masked: bool = True, depth: int = 2) -> Stage:
    torch.manual_seed(0)
    return Stage(DIM, HEADS, [0.0] * depth, masked=masked).eval()


def tokens(seed: int, count: int, padded: int = 0) -> Tokens:
    draw = torch.Generator().manual_seed(seed)
    x, cls = (torch.randn(1, rows, DIM, generator=draw) for rows in (count, 1))
    mass = torch.ones(1, count)
    mass[:, count - padded :] = 0
    return Tokens(x, cls, mass)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.booleans(), st.integers(0, 10**6))
def test_a_token_of_log_n_is_n_equal_tokens(counts: list[int], masked: bool, seed: int) -> None:
    few = tokens(seed, len(counts))
    index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    many = Tokens(few.x[:, index], few.cls, torch.ones(1, len(index)))
    blocks = stage(masked=masked)
    merged = blocks(few._replace(bias=torch.tensor([counts]).log()))
    apart = blocks(many)
    torch.testing.assert_close(merged.cls, apart.cls, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(merged.x[:, index], apart.x, atol=1e-5, rtol=1e-4)


def test_the_bias_of_padding_is_of_no_account_and_zero_is_none() -> None:
    plain = tokens(0, 6, padded=2)
    blocks = stage()
    zero = blocks(plain._replace(bias=torch.zeros(1, 6)))
    torch.testing.assert_close(zero.x[:, :4], blocks(plain).x[:, :4])
    large = torch.tensor([[0.0, 0, 0, 0, 50, 50]])
    torch.testing.assert_close(blocks(plain._replace(bias=large)).x[:, :4], zero.x[:, :4])


def test_the_bias_stays_with_the_tokens_for_the_next_pooling() -> None:
    bias = torch.rand(1, 4)
    assert torch.equal(stage()(tokens(0, 4)._replace(bias=bias)).bias, bias)
    assert stage()(tokens(0, 4)).bias is None


@pytest.mark.parametrize("padded", [0, 2])
def test_received_attention_has_the_bias(padded: int) -> None:
    seen = tokens(3, 6, padded)._replace(bias=torch.rand(1, 6))
    blocks = stage(depth=1)
    received = blocks(seen, {"received"}).received
    assert received is not None
    assert seen.bias is not None
    block = blocks.blocks[0]
    rows = torch.cat([seen.cls, seen.x[:, : 6 - padded]], 1)
    qkv = block.get_submodule("attn.qkv")(block.get_submodule("norm1")(rows))[0]
    query, key, _ = (part.view(len(qkv), HEADS, -1).transpose(0, 1) for part in qkv.chunk(3, -1))
    bias = F.pad(seen.bias[0, : 6 - padded], (1, 0))
    weights: Tensor = (query @ key.transpose(1, 2) / (DIM / HEADS) ** 0.5 + bias).softmax(-1)
    torch.testing.assert_close(received[0, : 6 - padded], weights.mean(0).sum(0)[1:])
    assert not received[0, 6 - padded :].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_recomputed_blocks(dtype: torch.dtype) -> None:
    seen = tokens(0, 6)._replace(bias=torch.rand(1, 6))
    blocks = stage()
    whole = blocks(seen).x
    with torch.autocast("cpu", torch.bfloat16):
        half = blocks(seen._replace(x=seen.x.to(dtype), cls=seen.cls.to(dtype))).x
    torch.testing.assert_close(half.float(), whole, atol=0.1, rtol=0.1)
    blocks.checkpointing = True
    torch.testing.assert_close(blocks(seen).x, whole)
