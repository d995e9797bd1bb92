"""Between the published files and ours, in both directions.

A published file -> ours -> the published layout gives the same keys and bits back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from castssl.errors import DataError
from castssl.files import atomic_write, write_tensors
from castssl.transfer.adapt import Stage, adapt
from castssl.transfer.encoders import save_encoder
from castssl.transfer.layout import Layout, State
from castssl.transfer.official import make
from castssl.transfer.ours import beside, open_published
from castssl.transfer.report import Report
from castssl.transfer.weights import Branch, Published

Format = Literal["castssl", "official"]
MOCO = ("cast", "cast_seg")
"""Variants that the released code reads from MoCo's checkpoints; it reads the others from DeiT's."""


def convert(
    source: str | Path,
    out: str | Path,
    *,
    layout: Format = "castssl",
    branch: Branch = "base",
    ema: bool = False,
    stage: Stage | None = None,
    sizes: Sequence[int] | None = None,
    image_size: int | None = None,
) -> Report:
    """Write a checkpoint, published or ours, in either layout.

    ``"castssl"``: a safetensors file that :func:`castssl.transfer.encoders.load_encoder` and
    ``load_official`` read, with the heads, MoCo's predictor and its other branch beside the encoder.
    ``"official"``: what the released code loads; by torch, or flat in a safetensors file if ``out`` ends
    like one.

    Args:
        source: a file that :func:`castssl.transfer.official.load_official` reads, or the
            ``encoder.safetensors`` of a run.
        out: the file to write; replaced only once the new one is whole.
        layout: ``"castssl"`` or ``"official"``.
        branch: which encoder of a MoCo checkpoint stands first.
        ema: take ``model_ema`` of a DeiT or H-CAST checkpoint.
        stage: as in ``load_official``.
        sizes: as there; no part of the published layout.
        image_size: as there.

    Returns:
        What became of each tensor.

    Raises:
        DataError: if the source cannot be read, the released code could not run such a model, or ``out``
            has another ending than its layout.
    """
    out = Path(out)
    if layout == "castssl" and out.suffix != ".safetensors":
        raise DataError(f"files of ours end in .safetensors, got {out.name}; name it {out.stem}.safetensors")
    if layout == "official" and sizes is not None:
        raise DataError("the published layout holds no sizes: they are arguments of the released code")
    published = adapt(open_published(source, branch, ema=ema), stage, image_size)
    if layout == "official":
        return _write_official(published, out)
    model = make(published, sizes=sizes, stage=stage)
    save_encoder(model.encoder, out, beside=beside(published), **model.settings)
    kept = ("norm.*", "head.*", "predictor.*", "the other branch")
    for name in [name for name in published.report.ignored if name in kept]:
        published.report.changed[name] = "kept beside the encoder, under published.*"
        del published.report.ignored[name]
    return published.report


def _write_official(published: Published, out: Path) -> Report:
    state = official_state(published)
    if out.suffix == ".safetensors":
        write_tensors(out, state, {})
    else:
        with atomic_write(out, "weights", shared=True) as aside, open(aside, "wb") as file:
            torch.save(_wrapped(published.layout, state), file)
    published.report.notes.append(f"{len(state)} tensors in the published layout; no optimizer state")
    return published.report


def official_state(published: Published) -> State:
    """The state dict that the released code writes; MoCo's with its prefixes."""
    layout = published.layout
    if layout.variant not in MOCO:
        return _spelt(layout, published.state)
    parts = {"base_encoder": published.state, "momentum_encoder": published.twin}
    state: State = {}
    for name, part in parts.items():
        state |= {f"module.{name}.{key}": value for key, value in _spelt(layout, part).items()}
    return state | {f"module.predictor.{key}": value for key, value in published.predictor.items()}


def _spelt(layout: Layout, plain: State) -> State:
    return {name: value for key, value in plain.items() for name in layout.spelt(key)}


def _wrapped(layout: Layout, state: dict[str, Tensor]) -> dict[str, Any]:
    if layout.variant in MOCO:
        size = {384: "small", 768: "base"}.get(layout.dim, str(layout.dim))
        deep = "_deep" if sum(layout.depths) > 11 else ""
        tail = "_pretrain" if layout.variant == "cast_seg" else ""
        return {"epoch": 0, "arch": f"{layout.variant}_{size}{deep}{tail}", "state_dict": state}
    return {"model": state, "epoch": 0}
