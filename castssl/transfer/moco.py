"""MoCo pretraining goes on from a published checkpoint: encoder, projector, predictor and momentum twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from castssl.contracts import Encoder
from castssl.errors import DataError
from castssl.objectives.moco import MoCoV3
from castssl.transfer.layout import State
from castssl.transfer.official import make
from castssl.transfer.ours import encoder_state, open_published


def load_moco(
    source: str | Path | Mapping[str, Any], *, sizes: Sequence[int] | None = None, **options: Any
) -> MoCoV3:
    """The objective of a published MoCo checkpoint (``cast`` or ``cast_seg``), ready to be trained on.

    The optimizer starts afresh: its state is not read.

    Args:
        source: as :func:`castssl.transfer.official.load_official`.
        sizes: token budget per stage, as there.
        options: of :class:`castssl.objectives.moco.MoCoV3`, such as ``temperature``; the widths are the
            checkpoint's.

    Raises:
        DataError: if the checkpoint lacks the projector, the predictor or one of the two branches.
    """
    published = open_published(source)
    projector = _under(published.state, "head.")
    parts = {"projector": projector.get("6.weight"), "predictor": published.predictor, "twin": published.twin}
    if lacking := [name for name, part in parts.items() if part is None or not len(part)]:
        raise DataError(
            f"this checkpoint has no {', '.join(lacking)}: pretraining cannot go on from it;"
            " load_official takes the encoder, to begin anew"
        )
    encoder = make(published, sizes=sizes).encoder
    hidden, out = projector["6.weight"].shape[1], projector["6.weight"].shape[0]
    moco = MoCoV3(cast(Encoder, encoder), hidden=hidden, out=out, **options)
    moco.to(encoder.cls_token.dtype)
    _fill(moco.projector, projector)
    _fill(moco.predictor, published.predictor)
    moco.twin["encoder"].load_state_dict(encoder_state(published.layout, published.twin))
    _fill(moco.twin["projector"], _under(published.twin, "head."))
    return moco.train()


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _fill(head: nn.Module, state: State) -> None:
    head.to(state["0.weight"].dtype)
    head.load_state_dict({f"layers.{name}": value for name, value in state.items()})
