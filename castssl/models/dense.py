"""The segmentation stage of CAST: tokens from superpixels that are finer than the stem's grid.

CAST, https://arxiv.org/abs/2210.00314, appendix on VOC, ADE20K and Pascal Context: of a thousand
superpixels many are smaller than a stem cell, so the released code resizes features and positions to the
label map.
"""

from __future__ import annotations

from castssl.models.fuse import FusedCAST
from castssl.tokens.interpolation import resized_mean
from castssl.types import Tokens, View


class DenseCAST(FusedCAST):
    """A :class:`FusedCAST` that takes segment means at the label map's resolution; no superpixel is lost.

    The label map may be smaller than the image: the released VOC code trains with half its side.
    ``membership`` has no meaning here.
    """

    resized_segments = True

    def tokenise(self, view: View, size: int) -> Tokens:
        """Means of bilinearly resized features and bicubically resized positions.

        ``mass`` still counts stem cells: a segment's pixels over the pixels of a cell.
        """
        features = self.stem(view.image)
        cells = features.shape[-2] * features.shape[-1]
        height, width = view.segments.shape[-2:]
        x, pixels = resized_mean(features, view.segments, size, "bilinear")
        # Two means round less than one of the sum, in which large features drown the positions.
        x = x + resized_mean(self.positions, view.segments, size, "bicubic")[0].to(x.dtype)
        cls = self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype)
        return Tokens(x, cls, pixels * (cells / (height * width)))
