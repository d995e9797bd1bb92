"""Between the published files and castssl's, in both directions.

A published file -> castssl's -> the published layout gives the same keys and bits back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from castssl.checkpoints import native
from castssl.checkpoints.checkpoint import State, Which
from castssl.checkpoints.load import Source, read
from castssl.checkpoints.official import Stage, encode
from castssl.checkpoints.official_layout import Layout, Published
from castssl.checkpoints.official_model import adapt, as_published
from castssl.checkpoints.report import Report
from castssl.errors import DataError
from castssl.files import atomic_write
from castssl.tensor_files import write_tensors

Format = Literal["castssl", "official"]
MOCO = ("cast", "cast_seg")
"""Variants that the released code reads from MoCo's checkpoints; it reads the others from DeiT's."""


def convert(
    source: Source,
    out: str | Path,
    *,
    layout: Format = "castssl",
    which: Which = "base",
    ema: bool = False,
    stage: Stage | None = None,
    sizes: Sequence[int] | None = None,
    image_size: int | None = None,
) -> Report:
    """Write a checkpoint, published or castssl's, in either layout.

    ``"castssl"``: a safetensors file that :func:`castssl.checkpoints.read` reads, with the heads, MoCo's
    projector, predictor and momentum encoder beside the encoder.
    ``"official"``: what the released code loads; by torch, or flat in a safetensors file if ``out`` ends
    like one.

    Args:
        source: as :func:`castssl.checkpoints.read`.
        out: the file to write; replaced only once the new one is whole.
        layout: ``"castssl"`` or ``"official"``.
        which: the encoder of a MoCo checkpoint that comes first.
        ema: take ``model_ema`` of a DeiT or H-CAST checkpoint.
        stage: as in :func:`castssl.load_official`.
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
        named = f"{out.stem}.safetensors"
        raise DataError(f"files of castssl end in .safetensors, got {out.name}; name it {named}")
    if layout == "official" and sizes is not None:
        raise DataError("the published layout holds no sizes: they are arguments of the released code")
    checkpoint = read(source, which=which, ema=ema)
    if layout == "official" or checkpoint.variant or stage or image_size or sizes:
        checkpoint = adapt(as_published(checkpoint), stage, image_size, sizes)
    if layout == "official":
        published = encode(checkpoint)
        _add(checkpoint.report, published.report)
        return _write_official(published, out)
    checkpoint.check()
    native.write(checkpoint, out)
    return checkpoint.report


def _add(before: Report, report: Report) -> None:
    """Put what became of the source's tensors into the report of those that are written."""
    report.merged, report.ignored = before.merged, before.ignored
    # The published layout has the class token as it was.
    report.changed = {name: how for name, how in before.changed.items() if name != "cls_token"}
    report.notes = [*before.notes, *(note for note in report.notes if note not in before.notes)]


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
    parts = {"base_encoder": published.state, "momentum_encoder": published.momentum}
    state: State = {}
    for name, part in parts.items():
        state |= {f"module.{name}.{key}": value for key, value in _spelt(layout, part).items()}
    return state | {f"module.predictor.{key}": value for key, value in published.predictor.items()}


def _spelt(layout: Layout, plain: State) -> State:
    return {name: value for key, value in plain.items() for name in layout.spellings(key)}


def _wrapped(layout: Layout, state: State) -> dict[str, Any]:
    if layout.variant in MOCO:
        size = {384: "small", 768: "base"}.get(layout.dim, str(layout.dim))
        deep = "_deep" if sum(layout.depths) > 11 else ""
        tail = "_pretrain" if layout.variant == "cast_seg" else ""
        return {"epoch": 0, "arch": f"{layout.variant}_{size}{deep}{tail}", "state_dict": state}
    return {"model": state, "epoch": 0}
