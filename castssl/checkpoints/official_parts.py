"""A published checkpoint taken apart: every key is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from castssl.checkpoints.official_layout import (
    BLOCK,
    Layout,
    Shapes,
    State,
    head_shapes,
    predictor,
    recognize,
    stage_depths,
)
from castssl.checkpoints.report import Report
from castssl.errors import DataError

_HOLDERS = ("state_dict", "model", "embedding_model")
"""Keys under which files hold the model: MoCo, DeiT and H-CAST, VOC."""
_BESIDE = {
    "epoch": "says how far training was",
    "arch": "the keys tell the model",
    "args": "settings of the run",
    "accuracy": "a result of the run",
    "best_acc1": "a result of the run",
    "optimizer": "state of the optimizer; training begins with a fresh one",
    "lr_scheduler": "state of the schedule",
    "scaler": "state of mixed precision",
    "loss_scaler": "state of mixed precision",
    "n_cls": "classes of the segmentation decoder",
    "prediction_model": "VOC's pixel classifier, which castssl has no module for",
}
"""What lies beside the model in published files, and why it is left there."""
_SHOWN = 5


@dataclass
class Published:
    """A checkpoint taken apart.

    Attributes:
        layout: variant and shapes.
        state: the model, by plain published names (see :mod:`castssl.checkpoints.official_layout`).
        predictor: MoCo's predictor, names after ``predictor.``; empty in other files.
        momentum: the momentum encoder of a MoCo checkpoint, by plain names; empty in other files.
        dense: the file is of the VOC fine-tuning, whose tokens have the label map's resolution.
        report: what happened on the way.
    """

    layout: Layout
    state: State
    predictor: State = field(default_factory=dict)
    momentum: State = field(default_factory=dict)
    dense: bool = False
    report: Report = field(default_factory=Report)


def take_apart(content: Mapping[str, Any], *, ema: bool = False) -> Published:
    """The model within a checkpoint, checked against the published layout key by key.

    Args:
        content: a checkpoint or a bare state dict, with or without ``module.`` before its keys.
        ema: take ``model_ema``, the moving average of a DeiT or H-CAST checkpoint.

    Raises:
        DataError: naming each key that is missing, belongs nowhere, has another shape than the layout
            asks for, differs from its second copy, or is not finite.
    """
    report = Report()
    parts = _parts(_model(content, ema, report), report)
    state = parts["encoder"]
    if "cls_token" not in state or "patch_embed.proj.0.weight" not in state:
        near = ", ".join(sorted(state)[:4]) or "no tensors at all"
        raise DataError(f"this is no CAST checkpoint: expected keys cls_token, patch_embed.*; got {near}")
    depths = stage_depths(state)
    plain = merge_spellings(state, depths, report)
    rows = plain["pos_embed"].shape[1] if plain.get("pos_embed", torch.empty(0)).ndim == 3 else 0
    variant = recognize(plain)
    layout = Layout(variant, plain["cls_token"].shape[-1], depths, rows, tuple(head_shapes(plain)))
    check(plain, layout.shapes, variant, layout.spelt)
    _check_width(layout)
    momentum = (
        merge_spellings(parts["momentum"], stage_depths(parts["momentum"]), Report())
        if parts["momentum"]
        else {}
    )
    if momentum:
        check(momentum, layout.shapes, f"{variant}, the other branch")
    found = parts["predictor"]
    if found:
        check(found, _predictor_shapes(found, layout), "predictor")
    report.variant = variant
    report.used = [*state, *(f"predictor.{name}" for name in found)]
    report.renamed = {name: new for name in plain if (new := layout.ours(name))}
    return Published(layout, plain, found, momentum, parts["dense"] != {}, report)


def _check_width(layout: Layout) -> None:
    _ = layout.side  # its own check
    if layout.dim % 24:
        raise DataError(f"cls_token has width {layout.dim}; published models have 12 heads and a stem in"
                        " eighths of the width: expected a multiple of 24")  # fmt: skip


def _predictor_shapes(found: State, layout: Layout) -> Shapes:
    hidden = found["0.weight"].shape[0] if "0.weight" in found else 0
    heads = dict(layout.heads)
    return predictor(hidden, heads.get("head.6.weight", (0,))[0])


def _model(content: Mapping[str, Any], ema: bool, report: Report) -> State:
    """The state dict within a checkpoint; what lies beside it is known, and reported."""
    holders = ("model_ema",) if ema else _HOLDERS
    holder = next((key for key in holders if isinstance(content.get(key), Mapping)), "")
    if ema and not holder:
        raise DataError(f"no model_ema in this checkpoint; it has {', '.join(map(str, content))[:200]}")
    if not holder:
        return _tensors(content, "the checkpoint")
    for key in content:
        if key == holder:
            continue
        if key == "model_ema" or (ema and key == "model"):
            report.ignored[key] = f"not asked for; ema={not ema} takes it"
        elif key in _BESIDE:
            report.ignored[key] = _BESIDE[key]
        else:
            raise DataError(f"{key!r} lies beside {holder!r} in this checkpoint; expected {sorted(_BESIDE)}")
    return _tensors(content[holder], holder)


def _tensors(content: Mapping[str, Any], where: str) -> State:
    """Names without ``module.``; everything has to be a tensor."""
    strange = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise DataError(f"{where} holds {strange[:_SHOWN]}, which are no tensors; expected a state dict")
    state = {key.removeprefix("module."): value for key, value in content.items()}
    if len(state) < len(content):
        twice = [key for key in state if f"module.{key}" in content and key in content]
        raise DataError(f"{where} has {twice[:_SHOWN]} with and without 'module.'; keep one of each")
    return state


def _parts(state: State, report: Report) -> dict[str, State]:
    """Encoder, momentum encoder and predictor, without their prefixes."""
    moco = {"encoder": "base_encoder.", "momentum": "momentum_encoder.", "predictor": "predictor."}
    groups: dict[str, str] = {"encoder": ""}
    dense: State = {}
    if any(key.startswith(("base_encoder.", "momentum_encoder.")) for key in state):
        groups = moco
    elif any(key.startswith("vit_backbone.") for key in state):
        groups, dense = {"encoder": "vit_backbone."}, state
    elif any(key.startswith("encoder.") for key in state):
        groups = {"encoder": "encoder.", "decoder": "decoder."}
    parts: dict[str, State] = {"encoder": {}, "momentum": {}, "predictor": {}, "decoder": {}, "dense": dense}
    strange = []
    for key, value in state.items():
        name = next((name for name, prefix in groups.items() if key.startswith(prefix)), "")
        if name:
            parts[name][key.removeprefix(groups[name])] = value
        elif groups is moco and key in {"queue", "queue_ptr"}:
            report.ignored[key] = "MoCo v3 has no queue"
        else:
            strange.append(key)
    if strange:
        raise DataError(f"left over {strange[:_SHOWN]}: the other keys are {sorted(groups.values())}")
    if parts["decoder"]:
        report.ignored["decoder.*"] = f"{len(parts['decoder'])} tensors of the segmentation decoder"
    return parts


def merge_spellings(state: Mapping[str, Tensor], depths: tuple[int, ...], report: Report) -> State:
    """Every block once, under ``blocks.{g}``; ``depths`` are the blocks per stage.

    Raises:
        DataError: if two spellings of the same tensor differ, or one of them is incomplete.
    """
    first = _first_indices(state)
    plain: State = {}
    spelt: dict[bool, dict[str, str]] = {False: {}, True: {}}
    for key, value in state.items():
        name, staged = _plain_name(key, depths, first)
        if name in plain and not torch.equal(plain[name], value):
            raise DataError(f"{key} differs from its other spelling in the same file; expected equal tensors")
        if name in plain:
            report.merged[key] = spelt[not staged][name]
        if BLOCK.fullmatch(key):
            spelt[staged][name] = key
        plain[name] = value
    if spelt[False] and spelt[True]:
        alone = spelt[False].keys() ^ spelt[True].keys()
        if alone:
            names = [(spelt[False] | spelt[True])[name] for name in sorted(alone)]
            raise DataError(f"{names[:_SHOWN]}: the second copy that other blocks have is missing")
    return plain


def _first_indices(state: Mapping[str, Tensor]) -> dict[int, int]:
    """The lowest block index under each ``blocks{s}``: 0 where indices are local, else they are global."""
    first: dict[int, int] = {}
    for key in state:
        if (found := BLOCK.fullmatch(key)) and found[1]:
            stage = int(found[1])
            first[stage] = min(first.get(stage, int(found[2])), int(found[2]))
    return first


def _plain_name(key: str, depths: tuple[int, ...], first: Mapping[int, int]) -> tuple[str, bool]:
    """The plain name, and whether the key was spelt with a stage."""
    found = BLOCK.fullmatch(key)
    if not found or not found[1]:
        return key, False
    stage = int(found[1])
    local = int(found[2]) - first[stage]
    if first[stage] not in {0, sum(depths[: stage - 1])} or local >= depths[stage - 1]:
        return key, True  # belongs nowhere, and will be refused under its own name
    return f"blocks.{sum(depths[: stage - 1]) + local}.{found[3]}", True


def check(
    state: Mapping[str, Tensor],
    shapes: Shapes,
    what: str,
    spelt: Callable[[str], tuple[str, ...]] = lambda name: (name,),
) -> None:
    """Hold a state dict against names and shapes; ``spelt`` tells how files write a name.

    Raises:
        DataError: naming the first few keys that are missing, left over, of another shape, or not finite.
    """
    missing = [" = ".join(spelt(key)) for key in shapes if key not in state]
    strange = [key for key in state if key not in shapes]
    if missing or strange:
        raise DataError(
            f"checkpoint of variant {what}: missing {missing[:_SHOWN]}, left over {strange[:_SHOWN]}"
        )
    for key, value in state.items():
        if tuple(value.shape) != shapes[key]:
            raise DataError(f"{key} of {what} has shape {tuple(value.shape)}, expected {shapes[key]}")
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{key} of {what} is not finite; this training had diverged")


def rename(state: Mapping[str, Tensor], depths: tuple[int, ...]) -> State:
    """Our names for published ones of any spelling, also if only some are there.

    Raises:
        DataError: if two spellings of the same tensor differ.
    """
    plain = merge_spellings(state, depths, Report())
    layout = Layout(recognize(plain), 0, depths, 0)
    return {layout.ours(name) or name: value for name, value in plain.items()}
