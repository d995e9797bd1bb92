"""castssl's segmentation heads as decode heads of mmsegmentation."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from castssl.errors import ConfigError
from castssl.models.segmentation_heads import HEADS, create_head, paint
from castssl.types import DenseTokens
from castssl_mmseg.norms import keep_activations


@MODELS.register_module()
class CastHead(BaseDecodeHead):  # type: ignore[misc]
    """A head that scores the classes of each token, and gives each pixel the scores of its token.

    Its input are the tokens of :class:`CastEncoder` with ``output="tokens"``.

    Args:
        head: ``"segmenter"``, ``"linear"`` or ``"fused"``, as ``recipes/segment.py`` takes them.
        in_channels: width of the tokens, the encoder's ``dense_dim``.
        num_classes: number of classes.
        options: other arguments of mmsegmentation's ``BaseDecodeHead``, such as ``loss_decode``.  The default
            loss divides by the labeled pixels (``avg_non_ignore=True``), as PyTorch, Segmenter and
            ``recipes/segment.py --mean process`` do; mmsegmentation's own default divides by all pixels.

    Raises:
        castssl.CastError: if there is no such head.
    """

    def __init__(
        self, head: str = "segmenter", *, in_channels: int, num_classes: int, **options: Any
    ) -> None:
        if head not in HEADS:
            raise ConfigError(f"no head {head!r}; heads: {', '.join(HEADS)}")
        options = {"loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True}, **options}
        super().__init__(
            in_channels, in_channels, num_classes=num_classes, dropout_ratio=0, init_cfg=None, **options
        )
        # DistributedDataParallel refuses parameters that no loss depends on.
        del self.conv_seg
        self.head = create_head(head, in_channels, num_classes)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As torch has it; mmengine calls it after it has converted the norms of ``module``."""
        super().add_module(name, module)
        keep_activations(self)

    def init_weights(self) -> None:
        """Nothing: the head has its initial weights."""
        self._is_init = True

    def forward(self, inputs: tuple[DenseTokens]) -> Tensor:
        """Logits of each pixel of the label map: float (B, C, H, W)."""
        tokens = inputs[0]
        if not isinstance(tokens, DenseTokens):
            raise ConfigError(
                f"CastHead takes DenseTokens, got a {type(tokens).__name__}; give the backbone"
                " output='tokens'"
            )
        height, width = tokens.labels.shape[1:]
        return paint(self.head(tokens), tokens, (height, width))
