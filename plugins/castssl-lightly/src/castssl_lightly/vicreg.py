"""VICReg: views agree, each feature keeps its variance, and no two features vary together.

VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning,
https://arxiv.org/abs/2105.04906, equations 1 to 6.
"""

from __future__ import annotations

from lightly.loss.vicreg_loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead

from castssl.contracts import Encoder
from castssl.labels import LabelTree
from castssl_lightly.siamese import Joint


class VICReg(Joint):
    """The weighted sum of three terms; variance and covariance are those of all processes' images.

    As in the released code, the invariance is a mean over features, not a sum (equation 5), and the variance
    term is the mean of both views' and not their sum (equation 6).

    Args:
        encoder: what is pretrained.
        labels: the data set's label tree, unused.
        invariance: lambda (section 4.2).
        variance: mu (section 4.2).
        covariance: nu (section 4.2).
        hidden: width of the projector's two hidden layers (section 4.2).
        out: width of the embedding (section 4.2).
    """

    least = 2

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree | None = None,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        hidden: int = 8192,
        out: int = 8192,
    ) -> None:
        projector = VICRegProjectionHead(encoder.dim, hidden, out)
        criterion = VICRegLoss(invariance, variance, covariance, gather_distributed=True)
        super().__init__(encoder, projector, criterion)
