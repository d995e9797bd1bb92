"""From published tensors to our encoder's, and back without the loss of a bit.

Our encoder has one class token; published models add it to a second tensor (``pe_token``, or the first row of
the position table).  Files of ours keep both beside the encoder, with the heads, MoCo's predictor and its
other branch, under ``published.*``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from castssl.errors import DataError
from castssl.models.create import PRESETS, Preset
from castssl.options import parse
from castssl.transfer.encoders import BESIDE, RECOGNISER, SETTINGS, read_encoder, shape_of
from castssl.transfer.files import read
from castssl.transfer.heads import published_heads
from castssl.transfer.layout import FUSED, LEARNED, Layout, State, Variant, head_shapes
from castssl.transfer.report import Report
from castssl.transfer.weights import Branch, Published, check, take_apart

HEADS = 12
"""Attention heads of every published model, whatever its width."""
STRIDE = 8
"""Pixels per stem cell side of every published CAST."""
_SPARE = ("norm.weight", "norm.bias")


def open_published(
    source: str | Path | Mapping[str, Any], branch: Branch = "base", *, ema: bool = False
) -> Published:
    """A checkpoint of either kind, taken apart: a published file or state dict, or our file or run folder.

    Raises:
        DataError: as :func:`castssl.transfer.weights.take_apart`, and if a file of ours holds a model that
            the published layout has no place for.
    """
    if not isinstance(source, str | Path):
        return take_apart(source, branch, ema=ema)
    source = Path(source)
    source = source / "encoder.safetensors" if source.is_dir() else source
    if not _is_ours(source):
        return take_apart(read(source), branch, ema=ema)
    found = from_ours(*read_encoder(source))
    if ema:
        raise DataError(f"{source} holds no moving average beside the model; leave ema out")
    if branch == "base":
        return found
    if not found.twin:
        raise DataError(f"{source} has no {branch} branch; only MoCo's checkpoints have, leave branch out")
    found.state, found.twin = found.twin, found.state
    return found


def _is_ours(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return SETTINGS in (file.metadata() or {})
    except Exception:
        return False  # the reader of foreign files says what is wrong with it


def encoder_state(layout: Layout, state: Mapping[str, Tensor]) -> State:
    """What our encoder's ``load_state_dict`` takes."""
    ours = {new: value for name, value in state.items() if (new := layout.ours(name))}
    table = ours["positions"]
    ours["cls_token"] = ours["cls_token"] + _offset(layout, state)
    cells = table[:, 1:] if layout.learned else table
    ours["positions"] = cells.transpose(1, 2).reshape(1, -1, layout.side, layout.side)
    return ours


def _offset(layout: Layout, state: Mapping[str, Tensor]) -> Tensor:
    """What the published model adds to its class token."""
    return state["pos_embed"][:, :1] if layout.learned else state["pe_token"]


def beside(published: Published) -> State:
    """The tensors that are no part of the encoder, for ``save_encoder``."""
    layout, state = published.layout, published.state
    kept = {name: value for name, value in state.items() if layout.ours(name) is None}
    kept |= {"cls_token": state["cls_token"], "cls_position": _offset(layout, state)}
    kept |= {f"predictor.{name}": value for name, value in published.predictor.items()}
    return kept | {f"twin.{name}": value for name, value in published.twin.items()}


def from_ours(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Published:
    """The published tensors of a file of ours, whether it was converted or pretrained in castssl.

    Raises:
        DataError: if the released code could not run such a model.
    """
    extra = {name.removeprefix(BESIDE): v for name, v in tensors.items() if name.startswith(BESIDE)}
    ours = {name: value for name, value in tensors.items() if not name.startswith(BESIDE)}
    variant = _variant(settings)
    shape = _refuse_strangers(settings, ours)
    heads = published_heads(extra, settings)
    cells = ours["positions"].shape[-1] ** 2
    learned = variant in LEARNED
    layout = Layout(
        variant,
        shape.dim,
        shape.depths[:-1],
        cells + learned,
        tuple(head_shapes({"cls_token": ours["cls_token"], **heads})),
    )
    state = {name: ours[new] for name in layout.shapes if (new := layout.ours(name)) and new in ours}
    strange = ours.keys() - {layout.ours(name) for name in state}
    if strange:
        raise DataError(f"the published {variant} has no place for {sorted(strange)[:5]}")
    _give_back(layout, state, extra)
    state |= heads
    check(state, layout.shapes, variant, layout.spelt)
    report = Report(variant=variant, used=list(ours), renamed={layout.ours(n) or n: n for n in state})
    report.notes += _differences(settings)
    predictor, twin = _under(extra, "predictor."), _under(extra, "twin.")
    if twin:
        check(twin, layout.shapes, f"{variant}, the other branch", layout.spelt)
    dense = bool((settings.get("published") or {}).get("dense"))
    return Published(layout, state, predictor, twin, dense, report)


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _give_back(layout: Layout, state: State, extra: State) -> None:
    """Take the class token and the table apart again, and add what has no part in our encoder."""
    cls = state["cls_token"]
    offset = extra.get("cls_position", torch.zeros_like(cls))
    before = extra.get("cls_token", cls)
    # Exact where the encoder was not trained on since; a difference would lose the last bit.
    state["cls_token"] = before if torch.equal(before + offset, cls) else cls - offset
    table = state["pos_embed"].flatten(2).transpose(1, 2).contiguous()
    if layout.learned:
        state["pos_embed"] = torch.cat([offset, table], 1)
    else:
        state["pos_embed"], state["pe_token"] = table, extra.get("pe_token", offset)
    for name in _SPARE:  # unused, but the released segmentation code asks for it
        if name in layout.shapes and name not in state:
            fresh = torch.ones_like if name.endswith("weight") else torch.zeros_like
            state[name] = extra.get(name, fresh(cls[0, 0]))


def _shape(settings: Mapping[str, Any]) -> Preset | None:
    return shape_of(settings) or PRESETS.get(settings["name"])


def _variant(settings: Mapping[str, Any]) -> Variant:
    if settings.get("published"):
        named: Variant = settings["published"]["variant"]
        return named
    shape, learned = _shape(settings), settings.get("positions") == "learned"
    levels = len((settings.get(RECOGNISER) or {"labels": {"sizes": ()}})["labels"]["sizes"])
    if levels > 1 and settings[RECOGNISER]["objective"] == "tree-kl":
        return "cast_deit_hier"
    if shape is not None and shape.fused:
        return "cast_seg_deit" if learned else "cast_seg"
    return "cast_deit" if learned else "cast"


def _refuse_strangers(settings: Mapping[str, Any], ours: State) -> Preset:
    """The shape of a model that the released code could build."""
    shape, pooling = _shape(settings), parse(settings.get("pooling") or "graph")
    heads = str(pooling.options.get("heads", HEADS))
    wrong = []
    if shape is None or "stem.layers.0.weight" not in ours:
        raise DataError(f"{settings['name']} is no CAST; the published layout has no place for it")
    if (len(shape.depths), shape.depths[-1]) != (5, 0):
        wrong.append(f"depths {shape.depths}, expected four stages and one without blocks")
    if (shape.heads, heads) != (HEADS, str(HEADS)):
        wrong.append(f"{shape.heads} heads and {heads} in poolings, expected {HEADS}")
    if shape.stride != STRIDE:
        wrong.append(f"stride {shape.stride}, expected {STRIDE}")
    if shape.fused and _variant(settings) not in FUSED:
        wrong.append("a fusion, which H-CAST has none of")
    if pooling.name != "graph" or pooling.options.get("centroids", "farthest") != "farthest":
        wrong.append(f"pooling {settings.get('pooling')}, expected graph with farthest point sampling")
    if wrong:
        raise DataError(f"the released code cannot run {settings['name']}: {'; '.join(wrong)}")
    return shape


def _differences(settings: Mapping[str, Any]) -> list[str]:
    """How the released code would run the model otherwise than it was trained."""
    notes = []
    if settings.get("padding", "mask") == "mask":
        notes.append("trained with padding='mask'; the released code lets empty tokens take part")
    if settings.get("membership", "nearest") != "nearest":
        notes.append("trained with membership='area'; the released code samples labels at the stem's grid")
    if settings.get(RECOGNISER):
        notes.append("the published layout has no place for the names of the classes")
    if _variant(settings) in LEARNED and settings.get("positions") != "learned":
        notes.append("the position table was fixed; the released H-CAST would train it")
    if _variant(settings) in FUSED and not settings.get("published"):
        notes.append("the clusters are an argument of the released code, not of the file")
    return notes
