"""Other token budgets for the same weights at test time.

CAST, https://arxiv.org/abs/2210.00314, Table 5d.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import pairwise

from castssl.contracts import Encoder
from castssl.encoder_config import complete_sizes
from castssl.errors import ConfigError
from castssl.models.cast import CAST


def with_sizes(encoder: Encoder, sizes: Sequence[int]) -> Encoder:
    """The same encoder with other token budgets: a second handle on the very same parameters.

    Training one trains the other, and moving one to a device moves the other.

    Args:
        encoder: a CAST; others have no budgets to change.
        sizes: fine to coarse, such as ``(324, 128, 64, 32)``; a last stage that exists for the segmentation
            alone gets half of the last size if it is left out.

    Raises:
        ConfigError: if the encoder is not a CAST, or has not as many stages, or could not pool like that.
    """
    if not isinstance(encoder, CAST):
        raise ConfigError(f"only a CAST has sizes to change, got a {type(encoder).__name__}; leave them out")
    wanted = complete_sizes(sizes, encoder.depths)
    if len(wanted) != len(encoder.sizes):
        raise ConfigError(f"this model has {len(encoder.sizes)} stages, sizes {encoder.sizes}; got {wanted}")
    if min(wanted) < 1 or any(coarse > fine for fine, coarse in pairwise(wanted)):
        raise ConfigError(f"sizes go from fine to coarse and end at 1 or more, got {wanted}")
    for (fine, coarse), (old, new) in zip(pairwise(wanted), pairwise(encoder.sizes), strict=True):
        if old == new and fine != coarse:
            raise ConfigError(f"the model has no pooling from {old} to {new} tokens: give equal sizes there")
    copied = copy(encoder)
    copied.sizes = wanted
    copied.config = replace(encoder.config, sizes=wanted)
    return copied


def sizes_for(encoder: Encoder, segments: int, sizes: Sequence[int] | None = None) -> tuple[int, ...]:
    """Sizes with room for that many superpixels: ``sizes``, or the encoder's own with another first one.

    Raises:
        ConfigError: if ``sizes`` are given and begin with less than ``segments``.
    """
    if sizes is None:
        return (max(segments, encoder.sizes[1] if len(encoder.sizes) > 1 else 1), *encoder.sizes[1:])
    if sizes[0] < segments:
        raise ConfigError(
            f"up to {segments} superpixels, but sizes {tuple(sizes)} have room for {sizes[0]}: give sizes"
            f" that begin with {segments}, or ask for fewer superpixels"
        )
    return tuple(sizes)
