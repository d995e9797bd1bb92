"""DeiT: supervised training with mixed images and soft targets.

Training data-efficient image transformers, https://arxiv.org/abs/2012.12877; the binary loss is that of
DeiT III, https://arxiv.org/abs/2204.07118, section 3; CAST, Table 12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.labels import LabelTree
from castssl.objectives.classification import OneHead, Supervised, cross_entropy, linear


class DeiT(Supervised):
    """An encoder with one linear head on the class token of its last stage, at one label level.

    In training mode images are mixed and targets softened; in evaluation mode neither.  An image without a
    label adds nothing to the loss, which is a mean over all images of the batch.

    Args:
        encoder: what is trained.
        labels: the data set's label tree.
        level: the label level to learn; -1 is the finest.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise; 0 with ``bce``.
        bce: a binary loss for each class, whose target is 1 for every class that is in the mixture, in place
            of cross entropy with soft targets; see :func:`binary_cross_entropy`.
        ema: keep an average of encoder and head that moves by 1 - ``ema`` a step, for ``branch("ema")``; 0
            keeps none.  The released code has 0.99996.

    Raises:
        ConfigError: if the data set is unlabeled, its labels do not exclude each other, or it has no such
            level; if an option is out of range.
    """

    model: OneHead

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        level: int = -1,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
        bce: bool = False,
        ema: float = 0.0,
    ) -> None:
        soft = 0.0 if bce else smoothing
        super().__init__(labels, levels=[level], mixup=mixup, cutmix=cutmix, smoothing=soft)
        self.model = OneHead(encoder, head=linear(encoder.dim, *self.classes))
        self.compare = binary_cross_entropy if bce else cross_entropy
        self.keep_average(ema)

    def criterion(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Cross entropy with the soft target, or a binary loss for each class."""
        return self.compare(logits[0], targets[0]), {}


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """A binary loss for each class, whose target is 1 where the soft target is above 0: a float32 scalar.

    A mean over all images and classes.  An image without a label, or one that is mixed with such an image,
    adds nothing: its missing class would be trained as absent.

    Args:
        logits: float (B, C).
        target: float (B, C); a row sums to 1, or less where a label is missing.
    """
    complete = target.sum(1, keepdim=True) > 1 - 1e-3
    present = (target > 0).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    return (losses * complete).mean()
