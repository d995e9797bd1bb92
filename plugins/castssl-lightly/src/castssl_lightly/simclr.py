"""SimCLR: each view finds the other of its image among all views of the batch.

A Simple Framework for Contrastive Learning of Visual Representations, https://arxiv.org/abs/2002.05709,
Algorithm 1.
"""

from __future__ import annotations

from lightly.loss.ntx_ent_loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl_lightly.siamese import Joint


class SimCLR(Joint):
    """Contrast with all other views of the batch, over all processes.

    Args:
        encoder: what is pretrained.
        labels: the data set's label tree, unused.
        temperature: tau; 0.1 is the paper's for ImageNet (its 0.5 is for CIFAR-10).
        hidden: width of the projector's hidden layer; the paper's is ResNet-50's own, 2048.
        out: width of the embedding (section 2.1).
        layers: of the projector; 2 as in the paper, 3 as in its successor.

    Raises:
        ConfigError: if an option is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree | None = None,
        *,
        temperature: float = 0.1,
        hidden: int = 2048,
        out: int = 128,
        layers: int = 2,
    ) -> None:
        if temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {temperature}")
        if layers < 2:
            raise ConfigError(f"the projector has at least 2 layers, got {layers}")
        projector = SimCLRProjectionHead(encoder.dim, hidden, out, num_layers=layers)
        super().__init__(encoder, projector, NTXentLoss(temperature, gather_distributed=True))
