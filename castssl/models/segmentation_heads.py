"""Heads for semantic segmentation: dense tokens into class scores of each token, and those into maps.

``linear``: batch norm and one layer, as DINOv2 (https://arxiv.org/abs/2304.07193) and DINOv3
(https://arxiv.org/abs/2508.10104) evaluate frozen features.  ``fused``: the two layers of CAST
(https://arxiv.org/abs/2210.00314, appendix on VOC).  ``segmenter``: the mask transformer of Segmenter
(https://arxiv.org/abs/2105.05633).  The heads of :mod:`castssl.models.mask_queries` read more of an encoder
than its dense tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.encoder_config import Padding
from castssl.errors import ConfigError, DataError
from castssl.models import initialization
from castssl.models.fuse import token_norm
from castssl.types import DenseTokens


class LinearHead(nn.Module):
    """Dropout of whole channels, batch norm over the tokens that exist, and one layer.

    Args:
        dim: width D of the tokens.
        classes: number of classes C.
        dropout: share of the channels that are dropped in an image; DINOv3 has 0.1.
    """

    def __init__(self, dim: int, classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout1d(dropout)
        self.norm = nn.BatchNorm1d(dim)
        self.linear = nn.Linear(dim, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: DenseTokens) -> Tensor:
        """Logits of each token: float (B, N, C)."""
        x = self.dropout(tokens.x.transpose(1, 2)).transpose(1, 2)
        logits: Tensor = self.linear(token_norm(x, tokens.mass > 0, self.norm))
        return logits


class FusedHead(nn.Module):
    """Two layers with batch norm and ReLU between; for tokens that are fused of several stages.

    The published head works on pixels, each with its superpixel's token, so its batch norm counts a
    token once for each of its pixels.  So does this one, which computes each token once.

    Args:
        dim: width D of the tokens.
        classes: number of classes C.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)
        self.last = nn.Linear(dim, classes)

    def forward(self, tokens: DenseTokens) -> Tensor:
        """Logits of each token: float (B, N, C)."""
        hidden = token_norm(self.first(tokens.x), areas(tokens), self.norm)
        logits: Tensor = self.last(hidden.relu())
        return logits


class MaskTransformer(nn.Module):
    """Class embeddings join the tokens in attention blocks; logits are normalized cosines of the two.

    Parameters have the released names.  There is no position embedding.

    Args:
        dim: width of the tokens.
        classes: number of classes C.
        layers: attention blocks.
        width: of the blocks; None for ``dim``.  There is a head for every 64 channels, or fewer if these do
            not part the width.
        dropout: of attention weights, attention and MLP.
        padding: ``"mask"``: tokens of mass 0 take no part; ``"reference"``: they do, as published.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        layers: int = 2,
        width: int | None = None,
        dropout: float = 0.1,
        padding: Padding = "mask",
    ) -> None:
        super().__init__()
        width = width or dim
        heads = next(count for count in range(max(width // 64, 1), 0, -1) if width % count == 0)
        self.padding = padding
        # timm's own norm has another eps.
        options: dict[str, Any] = {"proj_drop": dropout, "attn_drop": dropout, "norm_layer": nn.LayerNorm}
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True, **options) for _ in range(layers))
        self.cls_emb = nn.Parameter(torch.empty(1, classes, width))
        self.proj_dec = nn.Linear(dim, width)
        self.proj_patch = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.proj_classes = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.decoder_norm = nn.LayerNorm(width)
        self.mask_norm = nn.LayerNorm(classes)
        initialization.trunc_normal(self.cls_emb, width)
        initialization.draw_as_deit(self, width)

    def forward(self, tokens: DenseTokens) -> Tensor:
        """Logits of each token: float (B, N, C)."""
        count = tokens.x.shape[1]
        classes = self.cls_emb.expand(tokens.x.shape[0], -1, -1)
        x = torch.cat([self.proj_dec(tokens.x), classes], 1)
        present = F.pad(tokens.mass > 0, (0, classes.shape[1]), value=True)
        mask = present[:, None, None] if self.padding == "mask" else None
        for block in self.blocks:
            x = block(x, attn_mask=mask)
        x = self.decoder_norm(x)
        rows = F.normalize(x[:, :count] @ self.proj_patch, dim=-1)
        columns = F.normalize(x[:, count:] @ self.proj_classes, dim=-1)
        logits: Tensor = self.mask_norm(rows @ columns.transpose(1, 2))
        return logits


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": LinearHead,
    "fused": FusedHead,
    "segmenter": MaskTransformer,
}
"""Heads by name, each called with the width of the tokens and the number of classes."""


def create_head(name: str, dim: int, classes: int) -> nn.Module:
    """A head with new weights, drawn from torch's global generator.

    Raises:
        ConfigError: if there is no such head, or it cannot have this width.
    """
    if name not in HEADS:
        raise ConfigError(f"no head {name!r}; heads: {', '.join(HEADS)}")
    return HEADS[name](dim, classes)


def load_mask_transformer(state: Mapping[str, Tensor], *, padding: Padding = "reference") -> MaskTransformer:
    """The decoder of a released Segmenter, with the shape that its tensors have.

    Args:
        state: tensors of the decoder, or of the whole model, whose keys begin with ``decoder.`` and
            ``encoder.``; the encoder's are not read.
        padding: as for :class:`MaskTransformer`.

    Raises:
        DataError: if a tensor is missing, is left over, or has another shape.
    """
    own = {key.removeprefix("decoder."): t for key, t in state.items() if not key.startswith("encoder.")}
    if missing := sorted({"cls_emb", "proj_dec.weight"} - own.keys()):
        raise DataError(
            f"no mask transformer of a Segmenter: {', '.join(missing)} missing in {list(own)[:5]}"
        )
    layers = len({key.split(".")[1] for key in own if key.startswith("blocks.")})
    width, dim = own["proj_dec.weight"].shape
    head = MaskTransformer(dim, own["cls_emb"].shape[1], layers=layers, width=width, padding=padding)
    try:
        head.load_state_dict(own)
    except RuntimeError as error:
        raise DataError(f"no mask transformer of a Segmenter: {error}") from error
    return head


def areas(tokens: DenseTokens) -> Tensor:
    """How many pixels each token has: float32 (B, N)."""
    flat = tokens.labels.flatten(1).long()
    ones = torch.ones(flat.shape, dtype=torch.float32, device=flat.device)
    count = ones.new_zeros(flat.shape[0], tokens.x.shape[1] + 1)
    index = flat.masked_fill(flat < 0, tokens.x.shape[1])
    return count.scatter_add(1, index, ones)[:, :-1]


def paint(values: Tensor, tokens: DenseTokens, size: tuple[int, int] | None = None) -> Tensor:
    """Maps of what each token has: float (B, N, C) -> float32 or better (B, C, H, W).

    Each pixel has its token's values, 0 where it has none.  The cells of a grid are interpolated.

    Args:
        values: such as logits.
        tokens: where they lie.
        size: height and width; None for those of the label map.  Another size than the label map's is
            reached by bilinear interpolation of the maps.
    """
    size = size or (tokens.labels.shape[1], tokens.labels.shape[2])
    # The gradient of a token is the sum over its pixels, which a GPU sums in the dtype of the maps.
    columns = values.to(torch.promote_types(values.dtype, torch.float32)).transpose(1, 2)
    if tokens.grid:
        maps: Tensor = columns.unflatten(2, tokens.grid)
    else:
        flat = tokens.labels.flatten(1).long()
        index = flat.clamp(min=0)[:, None].expand(-1, values.shape[2], -1)
        painted = columns.gather(2, index).masked_fill((flat < 0)[:, None], 0.0)
        maps = painted.unflatten(2, tokens.labels.shape[1:])
    if maps.shape[2:] == size:
        return maps
    resized: Tensor = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return resized
