"""Heads against layers on pixels, and against the mask transformer written out from its description."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.errors import ConfigError, DataError
from castssl.models import segmentation_heads as heads
from castssl.types import DenseTokens

DIM, CLASSES = 128, 7


def tokens(count: int = 6, *, padding: int = 0, grid: bool = False) -> DenseTokens:
    """Two images, whose tokens have other areas; behind them padding, and one pixel without a token."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, count + padding, DIM, generator=draw)
    mass = torch.ones(2, count + padding)
    mass[:, count:] = 0
    labels = torch.randint(0, count, (2, 8, 10), generator=draw, dtype=torch.int32)
    if grid:
        rows = torch.arange(8)[:, None] * 2 // 8 * 3 + torch.arange(10) * 3 // 10
        return DenseTokens(x, mass, rows.int().expand(2, -1, -1), (2, 3))
    labels[0, 0, 0] = -1
    return DenseTokens(x, mass, labels)


def per_pixel(found: DenseTokens) -> Tensor:
    """The token of each pixel that has one: (1, D, P, 1)."""
    rows = [found.x[image, found.labels[image][found.labels[image] >= 0].long()] for image in range(2)]
    return torch.cat(rows).T[None, :, :, None]


def test_the_linear_head_is_batch_norm_and_a_convolution() -> None:
    head = heads.LinearHead(DIM, CLASSES, dropout=0.0).train()
    found = tokens(grid=True)
    norm, conv = nn.BatchNorm2d(DIM), nn.Conv2d(DIM, CLASSES, 1)
    conv.weight.data = head.linear.weight.data[:, :, None, None]
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    expected = conv(norm(found.x.transpose(1, 2).unflatten(2, (2, 3))))
    logits = head(found)
    torch.testing.assert_close(logits.transpose(1, 2).unflatten(2, (2, 3)), expected, atol=1e-5, rtol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(head.norm, name), getattr(norm, name))
    expected = F.interpolate(expected, (8, 10), mode="bilinear")
    torch.testing.assert_close(heads.paint(logits, found), expected, atol=1e-5, rtol=1e-5)


def test_the_linear_head_drops_whole_channels_in_training() -> None:
    torch.manual_seed(0)
    head = heads.LinearHead(DIM, DIM, dropout=0.5)
    head.linear.weight.data = torch.eye(DIM)
    head.norm.eval()
    out = head(tokens()._replace(x=torch.ones(2, 6, DIM)))
    assert out.unique().numel() == 2
    torch.testing.assert_close(out, out[:, :1].expand_as(out))
    assert head.eval()(tokens()._replace(x=torch.ones(2, 6, DIM))).unique().numel() == 1


def test_the_fused_head_counts_a_token_once_for_each_pixel() -> None:
    """The oracle: the published layers on pixels, in training mode."""
    head, found = heads.FusedHead(DIM, CLASSES).train(), tokens()
    first, norm, last = nn.Conv2d(DIM, DIM, 1, bias=False), nn.BatchNorm2d(DIM), nn.Conv2d(DIM, CLASSES, 1)
    first.weight.data = head.first.weight.data[:, :, None, None]
    last.weight.data, last.bias = head.last.weight.data[:, :, None, None], head.last.bias
    expected = last(norm(first(per_pixel(found))).relu())
    logits = head(found)
    torch.testing.assert_close(per_pixel(found._replace(x=logits)), expected, atol=1e-5, rtol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(head.norm, name), getattr(norm, name))


def released(layers: int = 2) -> dict[str, Tensor]:
    """Tensors with the keys and shapes of a released decoder of width 128."""
    block = {
        "norm1.weight": (DIM,),
        "norm1.bias": (DIM,),
        "norm2.weight": (DIM,),
        "norm2.bias": (DIM,),
        "attn.qkv.weight": (3 * DIM, DIM),
        "attn.qkv.bias": (3 * DIM,),
        "attn.proj.weight": (DIM, DIM),
        "attn.proj.bias": (DIM,),
        "mlp.fc1.weight": (4 * DIM, DIM),
        "mlp.fc1.bias": (4 * DIM,),
        "mlp.fc2.weight": (DIM, 4 * DIM),
        "mlp.fc2.bias": (DIM,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "cls_emb": (1, CLASSES, DIM),
        "proj_patch": (DIM, DIM),
        "proj_classes": (DIM, DIM),
        "proj_dec.weight": (DIM, DIM),
        "proj_dec.bias": (DIM,),
        "decoder_norm.weight": (DIM,),
        "decoder_norm.bias": (DIM,),
        "mask_norm.weight": (CLASSES,),
        "mask_norm.bias": (CLASSES,),
    }
    shapes |= {f"blocks.{layer}.{name}": shape for layer in range(layers) for name, shape in block.items()}
    draw = torch.Generator().manual_seed(1)
    return {f"decoder.{name}": 0.2 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def recomputed(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The mask transformer of one image, from its description: (N, D) -> (N, C)."""
    w = {name.removeprefix("decoder."): t for name, t in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        deviation = (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centered / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    count, width = len(x), DIM // 64
    x = torch.cat([linear(x, "proj_dec"), w["cls_emb"][0]])
    for layer in range(2):
        at = f"blocks.{layer}"
        qkv = linear(norm(x, f"{at}.norm1"), f"{at}.attn.qkv").view(len(x), 3, width, 64)
        parts = []
        for head in range(width):
            q, k, v = (qkv[:, part, head] for part in range(3))
            parts.append((q @ k.T / 8).softmax(-1) @ v)
        x = x + linear(torch.cat(parts, -1), f"{at}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
    x = norm(x, "decoder_norm")
    rows, columns = x[:count] @ w["proj_patch"], x[count:] @ w["proj_classes"]
    rows, columns = (side / side.square().sum(-1, keepdim=True).sqrt() for side in (rows, columns))
    return norm(rows @ columns.T, "mask_norm")


def test_released_mask_transformers_load_and_compute_the_same() -> None:
    """No key is left over; also beside the tensors of an encoder, and with padding in attention."""
    state = released()
    head = heads.load_mask_transformer({**state, "encoder.norm.weight": torch.ones(1)}).eval().double()
    assert {f"decoder.{name}" for name in head.state_dict()} == state.keys()
    found = tokens(padding=2)
    x = found.x.double()
    with torch.no_grad():
        logits = head(found._replace(x=x))
    wide = {name: value.double() for name, value in state.items()}
    for image in range(2):
        torch.testing.assert_close(logits[image], recomputed(wide, x[image]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("fault", ["missing", "left over", "shape", "empty"])
def test_other_files_are_refused(fault: str) -> None:
    state = released()
    if fault == "missing":
        state.pop("decoder.proj_patch")
    if fault == "left over":
        state["decoder.extra"] = torch.ones(1)
    if fault == "shape":
        state["decoder.mask_norm.weight"] = torch.ones(CLASSES + 1)
    with pytest.raises(DataError, match="no mask transformer"):
        heads.load_mask_transformer({} if fault == "empty" else state)


@pytest.mark.parametrize("name", heads.HEADS)
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(name: str, training: bool) -> None:
    torch.manual_seed(0)
    head = heads.create_head(name, DIM, CLASSES).train(training)
    module: Any
    for module in head.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d):
            module.p = 0.0
        if hasattr(module, "attn_drop"):
            module.attn_drop.p = 0.0
    bare, padded = tokens(), tokens(padding=3)
    padded.x[:, :6] = bare.x
    padded = padded._replace(labels=bare.labels)
    logits: Any = head(padded)
    torch.testing.assert_close(logits[:, :6], head(bare), atol=1e-5, rtol=1e-5)
    assert logits.shape == (2, 9, CLASSES)


def test_each_pixel_has_its_tokens_values() -> None:
    found = tokens()
    values = torch.randn(2, 6, CLASSES)
    maps = heads.paint(values, found)
    for image, row, column in ((0, 3, 4), (1, 7, 9)):
        expected = values[image, int(found.labels[image, row, column])]
        torch.testing.assert_close(maps[image, :, row, column], expected)
    assert not maps[0, :, 0, 0].any()
    larger = heads.paint(values, found, (16, 20))
    torch.testing.assert_close(larger, F.interpolate(maps, (16, 20), mode="bilinear"))
    assert torch.equal(heads.paint(values.bfloat16(), found), heads.paint(values.bfloat16().float(), found))


def test_any_width_has_heads_that_part_it() -> None:
    for width, count in ((384, 6), (200, 2), (30, 1), (197, 1)):
        block: Any = heads.MaskTransformer(width, CLASSES).blocks[0]
        assert block.attn.num_heads == count


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="linear, fused, segmenter"):
        heads.create_head("uper", DIM, CLASSES)
