"""Training begins from weights: an encoder takes over what a checkpoint, published or ours, has of it.

DeiT, https://arxiv.org/abs/2012.12877, section 5 (fine-tuning, and positions at another resolution); H-CAST
starts from CAST-S that was trained as DeiT on CUB, Aircraft and iNaturalist.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import ConfigError, DataError
from castssl.models.cast import CAST
from castssl.models.create import PRESETS, preset
from castssl.objectives.deit import DeiT
from castssl.objectives.supervised import Supervised
from castssl.objectives.tree_kl import TreeKL
from castssl.tokens.positions import resize
from castssl.transfer.encoders import BESIDE, RECOGNISER, read_encoder
from castssl.transfer.heads import LEVELS
from castssl.transfer.layout import State
from castssl.transfer.official import settings_of
from castssl.transfer.ours import encoder_state, open_published
from castssl.transfer.recogniser import find, take_heads
from castssl.transfer.report import Report
from castssl.transfer.source import is_ours
from castssl.types import LabelTree

SHAPE = ("name", "pooling", "sizes", "image_size", "membership", "padding", "positions", "superpixels")
"""What :func:`shape_of_source` tells."""
_MAY_DIFFER = ("norm.", "fusion.", "poolings.")
"""Parts that one model has and another lacks: what only COCO's variant has, and poolings of another kind."""
_COMPARED = {"pooling": "graph", "membership": "nearest", "padding": "mask", "positions": "sincos"}
"""Settings that change what weights do, and what they are where a file does not say."""
_SHOWN = 4


class _Weights(NamedTuple):
    """What a source holds, under our names."""

    encoder: State
    heads: State
    settings: Mapping[str, Any]
    report: Report


def shape_of_source(source: str | Path) -> dict[str, Any]:
    """What to give :func:`castssl.models.create.create` for an encoder that takes over these weights whole.

    Args:
        source: as :func:`load_start`.

    Returns:
        ``name``, options of ``create`` as far as the source tells them (positions, padding, sizes, pooling,
        image size, membership), and ``superpixels``, which is none of them but the backend's spec.

    Raises:
        DataError: if the source cannot be read.
        ConfigError: if the model has a shape that no name stands for.
    """
    settings = _open(source).settings
    name = settings.get("name", "")
    if "shape" in settings or not (name in PRESETS or name.startswith("timm:")):
        raise ConfigError(
            f"{source} holds a model of a shape without a name: {settings.get('shape')}; load it with"
            " castssl.transfer.source.open_trained, or give weights of one of: " + ", ".join(PRESETS)
        )
    found = {key: settings[key] for key in SHAPE if settings.get(key) is not None}
    found.setdefault("superpixels", preset(name).superpixels)
    if "sizes" in found:
        found["sizes"] = tuple(found["sizes"])
    return found


def load_start(
    target: Encoder | Supervised, source: str | Path, *, heads: bool = False, labels: LabelTree | None = None
) -> Report:
    """Let an encoder begin from weights; call it before the model is moved to a device or wrapped.

    Everything that the encoder has is taken over, or the weights are refused; only the last norm, a fusion,
    and poolings of another kind may be missing on either side.  Positions are resized, bicubic.

    Args:
        target: an encoder; or an objective, whose encoder it is then.  An objective that keeps an average of
            its weights has to be given whole, or the average would begin at random.
        source: the folder of a finished run (MoCo's, DeiT's, H-CAST's), its ``encoder.safetensors``, a
            published checkpoint (see :func:`castssl.transfer.official.load_official`), or ``hf:USER/NAME``.
        heads: take over the classifiers, too.
        labels: the label tree of ``target``, to be compared with that of the classifiers.

    Returns:
        What was used, resized and ignored, and what begins afresh; print it.

    Raises:
        DataError: if the source cannot be read, holds another model, or, with ``heads``, other classes.
        ConfigError: if ``heads`` are asked for an encoder alone.
    """
    objective = target if isinstance(target, Supervised) else None
    if heads and objective is None:
        raise ConfigError("heads=True needs the objective that has the classifiers, got an encoder alone")
    weights = _open(source)
    encoder = cast(nn.Module, objective.encoder if objective else target)
    taken = _taken(encoder, weights, str(source))
    for each in objective.encoders() if objective else [encoder]:
        each.load_state_dict(taken, strict=False)
    if objective is None:
        return weights.report
    if heads:
        _same_classes(weights, labels, str(source))
        take_heads(objective, _named_for(objective, weights.heads))
        weights.report.notes.append(f"the classifiers of {objective.classes} classes are taken over")
    elif weights.heads:
        weights.report.ignored["the classifiers"] = "heads=True takes them over"
    objective.restart_average()
    return weights.report


def _open(source: str | Path) -> _Weights:
    if isinstance(source, str) and source.startswith("hf:"):
        shared = CAST.from_pretrained(source.removeprefix("hf:"))
        state = dict(shared.state_dict())
        return _Weights(state, {}, shared.settings or {}, Report(used=list(state)))
    path = find(source)
    if is_ours(path):
        tensors, settings = read_encoder(path)
        own = {name: value for name, value in tensors.items() if not name.startswith(BESIDE)}
        beside = {name.removeprefix(BESIDE): v for name, v in tensors.items() if name.startswith(BESIDE)}
        return _Weights(own, beside, settings, Report(settings["name"], list(own)))
    published = open_published(path)
    heads = {name: v for name, v in published.state.items() if name.partition(".")[0] in LEVELS}
    state = encoder_state(published.layout, published.state)
    published.report.changed["cls_token"] = "what the released code adds to it is part of it now"
    return _Weights(state, heads, settings_of(published.layout), published.report)


def _taken(encoder: nn.Module, weights: _Weights, source: str) -> State:
    """The tensors to load, once it is clear that they are this model's."""
    own, found, report = encoder.state_dict(), dict(weights.encoder), weights.report
    if "positions" in own and "positions" in found:
        found["positions"] = _table(own["positions"], found["positions"], report)
    lacking = {name for name in own if name not in found}
    spare = {name for name in found if name not in own}
    for name in own.keys() & found.keys():
        if own[name].shape != found[name].shape and name.startswith(_MAY_DIFFER):
            lacking.add(name)
            spare.add(name)
    needed = sorted(name for name in lacking | spare if not name.startswith(_MAY_DIFFER))
    wrong = sorted(n for n in own.keys() & found.keys() if own[n].shape != found[n].shape and n not in spare)
    theirs, mine = weights.settings, getattr(encoder, "settings", None) or {}
    if needed or wrong:
        names = (theirs.get("name", "model without a name"), mine.get("name", "model built by hand"))
        raise DataError(f"{source} holds a {_refusal(names, needed + wrong, own, found)}")
    if lacking:
        report.notes.append(f"not in the weights, begin afresh: {_groups(lacking)}")
    if spare:
        report.ignored[_groups(spare)] = "the model has no such parts"
    if theirs.get("name") != mine.get("name"):
        report.notes.append(f"weights of a {theirs.get('name')} in a {mine.get('name')}")
    _compare(theirs, mine, report)
    return {name: value for name, value in found.items() if name not in spare}


def _table(own: Tensor, found: Tensor, report: Report) -> Tensor:
    height, width = own.shape[-2:]
    if found.shape[-2:] != (height, width):
        before = " x ".join(map(str, found.shape[-2:]))
        report.changed["positions"] = f"grid {before} -> {height} x {width}, bicubic"
    with torch.no_grad():
        return resize(found, height, width)


def _compare(theirs: Mapping[str, Any], mine: Mapping[str, Any], report: Report) -> None:
    """Say which settings the weights were trained with that the model has otherwise."""
    for key, usual in _COMPARED.items():
        had, has = (held.get(key) or usual for held in (theirs, mine))
        if had != has and not str(mine.get("name")).startswith("timm:"):
            report.notes.append(f"{key}: the weights had {had}, the model has {has}")


def _refusal(
    names: tuple[str, str], differ: list[str], own: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> str:
    """In words how the weights' tensors differ from the model's."""
    theirs, mine = names
    parts = [f"{theirs}, which cannot start a {mine}"]
    if missing := [name for name in differ if name not in found]:
        parts.append(f"it lacks {missing[:_SHOWN]} ({len(missing)})")
    if left := [name for name in differ if name not in own]:
        parts.append(f"it has {left[:_SHOWN]} ({len(left)}), which the model has not")
    if wrong := [name for name in differ if name in own and name in found]:
        shapes = f"{tuple(found[wrong[0]].shape)}, expected {tuple(own[wrong[0]].shape)}"
        parts.append(f"{wrong[0]} has shape {shapes} ({len(wrong)} tensors differ)")
    if theirs in PRESETS or theirs.startswith("timm:"):
        parts.append(f"build the model that the weights are of: --model {theirs}")
    return "; ".join(parts)


def _groups(names: set[str]) -> str:
    """``poolings.0.*, norm.*`` for many tensors."""
    cut = {".".join(name.split(".")[: 2 if name.startswith("poolings.") else 1]) for name in names}
    return ", ".join(f"{name}.*" for name in sorted(cut))


def _named_for(objective: Supervised, heads: State) -> State:
    """The classifiers' tensors by the objective's own names; published ones are fine to coarse."""
    if not heads:
        raise DataError("these weights have no classifiers to take over; leave heads out")
    there = [name for name in reversed(LEVELS) if f"{name}.weight" in heads]
    if isinstance(objective, DeiT) or not there or len(heads) != 2 * len(there):
        return heads
    if not isinstance(objective, TreeKL):
        raise DataError(f"classifiers of a published model do not fit a {type(objective).__name__}")
    pairs = [(level, name, part) for level, name in enumerate(there) for part in ("weight", "bias")]
    return {f"level_heads.{level}.{part}": heads[f"{name}.{part}"] for level, name, part in pairs}


def _same_classes(weights: _Weights, labels: LabelTree | None, source: str) -> None:
    """Refuse classifiers whose classes have other names."""
    about = weights.settings.get(RECOGNISER)
    if labels is None or about is None:
        return
    saved = LabelTree.from_dict(about["labels"])
    if saved.names and labels.names and saved.names != labels.names:
        theirs, ours = (set(chain(*tree.names)) for tree in (saved, labels))
        strange = sorted(theirs ^ ours) or ["the same names in another order"]
        raise DataError(
            f"{source} has classifiers for other classes than this data: {strange[:_SHOWN]}; leave heads out"
            " to train new ones"
        )
