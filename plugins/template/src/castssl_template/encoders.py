"""Patches of an image through a perceptron, as an encoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.encoder_config import BY_HAND, EncoderConfig
from castssl.errors import ConfigError
from castssl.tokens.inputs import check_image
from castssl.types import Hierarchy, Tokens, View

WIDTHS = {"small": 64, "large": 256}
"""What NAME in ``template:NAME`` may be, and the token width that it stands for."""


class TemplateEncoder(Encoder):
    """One stage: a token for each patch of 16 pixels; the class token is their mean.

    Args:
        config: its name is ``template:small`` (also without a name) or ``template:large``.

    Raises:
        ConfigError: if there is no such name.
    """

    uses_superpixels = False
    """Its tokens are patches; the view's superpixels do not enter it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        name = config.name.partition(":")[2] or "small"
        if name not in WIDTHS:
            raise ConfigError(f"template has no encoder {name!r}; there are {', '.join(WIDTHS)}")
        self.dim = WIDTHS[name]
        side = -(-config.image_size // 16)
        self.sizes = (side * side,)
        self.config = replace(config, sizes=self.sizes, dim=self.dim, pooling=BY_HAND)
        self.patches = nn.Conv2d(3, self.dim, 16, 16)
        self.mix = nn.Sequential(nn.LayerNorm(self.dim), nn.Linear(self.dim, self.dim), nn.GELU())

    def forward(self, view: View) -> Hierarchy:
        """One stage; its segments are the patches."""
        check_image(view)
        height, width = view.image.shape[-2:]
        image = nn.functional.pad(view.image, (0, -width % 16, 0, -height % 16))
        cells: Tensor = self.patches(image)
        columns = cells.shape[-1]
        x = self.mix(cells.flatten(2).transpose(1, 2))
        first = torch.arange(height, device=x.device)[:, None] // 16 * columns
        segments = (first + torch.arange(width, device=x.device) // 16).int().expand(len(x), -1, -1)
        mass = torch.ones(x.shape[:2], dtype=torch.float32, device=x.device)
        return Hierarchy(segments, (Tokens(x, x.mean(1, keepdim=True), mass),), ())
