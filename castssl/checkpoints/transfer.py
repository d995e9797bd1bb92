"""An encoder for transfer: that of some weights, or a named model that begins from them."""

from __future__ import annotations

from collections.abc import Sequence

from castssl import distributed
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.load import Source, read
from castssl.contracts import Encoder
from castssl.encoder_config import override
from castssl.models.create import create
from castssl.models.presets import find_config


def transfer(
    source: Source | None,
    model: str = "",
    *,
    image_size: int | None = None,
    pooling: str | None = None,
    superpixels: str | None = None,
    sizes: Sequence[int] | None = None,
) -> Encoder:
    """The encoder of ``model``, or else of ``source``, that begins from ``source`` where it is given.

    The main process prints what was used, resized and begins afresh.  New weights are drawn from torch's
    global generator.

    Args:
        source: as :func:`castssl.checkpoints.read`; None for new weights, which need a ``model``.
        model: a preset or KIND:NAME; "" is the model of ``source``.
        image_size: side in pixels of a named model; the model of ``source`` keeps its own.
        pooling: spec of a pooling in place of the model's own; like the next two None or "auto" leave it.
        superpixels: spec of superpixels, likewise.
        sizes: token budget of each stage, likewise.

    Raises:
        ConfigError: if there is no such model.
        DataError: if the source cannot be read, or is of another model.
    """
    checkpoint = None if source is None else read(source)
    if model or checkpoint is None:
        config = override(find_config(model), image_size=image_size)
        if checkpoint is not None:
            before = checkpoint.config
            config = override(config, channels=before.channels, mean=before.mean, std=before.std)
    else:
        checkpoint.check()
        config = checkpoint.config
    pooling, superpixels = (None if spec == "auto" else spec for spec in (pooling, superpixels))
    encoder = create(override(config, pooling=pooling, superpixels=superpixels, sizes=sizes), advance=True)
    if checkpoint is not None:
        report = initialize(encoder, checkpoint)
        if distributed.is_main():
            print(report)
    return encoder
