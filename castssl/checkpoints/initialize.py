"""Training begins from weights: an encoder or objective takes over what a checkpoint has of it.

DeiT, https://arxiv.org/abs/2012.12877, section 5 (fine-tuning, and positions at another resolution); H-CAST
starts from CAST-S that was trained as DeiT on CUB, Aircraft and iNaturalist.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from castssl.checkpoints.checkpoint import MOMENTUM, Checkpoint, State, Which, difference
from castssl.checkpoints.classifier import take_heads
from castssl.checkpoints.load import Source, read
from castssl.checkpoints.report import Report
from castssl.contracts import Encoder
from castssl.encoder_config import CHANNELS, EncoderConfig
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.models.presets import PRESETS
from castssl.objectives.classification import Supervised
from castssl.objectives.moco import MoCoV3
from castssl.tokens.positions import resize

_MAY_DIFFER = ("norm.", "fusion.", "poolings.")
"""Parts that one model has and another lacks: what only COCO's variant has, and poolings of another kind."""
_COMPARED = ("pooling", "membership", "padding", "positions", *CHANNELS)
"""Settings that change what weights do."""
STEM, RGB = "stem.layers.0.weight", 3
"""The stem's first convolution, and the channels of published weights."""
_SHOWN = 4


def initialize(
    target: Encoder | Supervised | MoCoV3,
    source: Source,
    *,
    which: Which = "base",
    heads: bool = False,
    labels: LabelTree | None = None,
) -> Report:
    """Let an encoder begin from weights; call it before the model is moved to a device or wrapped.

    Everything that the encoder has is taken over, or the weights are refused; only the last norm, a fusion,
    and poolings of another kind may be missing on either side.  Positions are resized, bicubic.

    Args:
        target: an encoder; or an objective, whose encoder it is then.  An objective that keeps an average of
            its weights has to be given whole, or the average would begin at random.  MoCo takes over
            projector, predictor and momentum encoder, too, where the source has them.
        source: as :func:`castssl.checkpoints.read`.
        which: likewise.
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
    checkpoint = read(source, which=which)
    report = checkpoint.report
    if isinstance(target, MoCoV3):
        _moco(target, checkpoint)
        return report
    encoder = target.model.encoder if isinstance(target, Supervised) else target
    taken = _taken(encoder, checkpoint, checkpoint.encoder)
    for module in objective.encoders() if objective else [encoder]:
        module.load_state_dict(taken, strict=False)
    if objective is None:
        return report
    if heads:
        if not checkpoint.heads:
            raise DataError(f"{checkpoint.source} has no classifiers to take over; leave heads out")
        _same_classes(checkpoint, labels)
        take_heads(objective, checkpoint.heads)
        report.notes.append(f"the classifiers of {objective.classes} classes are taken over")
    elif checkpoint.heads:
        report.ignored["the classifiers"] = "heads=True takes them over"
    objective.restart_average()
    return report


def _moco(objective: MoCoV3, checkpoint: Checkpoint) -> None:
    """Encoder, projector, predictor and momentum encoder; without a momentum encoder it is a copy again."""
    taken = _taken(objective.encoder, checkpoint, checkpoint.encoder)
    momentum = checkpoint.under(f"{MOMENTUM}encoder.")
    copied = _taken(objective.encoder, checkpoint, momentum) if momentum else taken
    projector, momentum_model = f"{MOMENTUM}projector", objective.momentum_model
    parts = {
        "projector": objective.model.projector,
        "predictor": objective.model.predictor,
        projector: momentum_model.projector,
    }
    weights = {name: tensors for name in parts if (tensors := checkpoint.under(f"{name}."))}
    for name, tensors in weights.items():
        if differ := difference(parts[name].state_dict(), tensors):
            what = f"the {name} in {checkpoint.source} has other widths: {differ}"
            raise DataError(f"{what}; give --hidden and --out-dim of the weights")
    # Nothing is loaded before all of it fits.
    objective.encoder.load_state_dict(taken, strict=False)
    momentum_model.encoder.load_state_dict(copied, strict=False)
    for name, part in parts.items():
        if name in weights:
            part.load_state_dict(weights[name])
        elif name == projector:
            part.load_state_dict(objective.model.projector.state_dict())
        else:
            checkpoint.report.notes.append(f"not in the weights, begins afresh: {name}.*")
    with_it = [f"{name}.*" for name in (*([f"{MOMENTUM}encoder"] if momentum else []), *weights)]
    if with_it:
        checkpoint.report.notes.append(f"taken over beside the encoder: {', '.join(with_it)}")
    if not momentum:
        checkpoint.report.notes.append("not in the weights, a copy of the encoder: the momentum encoder")


def _taken(encoder: Encoder, checkpoint: Checkpoint, tensors: State) -> State:
    """The tensors to load, once it is clear that they are this model's."""
    wanted, weights, report = encoder.state_dict(), dict(tensors), checkpoint.report
    theirs, mine = checkpoint.config, encoder.config
    notes = _differences(theirs, mine)
    if "positions" in wanted and "positions" in weights:
        weights["positions"] = _table(wanted["positions"], weights["positions"], report)
    if mine.channels != theirs.channels == RGB and STEM in weights:
        from timm.models._manipulate import adapt_input_conv  # It takes seconds.

        weights[STEM] = adapt_input_conv(mine.channels, weights[STEM])
        how = "summed" if mine.channels == 1 else "repeated and scaled"
        report.changed[STEM] = f"{RGB} channels -> {mine.channels}, {how}"
    lacking = {name for name in wanted if name not in weights}
    spare = {name for name in weights if name not in wanted}
    for name in wanted.keys() & weights.keys():
        if wanted[name].shape != weights[name].shape and name.startswith(_MAY_DIFFER):
            lacking.add(name)
            spare.add(name)
    needed = sorted(name for name in lacking | spare if not name.startswith(_MAY_DIFFER))
    wrong = sorted(
        n for n in wanted.keys() & weights.keys() if wanted[n].shape != weights[n].shape and n not in spare
    )
    if needed or wrong:
        refusal = _refusal((theirs.name, mine.name), needed + wrong, wanted, weights)
        raise DataError(f"{checkpoint.source} holds a {refusal}")
    if lacking:
        report.notes.append(f"not in the weights, begin afresh: {_groups(lacking)}")
    if spare:
        report.ignored[_groups(spare)] = "the model has no such parts"
    if theirs.name != mine.name:
        report.notes.append(f"weights of a {theirs.name} in a {mine.name}")
    report.notes += [note for note in notes if note not in report.notes]
    return {name: value for name, value in weights.items() if name not in spare}


def _table(wanted: Tensor, weights: Tensor, report: Report) -> Tensor:
    height, width = wanted.shape[-2:]
    if weights.shape[-2:] != (height, width):
        before = " x ".join(map(str, weights.shape[-2:]))
        report.changed["positions"] = f"grid {before} -> {height} x {width}, bicubic"
    with torch.no_grad():
        return resize(weights, height, width)


def _differences(theirs: EncoderConfig, mine: EncoderConfig) -> list[str]:
    """The settings in which the weights and the model differ, one note for each."""
    pairs = [(name, getattr(theirs, name), getattr(mine, name)) for name in _COMPARED]
    return [f"{name}: the weights had {had}, the model has {has}" for name, had, has in pairs if had != has]


def _refusal(
    names: tuple[str, str], differ: list[str], wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> str:
    """In words how the weights' tensors differ from the model's."""
    theirs, mine = names
    parts = [f"{theirs}, which cannot start a {mine}"]
    if missing := [name for name in differ if name not in weights]:
        parts.append(f"it lacks {missing[:_SHOWN]} ({len(missing)})")
    if left := [name for name in differ if name not in wanted]:
        parts.append(f"it has {left[:_SHOWN]} ({len(left)}), which the model has not")
    if wrong := [name for name in differ if name in wanted and name in weights]:
        shapes = f"{tuple(weights[wrong[0]].shape)}, expected {tuple(wanted[wrong[0]].shape)}"
        parts.append(f"{wrong[0]} has shape {shapes} ({len(wrong)} tensors differ)")
    if theirs in PRESETS or ":" in theirs:
        parts.append(f"build the model that the weights are of: --model {theirs}")
    return "; ".join(parts)


def _groups(names: set[str]) -> str:
    """``poolings.0.*, norm.*`` for many tensors."""
    groups = {".".join(name.split(".")[: 2 if name.startswith("poolings.") else 1]) for name in names}
    return ", ".join(f"{name}.*" for name in sorted(groups))


def _same_classes(checkpoint: Checkpoint, labels: LabelTree | None) -> None:
    """Refuse classifiers whose classes have other names."""
    saved = checkpoint.labels
    if saved is None or labels is None:
        return
    if saved.names and labels.names and saved.names != labels.names:
        theirs, present = (set(chain(*tree.names)) for tree in (saved, labels))
        strange = sorted(theirs ^ present) or ["the same names in another order"]
        raise DataError(
            f"{checkpoint.source} has classifiers for other classes than this data: {strange[:_SHOWN]}; leave"
            " heads out to train new ones"
        )
