"""The convolutional stem: pixels become a grid of features.

Early Convolutions Help Transformers See Better, https://arxiv.org/abs/2106.14881; CAST, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STRIDES = (2, 4, 8, 16)


class ConvStem(nn.Module):
    """Four 3x3 convolutions with batch norm, then a 1x1 convolution.

    The first log2(stride) convolutions halve the resolution; CAST uses stride 8, the ViT baselines 16.

    Args:
        dim: channels D of the result; a multiple of 8.
        stride: pixels per cell side, one of 2, 4, 8, 16.

    Raises:
        ValueError: if ``stride`` is another number or ``dim`` is not a multiple of 8.
    """

    def __init__(self, dim: int, *, stride: int = 8) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise ValueError(f"the stem's stride is one of {STRIDES}, got {stride}")
        if dim % 8:
            raise ValueError(f"the stem widens in steps of dim / 8: dim must be a multiple of 8, got {dim}")
        self.stride = stride
        layers: list[nn.Module] = []
        width = 3
        for step, wider in enumerate((dim // 8, dim // 4, dim // 2, dim)):
            halve = 2 if 2**step < stride else 1
            layers += [nn.Conv2d(width, wider, 3, halve, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU(True)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))
        self.inputs: nn.Module = nn.Identity()  # See castssl.models.channels.

    def forward(self, image: Tensor) -> Tensor:
        """float (B, 3, H, W) -> (B, D, ceil(H / stride), ceil(W / stride)), channels last in memory."""
        # Convolutions are faster so on CPU and GPU, and a cell's channels then are one row for the tokens.
        features: Tensor = self.layers(self.inputs(image).contiguous(memory_format=torch.channels_last))
        return features
