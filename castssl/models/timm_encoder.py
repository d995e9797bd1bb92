"""Any timm model as an encoder of one stage, so that it can be pretrained beside CAST.

Superpixels do not enter it: its tokens are the cells of its last feature map.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from castssl.models.hub import Shareable
from castssl.types import Hierarchy, Tokens, View


class TimmEncoder(nn.Module, Shareable):
    """A timm model without classifier; its pooled feature serves as the class token.

    Attributes:
        ignores_segments: True; its cells are its own, and no superpixel has to fit.

    Args:
        name: a timm model name, such as ``swin_tiny_patch4_window7_224``.
        image_size: side in pixels.
        drop_path: stochastic depth rate.

    Raises:
        ValueError: if timm knows no such model; the message has the closest names.
    """

    ignores_segments = True

    def __init__(self, name: str, *, image_size: int = 224, drop_path: float = 0.0) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = ", ".join(timm.list_models(f"*{name.split('_', 1)[0]}*")[:8]) or "none"
            raise ValueError(f"timm knows no model {name!r}; names that look alike: {near}")
        self.network = _create(name, image_size, drop_path)
        self.network.eval()
        with torch.no_grad():
            features, feature = self._run(torch.zeros(1, 3, image_size, image_size))
        self.network.train()
        self.dim = feature.shape[-1]
        self.sizes = (features.shape[1] * features.shape[2],)

    def forward(self, view: View) -> Hierarchy:
        """One stage; its segments are the cells of the last feature map, not the view's superpixels."""
        features, feature = self._run(view.image)
        batch, rows, cols, _ = features.shape
        x = features.flatten(1, 2)
        mass = torch.ones(x.shape[:2], dtype=torch.float32, device=x.device)
        height, width = view.image.shape[-2:]
        row = torch.arange(height, device=x.device) * rows // height
        col = torch.arange(width, device=x.device) * cols // width
        cells = (row[:, None] * cols + col).int().expand(batch, -1, -1)
        return Hierarchy(cells, (Tokens(x, feature[:, None], mass),), ())

    def segment(self, view: View) -> Hierarchy:
        """The same as :meth:`forward`: there is nothing coarser."""
        return self(view)  # type: ignore[no-any-return]

    def _run(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature map (B, h, w, D') and the pooled feature (B, D)."""
        network: Any = self.network
        features = network.forward_features(image)
        feature = network.forward_head(features, pre_logits=True)
        prefix = getattr(network, "num_prefix_tokens", 0)
        if features.ndim == 3:  # (B, tokens, D)
            features = features[:, prefix:]
            side = int(features.shape[1] ** 0.5)
            features = features.unflatten(1, (side, features.shape[1] // side))
        elif features.shape[1] == self.network.num_features:
            features = features.permute(0, 2, 3, 1)
        return features, feature


def _create(name: str, image_size: int, drop_path: float) -> nn.Module:
    rates: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        network: nn.Module = timm.create_model(name, num_classes=0, img_size=image_size, **rates)
    except TypeError:  # convolutional networks take no img_size
        network = timm.create_model(name, num_classes=0, **rates)
    return network
