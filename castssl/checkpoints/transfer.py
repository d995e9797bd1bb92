"""What is transferred: the encoder of weights, or a named model that begins from them; their projector."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from castssl import distributed
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.load import Source, read
from castssl.checkpoints.official_model import projection
from castssl.contracts import Encoder
from castssl.encoder_config import CHANNELS, override
from castssl.errors import DataError
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
            config = override(config, **{name: getattr(checkpoint.config, name) for name in CHANNELS})
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


def projector_of(source: Source, *, new: bool = False) -> nn.Module:
    """MoCo's projector beside an encoder, float (n, D) -> (n, E), in evaluation mode.

    Args:
        source: as :func:`castssl.checkpoints.read`.
        new: one of the same widths with new weights, drawn from torch's global generator.

    Raises:
        DataError: if the source has no projector, or that of another objective.
    """
    checkpoint = read(source)
    tensors = checkpoint.under("projector.")
    if not tensors:
        raise DataError(
            f"{checkpoint.source} holds no projector beside the encoder; take a run of moco_in1k.py, or"
            " compare the tokens themselves (--features tokens)"
        )
    try:
        projector = projection(tensors)
        if not new:
            projector.load_state_dict(tensors)
    except (IndexError, RuntimeError, ValueError) as error:
        raise DataError(
            f"the projector in {checkpoint.source} is not that of MoCo v3 ({error}); compare the tokens"
            " themselves (--features tokens)"
        ) from error
    return projector.eval()
