"""The state dicts of the released code: names, shapes, wrappers and prefixes; every key is accounted for.

The released classification models keep every block twice, under ``blocks.{g}`` and ``blocks{s}.{g}`` with a
global index g; the segmentation model, and older files, once under ``blocks{s}.{local}``.  The *plain* names
used here hold each block once, under ``blocks.{g}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor

from castssl.checkpoints.checkpoint import State
from castssl.checkpoints.report import Report
from castssl.errors import DataError

Shapes = dict[str, tuple[int, ...]]
Variant = Literal["cast", "cast_deit", "cast_deit_hier", "cast_seg", "cast_seg_deit"]
FUSED = ("cast_seg", "cast_seg_deit")
LEARNED = ("cast_deit", "cast_deit_hier", "cast_seg_deit")
"""Variants whose position table is learned, with a row for the class token before the cells'."""
COARSER = ("family_head", "manufacturer_head")
"""H-CAST's heads beside ``head``, which is the finest level's; without the second there are two levels."""
LEVELS = ("head", *COARSER)
"""The published classifiers, fine to coarse."""
BLOCK = re.compile(r"blocks(\d*)\.(\d+)\.(.+)")
OWN = re.compile(r"((model|average\.module|momentum_model)\.)?(encoder\.)?(stem|stages|poolings|network)\.")
"""How names begin in the state dict of an encoder or an objective of castssl."""
_BLOCK: Shapes = {"norm1": (1,), "attn.qkv": (3, 1), "attn.proj": (1, 1), "norm2": (1,)}
_BLOCK |= {"mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
_POOL: Shapes = {f"centroid_fc.{name}": _BLOCK[name] for name in ("attn.qkv", "attn.proj")}
_POOL |= {"centroid_fc.norm": (1,), "fc1.0": (1,), "fc1.1": (4, 1), "fc2.0": (4,), "fc2.1": (1, 4)}
"""Shapes of the weights of linear layers and layer norms, in units of the width D."""
_RENAMED = {
    "patch_embed.proj.": "stem.layers.",
    "block_fusion.proj_blocks.0.norm.": "fusion.norm.",
    "block_fusion.proj_blocks.2.": "fusion.linear.",
}
_HOLDERS = ("state_dict", "model", "embedding_model")
"""Keys under which files hold the model: MoCo, DeiT and H-CAST, VOC."""
_BESIDE = {
    "epoch": "the epoch of the training",
    "arch": "the keys define the model",
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
"""Entries beside the model in published files, and why they are not used."""
_MOCO = {"encoder": "base_encoder.", "momentum": "momentum_encoder.", "predictor": "predictor."}
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """The names and shapes of a published state dict.

    Args:
        variant: the published model's name.
        dim: token width D.
        depths: blocks per stage.
        rows: rows of the position table.
        heads: shapes of the heads' tensors, by published name; a head may be any or none.
    """

    variant: Variant
    dim: int
    depths: tuple[int, ...]
    rows: int
    heads: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @cached_property
    def learned(self) -> bool:
        """True where the position table is trained."""
        return self.variant in LEARNED

    @cached_property
    def side(self) -> int:
        """Rows of the square grid that the position table is for.

        Raises:
            DataError: if the table is for no square.
        """
        cells = self.rows - self.learned
        side = isqrt(max(cells, 0))
        if not cells or side * side != cells:
            slot = ", after one for the class token" if self.learned else ""
            raise DataError(f"pos_embed of a {self.variant} has {self.rows} rows; expected a square{slot}")
        return side

    @cached_property
    def shapes(self) -> Shapes:
        """Plain published names and shapes."""
        dim, shapes = self.dim, Shapes()
        shapes["cls_token"] = (1, 1, dim)
        shapes["pos_embed"] = (1, self.rows, dim)
        if not self.learned:
            shapes["pe_token"] = (1, 1, dim)
        shapes |= _stem(dim)
        for g in range(sum(self.depths)):
            shapes |= _modules(f"blocks.{g}.", _BLOCK, dim)
        for p in range(1, len(self.depths) + 1):
            pool = f"pool{p}.pool_block."
            shapes |= {f"{pool}centroid_fc.bias": (dim,)} | _modules(pool, _POOL, dim)
        if self.variant != "cast_seg":
            shapes |= _modules("", {"norm": (1,)}, dim)
        if self.variant in FUSED:
            wide = len(self.depths)
            shapes |= _norm("block_fusion.proj_blocks.0.norm.", dim * wide)
            shapes |= _modules("block_fusion.proj_blocks.", {"2": (1, wide)}, dim)
        return shapes | dict(self.heads)

    @cached_property
    def encoder_names(self) -> dict[str, str]:
        """Plain published name -> the name in castssl's encoder, of each tensor that is part of it."""
        names = {name: self._encoder_name(name) for name in self.shapes}
        return {name: new for name, new in names.items() if new}

    def _encoder_name(self, name: str) -> str:
        if name == "pe_token" or name.startswith(("head.", *COARSER)):
            return ""
        if name.startswith("norm."):
            return "" if self.variant in FUSED else name
        if name == "pos_embed":
            return "positions"
        if match := BLOCK.fullmatch(name):
            stage, local = self._stage(int(match[2]))
            return f"stages.{stage}.blocks.{local}.{match[3]}"
        if match := re.fullmatch(r"pool(\d+)\.pool_block\.(?:centroid_fc\.)?(.+)", name):
            return f"poolings.{int(match[1]) - 1}.{match[2]}"
        for old, new in _RENAMED.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    def _stage(self, block: int) -> tuple[int, int]:
        """The stage of a block, from 0, and its index there."""
        stage = next(s for s in range(len(self.depths)) if block < sum(self.depths[: s + 1]))
        return stage, block - sum(self.depths[:stage])

    def spellings(self, name: str) -> tuple[str, ...]:
        """The names that the released code writes for a plain one."""
        if not (match := BLOCK.fullmatch(name)):
            return (name,)
        stage, local = self._stage(int(match[2]))
        if self.variant == "cast_seg":
            return (f"blocks{stage + 1}.{local}.{match[3]}",)
        return (name, f"blocks{stage + 1}.{match[2]}.{match[3]}")


@dataclass
class Published:
    """A checkpoint taken apart.

    Attributes:
        layout: variant and shapes.
        state: the model, by plain published names.
        predictor: MoCo's predictor, names after ``predictor.``; empty in other files.
        momentum: the momentum encoder of a MoCo checkpoint, by plain names; empty in other files.
        dense: the file is of the VOC fine-tuning, whose tokens have the label map's resolution.
        report: what became of the tensors.
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
        DataError: naming each key that is missing, belongs nowhere, has another shape than the layout,
            differs from its second copy, or is not finite.
    """
    report = Report()
    parts, dense = _parts(_model(content, ema, report), report)
    state, predictor = parts["encoder"], parts["predictor"]
    if "cls_token" not in state or "patch_embed.proj.0.weight" not in state:
        near = ", ".join(sorted(state)[:4]) or "no tensors at all"
        if any(OWN.match(key) for key in state):
            raise DataError(
                f"this is the state dict of a model of castssl ({near}, ...), which does not say how to build"
                " it: load it with castssl.create(NAME, ...).load_state_dict(...), or save the encoder with"
                " castssl.checkpoints.hub.save_pretrained, which writes a config.json beside the weights"
            )
        raise DataError(f"this is not a CAST checkpoint: expected keys cls_token, patch_embed.*; got {near}")
    depths = stage_depths(state)
    plain = merge_spellings(state, depths, report)
    table, variant = plain.get("pos_embed"), find_variant(plain)
    rows = 0 if table is None or table.ndim != 3 else table.shape[1]
    layout = Layout(variant, plain["cls_token"].shape[-1], depths, rows, tuple(head_shapes(plain)))
    check(plain, layout.shapes, variant, layout.spellings)
    _ = layout.side  # raises
    if layout.dim % 24:
        raise DataError(
            f"cls_token has width {layout.dim}; published models have 12 heads and a stem in eighths of the"
            " width: expected a multiple of 24"
        )
    momentum: State = {}
    if parts["momentum"]:
        momentum = merge_spellings(parts["momentum"], stage_depths(parts["momentum"]), Report())
        check(momentum, layout.shapes, f"{variant}, the momentum encoder")
    if predictor:
        hidden = predictor["0.weight"].shape[0] if "0.weight" in predictor else 0
        out = layout.shapes.get("head.6.weight", (0,))[0]
        check(predictor, mlp("", out, hidden, out), "predictor")
    report.variant = variant
    report.used = [*state, *(f"predictor.{name}" for name in predictor)]
    report.renamed = {name: layout.encoder_names[name] for name in plain if name in layout.encoder_names}
    return Published(layout, plain, predictor, momentum, dense, report)


def _model(content: Mapping[str, Any], ema: bool, report: Report) -> State:
    """The state dict within a checkpoint; the entries beside it are reported."""
    holders = ("model_ema",) if ema else _HOLDERS
    holder = next((key for key in holders if isinstance(content.get(key), Mapping)), "")
    if ema and not holder:
        raise DataError(f"no model_ema in this checkpoint; it has {', '.join(map(str, content))[:200]}")
    for key in content if holder else ():
        if key == "model_ema" != holder or (ema and key == "model"):
            report.ignored[key] = f"not asked for; ema={not ema} takes it"
        elif key in _BESIDE:
            report.ignored[key] = _BESIDE[key]
        elif key != holder:
            raise DataError(f"{key!r} lies beside {holder!r} in this checkpoint; expected {sorted(_BESIDE)}")
    return _tensors(content[holder] if holder else content, holder or "the checkpoint")


def _tensors(content: Mapping[str, Any], where: str) -> State:
    """Names without ``module.``; everything has to be a tensor."""
    if strange := [str(key) for key, value in content.items() if not isinstance(value, Tensor)]:
        raise DataError(f"{where} holds {strange[:_SHOWN]}, which are not tensors; expected a state dict")
    state = {key.removeprefix("module."): value for key, value in content.items()}
    if len(state) < len(content):
        twice = [key for key in state if f"module.{key}" in content and key in content]
        raise DataError(f"{where} has {twice[:_SHOWN]} with and without 'module.'; keep one of each")
    return state


def _parts(state: State, report: Report) -> tuple[dict[str, State], bool]:
    """Encoder, momentum encoder and predictor without their prefixes; whether the file is VOC's."""
    groups: dict[str, str] = {"encoder": ""}
    dense = any(key.startswith("vit_backbone.") for key in state)
    if moco := any(key.startswith(("base_encoder.", "momentum_encoder.")) for key in state):
        groups = _MOCO
    elif dense:
        groups = {"encoder": "vit_backbone."}
    elif any(key.startswith("encoder.") for key in state):
        groups = {"encoder": "encoder.", "decoder": "decoder."}
    parts: dict[str, State] = {"encoder": {}, "momentum": {}, "predictor": {}, "decoder": {}}
    strange = []
    for key, value in state.items():
        if name := next((name for name, prefix in groups.items() if key.startswith(prefix)), ""):
            parts[name][key.removeprefix(groups[name])] = value
        elif moco and key in {"queue", "queue_ptr"}:
            report.ignored[key] = "MoCo v3 has no queue"
        else:
            strange.append(key)
    if strange:
        raise DataError(f"left over {strange[:_SHOWN]}: the other keys are {sorted(groups.values())}")
    if parts["decoder"]:
        report.ignored["decoder.*"] = f"{len(parts['decoder'])} tensors of the segmentation decoder"
    return parts, dense and not moco


def find_variant(state: Mapping[str, Tensor]) -> Variant:
    """The published variant: H-CAST has a second head, segmentation a fusion, MoCo ``pe_token``."""
    if any(key.startswith(COARSER) for key in state):
        return "cast_deit_hier"
    if any(key.startswith("block_fusion.") for key in state):
        return "cast_seg" if "pe_token" in state else "cast_seg_deit"
    return "cast" if "pe_token" in state else "cast_deit"


def stage_depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks per stage, counted from the keys; a bare ``blocks.{g}`` layout is one of two known depths.

    Raises:
        DataError: if only ``blocks.{g}`` is there and its count is neither 11 nor 15, or a stage is missing.
    """
    members: dict[int, set[int]] = {}
    for match in filter(None, map(BLOCK.fullmatch, state)):
        members.setdefault(int(match[1] or 0), set()).add(int(match[2]))
    if staged := sorted(stage for stage in members if stage):
        if gaps := set(range(1, staged[-1] + 1)) - set(staged):
            raise DataError(f"no blocks{min(gaps)}.* in this checkpoint, but blocks{staged[-1]}.*")
        return tuple(len(members[stage]) for stage in staged)
    published = {11: (3, 3, 3, 2), 15: (6, 3, 3, 3)}
    if (count := len(members.get(0, ()))) not in published:
        raise DataError(f"{count} blocks without stage numbers; expected 11 (S, B) or 15 (deep)")
    return published[count]


def merge_spellings(state: Mapping[str, Tensor], depths: tuple[int, ...], report: Report) -> State:
    """Every block once, under ``blocks.{g}``; ``depths`` are the blocks per stage.

    Raises:
        DataError: if two spellings of the same tensor differ, or one of them is incomplete.
    """
    blocks = {f"{match[1]}.{match[2]}" for match in filter(None, map(BLOCK.fullmatch, state))}
    numbers: dict[str, int] = {}  # "2.0", of blocks2.0: its global index
    for stage, depth in enumerate(depths, start=1):
        start = sum(depths[: stage - 1])
        first = 0 if f"{stage}.0" in blocks else start
        numbers |= {f"{stage}.{first + i}": start + i for i in range(depth)}
    plain: State = {}
    keys: dict[str, list[str]] = {}
    for key, value in state.items():
        match = BLOCK.fullmatch(key)
        number = numbers.get(f"{match[1]}.{match[2]}") if match else None
        # A block of no stage keeps its name, under which it is refused.
        name = f"blocks.{number}.{match[3]}" if match and number is not None else key
        if name in plain:
            if not torch.equal(plain[name], value):
                raise DataError(
                    f"{key} differs from its other spelling in the same file; expected equal tensors"
                )
            report.merged[key] = keys[name][0]
        keys.setdefault(name, []).append(key)
        plain[name] = value
    spelled = [both for name, both in sorted(keys.items()) if name.startswith("blocks")]
    single = [both[0] for both in spelled if len(both) == 1]
    if single and len({key.startswith("blocks.") for both in spelled for key in both}) == 2:
        raise DataError(f"{single[:_SHOWN]}: the second copy that other blocks have is missing")
    return plain


def head_shapes(state: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The shapes that the heads in ``state`` must have, by their first tensors.

    A ``head`` is a classifier, MoCo's projector of three layers, or absent.
    """
    dim = state["cls_token"].shape[-1]
    for name in LEVELS:
        if not any(key.startswith(f"{name}.") for key in state):
            continue
        first, last = state.get(f"{name}.0.weight"), state.get(f"{name}.6.weight")
        if name == "head" and (first is not None or last is not None):
            hidden = 0 if first is None else first.shape[0]
            yield from mlp("head.", dim, hidden, hidden, 0 if last is None else last.shape[0]).items()
            continue
        weight = state.get(f"{name}.weight", state.get(f"{name}.bias"))
        classes = 0 if weight is None else weight.shape[0]
        yield f"{name}.weight", (classes, dim)
        yield f"{name}.bias", (classes,)


def mlp(prefix: str, *widths: int) -> Shapes:
    """MoCo's projector and predictor: linear layers, a batch norm after each; the last is not affine."""
    shapes = Shapes()
    for i, (into, out) in enumerate(pairwise(widths)):
        shapes[f"{prefix}{3 * i}.weight"] = (out, into)
        shapes |= _norm(f"{prefix}{3 * i + 1}.", out, affine=i < len(widths) - 2)
    return shapes


def _norm(prefix: str, width: int, *, affine: bool = True) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")[0 if affine else 2 :]
    return {f"{prefix}{name}": (width,) for name in names} | {f"{prefix}num_batches_tracked": ()}


def _stem(dim: int) -> Shapes:
    name, shapes, width = "patch_embed.proj.", Shapes(), 3
    for index, wider in zip((0, 3, 6, 9), (dim // 8, dim // 4, dim // 2, dim), strict=True):
        shapes |= {f"{name}{index}.weight": (wider, width, 3, 3)} | _norm(f"{name}{index + 1}.", wider)
        width = wider
    return shapes | {f"{name}12.weight": (dim, dim, 1, 1), f"{name}12.bias": (dim,)}


def _modules(prefix: str, modules: Shapes, dim: int) -> Shapes:
    """Weight and bias of linear layers and layer norms, whose weights have ``modules``' shapes times D."""
    shapes = Shapes()
    for name, multiples in modules.items():
        shapes[f"{prefix}{name}.weight"] = tuple(dim * multiple for multiple in multiples)
        shapes[f"{prefix}{name}.bias"] = (dim * multiples[0],)
    return shapes


def check(
    state: Mapping[str, Tensor],
    shapes: Shapes,
    what: str,
    spellings: Callable[[str], tuple[str, ...]] = lambda name: (name,),
) -> None:
    """Compare a state dict with names and shapes; ``spellings`` gives the names that files use.

    Raises:
        DataError: naming the first few keys that are missing, left over, of another shape, or not finite.
    """
    missing = [" = ".join(spellings(key)) for key in shapes if key not in state]
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
