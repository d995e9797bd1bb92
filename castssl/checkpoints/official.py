"""The published layout: every key of a published checkpoint is accounted for, and nothing is lost on the way.

castssl's encoder has one class token; published models add it to a second tensor (``pe_token``, or the first
row of the position table).  A :class:`~castssl.checkpoints.checkpoint.Checkpoint` keeps both in ``extra``
under ``published.*``, with the parts that castssl has no module for, so that the published keys and bits come
back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from castssl.checkpoints.checkpoint import MOMENTUM, Checkpoint, State
from castssl.checkpoints.official_layout import (
    FUSED,
    LEARNED,
    LEVELS,
    Layout,
    Published,
    Variant,
    check,
    head_shapes,
    take_apart,
)
from castssl.checkpoints.report import Report
from castssl.encoder_config import EncoderConfig
from castssl.errors import DataError
from castssl.models.channels import is_rgb
from castssl.models.presets import PRESETS
from castssl.registry import load, parse, values

HEADS = 12
"""Attention heads of every published model, whatever its width."""
STRIDE = 8
"""Pixels per stem cell side of every published CAST."""
POOLING = f"graph:heads={HEADS},padding=reference,exact=true,cls=mlp,kappa=5.0,average=hidden"
_FIXED = {"centroids": "farthest", "cls": "mlp", "kappa": 5.0, "average": "hidden"}
"""What the released code has no option for in its poolings."""
SEEDS: Mapping[str, str] = {
    "cast": "seeds",
    "cast_seg": "seeds",
    "cast_deit": "seeds:bins=5,iterations=15,mode=deit",
    "cast_deit_hier": "seeds:bins=5,iterations=15,mode=deit",
    "cast_seg_deit": "seeds:count=1024,bins=5,iterations=15,mode=segmenter",
}
"""The superpixels that each variant was trained with; H-CAST on BREEDS had ``count=256``."""
SEEDS_OF_VOC = "seeds:count=1024,bins=5,iterations=15"
Stage = Literal["pretrain", "segmentation"]
CLUSTERS: Mapping[Stage, tuple[int, ...]] = {
    "pretrain": (196, 64, 32, 16, 8),
    "segmentation": (1024, 320, 160, 80, 40),
}
"""Token budgets per stage, which no checkpoint holds."""
KEPT = "published."
"""Before the names, in ``Checkpoint.extra``, of published tensors that no module of castssl holds."""
_SPARE = ("norm.weight", "norm.bias")
_SHOWN = 5


def decode(content: Mapping[str, Any], *, ema: bool = False, source: str = "this checkpoint") -> Checkpoint:
    """What a published checkpoint holds, by our names; its encoder works as the released code does.

    Args:
        content: see :func:`take_apart`.
        ema: likewise.
        source: for messages.

    Raises:
        DataError: as :func:`take_apart`.
    """
    published = take_apart(content, ema=ema)
    layout, state, report = published.layout, published.state, published.report
    extra = _left_over(layout, state, KEPT)
    heads, objective = _classifiers(layout, state)
    if "head.0.weight" in state:
        extra |= _layers("projector.", state, "head.")
    extra |= {f"predictor.layers.{name}": value for name, value in published.predictor.items()}
    if momentum := published.momentum:
        extra |= {f"{MOMENTUM}encoder.{n}": value for n, value in encoder_state(layout, momentum).items()}
        extra |= _layers(f"{MOMENTUM}projector.", momentum, "head.")
        extra |= _left_over(layout, momentum, MOMENTUM + KEPT)
    added = "the position table's first row" if layout.learned else "pe_token (of zeros in the released code)"
    report.changed["cls_token"] = f"{added} is added to it"
    if beside := sorted({name.partition(".")[0] for name in extra}):
        report.notes.append(f"beside the encoder: {', '.join(f'{name}.*' for name in beside)}")
    dense = published.dense or layout.variant == "cast_seg_deit"
    return Checkpoint(
        config_of(layout, "segmentation" if dense else "pretrain"),
        encoder_state(layout, state),
        heads,
        extra,
        objective,
        variant=layout.variant,
        source=source,
        report=report,
    )


def _layers(prefix: str, state: State, published: str) -> State:
    """The tensors of a head of several layers, by castssl's names."""
    tensors = {n.removeprefix(published): v for n, v in state.items() if n.startswith(published)}
    return {f"{prefix}layers.{name}": value for name, value in tensors.items()}


def _classifiers(layout: Layout, state: State) -> tuple[State, str]:
    """The classifiers by the names of our objective: DeiT, or tree-KL for several levels."""
    present = [name for name in reversed(LEVELS) if f"{name}.weight" in state]
    if layout.variant == "cast_seg_deit" or not present:  # The released Segmenter never calls its head.
        return {}, ""
    parts = ("weight", "bias")
    if len(present) == 1:
        return {f"head.{part}": state[f"head.{part}"] for part in parts}, "deit"
    # castssl counts levels from the coarsest, the released code from the finest.
    levels = enumerate(present)
    return {f"level_heads.{i}.{p}": state[f"{name}.{p}"] for i, name in levels for p in parts}, "tree-kl"


def _left_over(layout: Layout, state: State, prefix: str) -> State:
    """Published tensors that no module of castssl holds unchanged."""
    kept = {"cls_token": state["cls_token"], "cls_position": _offset(layout, state)}
    names = ["pe_token", *_SPARE]
    if layout.variant == "cast_seg_deit":
        names += [name for name in state if name.startswith("head.")]
    kept |= {name: state[name] for name in names if name in state and name not in layout.encoder_names}
    return {prefix + name: value for name, value in kept.items()}


def encoder_state(layout: Layout, state: Mapping[str, Tensor]) -> State:
    """What our encoder's ``load_state_dict`` takes."""
    names = layout.encoder_names
    encoder = {names[name]: value for name, value in state.items() if name in names}
    table = encoder["positions"]
    encoder["cls_token"] = encoder["cls_token"] + _offset(layout, state)
    cells = table[:, 1:] if layout.learned else table
    encoder["positions"] = cells.transpose(1, 2).reshape(1, -1, layout.side, layout.side)
    return encoder


def _offset(layout: Layout, state: Mapping[str, Tensor]) -> Tensor:
    """What the published model adds to its class token."""
    return state["pos_embed"][:, :1] if layout.learned else state["pe_token"]


def config_of(layout: Layout, stage: Stage) -> EncoderConfig:
    """The config of a published model; its name is that of the preset of this shape, or the variant's."""
    dense = stage == "segmentation"
    config = EncoderConfig(
        layout.variant,
        depths=(*layout.depths, 0),
        dim=layout.dim,
        fused=layout.variant in FUSED,
        dense=dense,
        sizes=CLUSTERS[stage],
        heads=HEADS,
        stride=STRIDE,
        pooling=POOLING,
        superpixels=seeds_of(layout.variant, dense=dense),
        image_size=layout.side * STRIDE,
        padding="reference",
        positions="learned" if layout.learned else "sincos",
    )
    return named(config)


def named(config: EncoderConfig) -> EncoderConfig:
    """The config by the name of the preset of its shape, whatever sizes and superpixels; else by its own."""

    def shape(of: EncoderConfig) -> tuple[object, ...]:
        return of.depths, of.dim, of.heads, of.stride, of.fused, of.dense

    names = (name for name, preset in PRESETS.items() if shape(preset) == shape(config))
    return replace(config, name=next(names, config.name))


def seeds_of(variant: str, *, dense: bool) -> str:
    """The superpixels that a published variant was trained with in a stage."""
    return SEEDS_OF_VOC if dense and variant == "cast_seg" else SEEDS[variant]


def clusters(stage: Stage, sizes: Sequence[int] | None) -> tuple[int, ...]:
    """Token budgets per stage: the published ones, or the caller's, whose first may be left out."""
    first, *rest = CLUSTERS[stage]
    if sizes is None:
        return (first, *rest)
    return (max(first, sizes[0]), *sizes) if len(sizes) == len(rest) else tuple(sizes)


def encode(checkpoint: Checkpoint) -> Published:
    """The published tensors of a checkpoint, whether it was published or pretrained in castssl.

    Raises:
        DataError: if the released code could not run such a model.
    """
    config, encoder = checkpoint.config, checkpoint.encoder
    variant = _variant(checkpoint)
    _refuse_strangers(checkpoint, variant)
    heads = published_heads(checkpoint) | _head_of_layers(checkpoint.under("projector.layers."))
    kept = checkpoint.under(KEPT)
    heads |= {name: value for name, value in kept.items() if name.startswith("head.")}
    cells = encoder["positions"].shape[-1] ** 2
    layout = Layout(
        variant,
        config.dim,
        config.depths[:-1],
        cells + (variant in LEARNED),
        tuple(head_shapes({"cls_token": encoder["cls_token"], **heads})),
    )
    state = _published_state(layout, encoder, kept) | heads
    check(state, layout.shapes, variant, layout.spellings)
    names = layout.encoder_names
    report = Report(variant=variant, used=list(encoder), renamed={names.get(n, n): n for n in state})
    report.notes += _differences(checkpoint, variant)
    momentum: State = {}
    if tensors := checkpoint.under(f"{MOMENTUM}encoder."):
        momentum = _published_state(layout, tensors, checkpoint.under(MOMENTUM + KEPT))
        momentum |= _head_of_layers(checkpoint.under(f"{MOMENTUM}projector.layers."))
        check(momentum, layout.shapes, f"{variant}, the momentum encoder", layout.spellings)
    predictor = checkpoint.under("predictor.layers.")
    return Published(layout, state, predictor, momentum, config.dense and variant == "cast_seg", report)


def _head_of_layers(layers: State) -> State:
    return {f"head.{name}": value for name, value in layers.items()}


def _published_state(layout: Layout, encoder: State, kept: State) -> State:
    state = {name: encoder[new] for name, new in layout.encoder_names.items() if new in encoder}
    if strange := encoder.keys() - set(layout.encoder_names.values()):
        raise DataError(f"the published {layout.variant} has no place for {sorted(strange)[:_SHOWN]}")
    cls = state["cls_token"]
    offset = kept.get("cls_position", torch.zeros_like(cls))
    before = kept.get("cls_token", cls)
    # Exact where the encoder was not trained on since; a difference would lose the last bit.
    state["cls_token"] = before if torch.equal(before + offset, cls) else cls - offset
    table = state["pos_embed"].flatten(2).transpose(1, 2).contiguous()
    if layout.learned:
        state["pos_embed"] = torch.cat([offset, table], 1)
    else:
        state["pos_embed"], state["pe_token"] = table, kept.get("pe_token", offset)
    for name in _SPARE:  # unused, but the released segmentation code asks for it
        if name in layout.shapes and name not in state:
            fresh = torch.ones_like if name.endswith("weight") else torch.zeros_like
            state[name] = kept.get(name, fresh(cls[0, 0]))
    return state


def published_heads(checkpoint: Checkpoint) -> State:
    """The classifiers by their published names; the finest level's is ``head``.

    H-CAST's coarsest level reads the last stage, the next the one before.

    Raises:
        DataError: with each reason why the published layout has no place for them.
    """
    heads, options = checkpoint.heads, checkpoint.options
    if not heads or checkpoint.objective == "deit":
        return dict(heads)
    if checkpoint.objective != "tree-kl":
        raise DataError(
            f"the published layout has no place for the classifiers of {checkpoint.objective}; it knows one"
            " (deit), or one per level (tree-kl)"
        )
    levels = sum(name.endswith(".weight") and name.startswith("level_heads.") for name in heads)
    usual = [-1 - level for level in range(levels)]
    stages, order = options.get("stages"), options.get("order", "coarse-last")
    wrong = [] if levels <= len(LEVELS) else [f"{levels} label levels, at most {len(LEVELS)} have a head"]
    if list(stages) != usual if stages else levels > 1 and order != "coarse-last":
        read = f"stages={list(stages)}" if stages else f"order={order}"
        wrong.append(
            f"{read}, expected that the coarsest level reads the last stage, the next the one before"
        )
    if levels > 1 and options.get("norm", "last") != "last":
        wrong.append(f"norm={options['norm']}, expected last: the last stage alone has a norm")
    if wrong:
        raise DataError(f"the released H-CAST has no place for these classifiers: {'; '.join(wrong)}")
    return {
        f"{LEVELS[levels - 1 - level]}.{part}": heads[f"level_heads.{level}.{part}"]
        for level in range(levels)
        for part in ("weight", "bias")
        if f"level_heads.{level}.{part}" in heads
    }


def _variant(checkpoint: Checkpoint) -> Variant:
    config = checkpoint.config
    if checkpoint.variant:
        named: Variant = checkpoint.variant  # type: ignore[assignment]
        return named
    if checkpoint.objective == "tree-kl" and "level_heads.1.weight" in checkpoint.heads:
        return "cast_deit_hier"
    learned = config.positions == "learned"
    if config.fused:
        return "cast_seg_deit" if learned else "cast_seg"
    return "cast_deit" if learned else "cast"


def _refuse_strangers(checkpoint: Checkpoint, variant: Variant) -> None:
    """Refuse a model that the released code could not build."""
    config = checkpoint.config
    if "stem.layers.0.weight" not in checkpoint.encoder:
        raise DataError(f"{config.name} is not a CAST; the published layout has no place for it")
    pooling = parse(config.pooling or "graph")
    heads = str(pooling.options.get("heads", HEADS))
    wrong = []
    if (len(config.depths), config.depths[-1]) != (5, 0):
        wrong.append(f"depths {config.depths}, expected four stages and one without blocks")
    if (config.heads, heads) != (HEADS, str(HEADS)):
        wrong.append(f"{config.heads} heads and {heads} in poolings, expected {HEADS}")
    if not is_rgb(config):
        wrong.append("channels, mean or std of its own, expected RGB with ImageNet's")
    if config.stride != STRIDE:
        wrong.append(f"stride {config.stride}, expected {STRIDE}")
    if config.fused and variant not in FUSED:
        wrong.append("a fusion, which H-CAST has none of")
    options = values(load("pooling", "graph"), pooling) if pooling.name == "graph" else {"centroids": None}
    if any(options.get(name, value) != value for name, value in _FIXED.items()):
        fixed = ", ".join(f"{name}={value}" for name, value in _FIXED.items())
        wrong.append(f"pooling {config.pooling}, expected graph with {fixed}")
    if wrong:
        raise DataError(f"the released code cannot run {config.name}: {'; '.join(wrong)}")


def _differences(checkpoint: Checkpoint, variant: Variant) -> list[str]:
    """How the released code would run the model otherwise than it was trained."""
    config, notes = checkpoint.config, []
    if config.padding == "mask":
        notes.append("trained with padding='mask'; the released code lets empty tokens take part")
    if config.membership != "nearest":
        notes.append("trained with membership='area'; the released code samples labels at the stem's grid")
    theirs = seeds_of(variant, dense=config.dense)
    if config.superpixels != theirs:
        notes.append(f"trained with superpixels {config.superpixels}; the released code has {theirs}")
    if checkpoint.labels:
        notes.append("the published layout has no place for the names of the classes")
    if variant in LEARNED and config.positions != "learned":
        notes.append("the position table was fixed; the released H-CAST would train it")
    if variant in FUSED and not checkpoint.variant:
        notes.append("the clusters are an argument of the released code, not of the file")
    return notes
