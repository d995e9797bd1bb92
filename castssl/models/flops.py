"""What a model costs: multiply-adds and parameters by part, beside the published figures.

CAST, https://arxiv.org/abs/2210.00314, Tables 1, 4 and 5c.  What the literature calls GFLOPs of a vision
model are billions of multiply-adds of matrix products and convolutions for one image; element-wise
operations are left out, and so they are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from castssl.contracts import Encoder
from castssl.models.cast import CAST
from castssl.modes import evaluating
from castssl.types import View

aten: Any = torch.ops.aten


class Published(NamedTuple):
    """Figures for one image of 224 x 224 pixels."""

    paper: float
    """GFLOPs that the paper prints."""
    released: float | None
    """GMACs of the released code by torch's counter; None where there is no such code."""


PUBLISHED: dict[tuple[str, tuple[int, ...]], Published] = {
    ("cast_small", (196, 32, 16, 8)): Published(3.0, 2.73),
    ("cast_small", (196, 64, 32, 16)): Published(3.4, 3.14),
    ("cast_small", (196, 128, 64, 32)): Published(4.3, 4.00),
    ("cast_small", (324, 64, 32, 16)): Published(4.6, 4.19),
    ("cast_small", (324, 128, 64, 32)): Published(5.4, 5.07),
    ("cast_base", (196, 64, 32, 16)): Published(13, 12.21),
    ("vit_small", (196,)): Published(4.7, None),
    ("vit_base", (196,)): Published(18, None),
    ("timm:swin_tiny_patch4_window7_224", (49,)): Published(4.5, None),
}
"""By model name and sizes, without a last stage that exists for the segmentation alone.  The paper does not
say how it counted; it is 6 to 10 % above what torch counts in its own code."""


@dataclass(frozen=True)
class Part:
    """One part of a model."""

    name: str
    parameters: int
    trainable: int
    macs: int
    """Multiply-adds for one image."""


@dataclass(frozen=True)
class Account:
    """What a model with its heads costs.

    Attributes:
        parts: in the order of the data.
        sampling: multiply-adds of work that takes decisions and has no gradient, that is, of the distances
            for farthest point sampling.  No part holds them: they are computed by a library's kernel in the
            released code, where no counter sees them.
        published: parameters and trainable parameters as the released code counts them, which adds a
            position for the class token (zeros in MoCo models); equal to the sums for a ViT of timm's.
    """

    parts: tuple[Part, ...]
    sampling: int
    published: tuple[int, int]

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def trainable(self) -> int:
        """Parameters that get a gradient."""
        return sum(part.trainable for part in self.parts)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image, the paper's way: without ``sampling``."""
        return sum(part.macs for part in self.parts)


def account(
    encoder: Encoder,
    *,
    image_size: int = 224,
    classes: Sequence[int] = (1000,),
) -> Account:
    """Count an encoder and linear heads; nothing is computed, and the encoder stays as it is.

    Args:
        encoder: any encoder that runs under FakeTensorMode, as all of castssl's do.
        image_size: side in pixels.
        classes: outputs of each head on a class token; none for the bare encoder.
    """
    counts, sampling = _count(encoder, image_size)
    parts = []
    for path, part in _parts(encoder):
        parameters = [part] if isinstance(part, nn.Parameter) else list(part.parameters())
        macs = counts.pop(path, 0)
        if parameters or macs:
            parts.append(_part(_name(path, encoder), parameters, macs))
    total_macs = counts.pop("", 0)
    if rest := total_macs - sum(part.macs for part in parts):
        parts.append(Part("between the parts", 0, 0, rest))
    for count in classes:
        size = encoder.dim * count + count
        parts.append(Part(f"head of {count}", size, size, encoder.dim * count))
    total, trainable = (sum(getattr(part, kind) for part in parts) for kind in ("parameters", "trainable"))
    extra = encoder.dim if isinstance(encoder, CAST) else 0
    learned = extra if isinstance(encoder, CAST) and encoder.positions.requires_grad else 0
    return Account(tuple(parts), sampling, (total + extra, trainable + learned))


def _part(name: str, parameters: Sequence[nn.Parameter], macs: int) -> Part:
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return Part(name, sum(p.numel() for p in parameters), trainable, macs)


def _parts(module: nn.Module) -> list[tuple[str, nn.Parameter | nn.Module]]:
    """Own parameters and children, as the data goes; of lists, and of a wrapped timm model, the members."""
    parts: list[tuple[str, nn.Parameter | nn.Module]] = [*module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) or name == "network":
            parts += [(f"{name}.{path}", part) for path, part in _parts(child)]
        else:
            parts.append((name, child))
    return sorted(parts, key=lambda pair: _place(*pair)) if isinstance(module, CAST) else parts


def _place(path: str, part: nn.Parameter | nn.Module) -> tuple[int, int]:
    """Stem, own parameters, stages and poolings by turns, and the rest."""
    if path == "stem":
        return 0, 0
    if isinstance(part, nn.Parameter):
        return 1, 0
    if _staged(path):
        return 2, 2 * int(path.split(".")[1]) + path.startswith("poolings")
    return 3, 0


def _staged(path: str) -> bool:
    return path.partition(".")[0] in {"stages", "poolings"}


def _name(path: str, encoder: Encoder) -> str:
    """``stages.0`` -> ``stage 0: 3 blocks, 196 tokens``; other paths as they are."""
    if not _staged(path):
        return path
    stage, sizes = int(path.split(".")[1]), encoder.sizes
    if path.startswith("stages") and isinstance(encoder, CAST):
        return f"stage {stage}: {encoder.depths[stage]} blocks, {sizes[stage]} tokens"
    return f"pooling {stage}: {sizes[stage]} to {sizes[stage + 1]}"


def _count(encoder: Encoder, image_size: int) -> tuple[dict[str, int], int]:
    """Multiply-adds by module path, ``""`` for all, and those without gradient."""
    aside: list[int] = []
    device = next((p.device for p in encoder.parameters()), None)
    counter = FlopCounterMode(display=False, custom_mapping=_formulas(aside))
    with evaluating(encoder), FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad(), counter:
        image = torch.empty(1, encoder.config.channels, image_size, image_size, device=device)
        segments = torch.empty(1, image_size, image_size, dtype=torch.int32, device=device)
        encoder(View(image, segments))
    root = type(encoder).__name__
    counts = {
        path.removeprefix(root).lstrip("."): sum(by_operator.values()) // 2
        for path, by_operator in counter.get_flop_counts().items()
        if path != "Global"
    }
    return {**counts, "": counter.get_total_flops() // 2}, sum(aside) // 2


def _formulas(aside: list[int]) -> dict[Any, Any]:
    """torch's formulas; what runs without gradient is counted in ``aside`` instead."""
    formulas = dict(flop_registry)
    # torch 2.6 does not count attention on the CPU.
    attention = formulas[aten._scaled_dot_product_flash_attention]
    formulas.setdefault(aten._scaled_dot_product_flash_attention_for_cpu, attention)
    return {operator: _apart(formula, aside) for operator, formula in formulas.items()}


def _apart(formula: Callable[..., int], aside: list[int]) -> Callable[..., int]:
    def counted(*args: Any, **options: Any) -> int:
        count = formula(*args, **options)
        if torch.is_grad_enabled():
            return count
        aside.append(count)
        return 0

    # torch's registry holds formulas that take tensors, not shapes.
    counted._get_raw = True  # type: ignore[attr-defined]
    return counted
