"""Models of castssl that timm trained, in timm's layouts: checkpoints of ``train.py``, and ``save_for_hf``.

timm stores the tensors of a :class:`castssl.models.timm_registry.TimmCAST`, the name of the model and, in
``train.py``'s checkpoints, the command line.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from castssl.checkpoints.checkpoint import Checkpoint, State
from castssl.checkpoints.report import Report
from castssl.encoder_config import EncoderConfig, override
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.models.presets import PRESETS

ENCODER, HEAD = "encoder.", "head."
FIRST = re.compile(r"(module\.|_orig_mod\.)*encoder\.stem\.layers\.0\.weight")
"""The name of a tensor by which the layout is known."""
NEEDED = {"positions", "cls_token", "stem.layers.0.weight"}
"""Tensors of an encoder from which its settings are read."""
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
"""Before the names of a model under DistributedDataParallel or ``torch.compile``."""
OPTIONS = ("superpixels", "pooling", "membership", "padding", "positions")
LISTS = ("sizes", "mean", "std", "superpixel_channels")
"""Arguments of ``timm.create_model`` that describe the encoder; the second are of several numbers."""


def with_settings(tensors: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The content of ``save_for_hf``'s folder in the layout of ``train.py``.

    Args:
        tensors: of ``model.safetensors``.
        text: ``config.json``, or "".
    """
    try:
        settings = json.loads(text)
    except ValueError:
        settings = {}
    settings = settings if isinstance(settings, dict) else {}
    names = settings.get("label_names")
    names = names if isinstance(names, list) else None
    content = {"arch": settings.get("architecture", ""), "args": settings.get("model_args") or {}}
    return {**content, "state_dict": tensors, "label_names": names}


def decode(content: Mapping[str, Any], *, ema: bool = False, source: str = "this checkpoint") -> Checkpoint:
    """What a checkpoint of timm holds; its classifier is that of ``deit``.

    Args:
        content: a state dict, or what ``train.py`` saves: ``state_dict``, ``state_dict_ema``, ``arch`` and
            ``args``.
        ema: take ``state_dict_ema``.
        source: for messages.

    Raises:
        DataError: if there is no average, the tensors are of no CAST in timm's registry, or ``args`` have
            values of other types than these arguments of ``timm.create_model``.
    """
    if ema and "state_dict_ema" not in content:
        raise DataError(f"{source} holds no moving average beside the model; leave ema out")
    chosen = content["state_dict_ema"] if ema else content.get("state_dict", content)
    if not isinstance(chosen, Mapping):
        kind = type(chosen).__name__
        raise DataError(f"{source} holds a {kind} as state_dict_ema, expected tensors by name; leave ema out")
    state = _plain(chosen)
    encoder = {name.removeprefix(ENCODER): v for name, v in state.items() if name.startswith(ENCODER)}
    heads = {name: value for name, value in state.items() if name.startswith(HEAD)}
    names = content.get("label_names")
    labels = None
    bias = heads.get(f"{HEAD}bias")
    if bias is not None and isinstance(names, list | tuple) and len(names) == bias.numel():
        labels = LabelTree.flat([str(name) for name in names])
    config = _config(encoder, content, source)
    report = Report(f"{config.name}, trained by timm", list(encoder))
    objective = "deit" if heads else ""
    return Checkpoint(config, encoder, heads, {}, objective, {}, labels, source=source, report=report)


def _plain(state: Mapping[str, Any]) -> State:
    """The tensors by their names in the model alone."""
    return {WRAPPERS.sub("", name): value for name, value in state.items() if isinstance(value, Tensor)}


def _config(encoder: State, content: Mapping[str, Any], source: str) -> EncoderConfig:
    """The preset's config, with the options on timm's command line and the size of the position table."""
    arch, settings = str(content.get("arch", "")), _arguments(content.get("args"), source)
    name = arch if arch in PRESETS else _preset_of(encoder)
    if not name or not encoder.keys() >= NEEDED:
        known = [name for name in PRESETS if name.startswith("cast_")]
        raise DataError(f"timm trained {arch or 'the model'} in {source}, expected one of {', '.join(known)}")
    options = {key: settings[key] for key in (*OPTIONS, *LISTS) if settings.get(key) is not None}
    options |= {key: tuple(options[key]) for key in LISTS if isinstance(options.get(key), list)}
    channels = encoder["stem.layers.0.weight"].shape[1]
    for key, value in options.items():
        _check(key, value, source)
    for key in ("mean", "std"):  # A single number of train.py's flags is that of each channel.
        if len(options.get(key, ())) == 1:
            options[key] *= channels
    config = override(PRESETS[name], channels=channels, **options)
    grid, side = encoder["positions"].shape[-1], settings.get("img_size")
    if not isinstance(side, int) or -(-side // config.stride) != grid:
        side = grid * config.stride
    return replace(config, image_size=side)


def _check(key: str, value: object, source: str) -> None:
    """Refuse a value that the field of the config cannot have."""
    try:
        EncoderConfig.from_dict({"name": "cast", key: value}, source)
    except DataError:
        expected = "a list of numbers" if key in LISTS else "what castssl.EncoderConfig takes"
        raise DataError(_strange(key, value, source, expected)) from None


def _arguments(args: object, source: str) -> dict[str, Any]:
    """What timm built the model with: the flags of ``train.py``, and its ``model_kwargs``."""
    flags = dict(args._get_kwargs()) if isinstance(args, argparse.Namespace) else args or {}
    if not isinstance(flags, Mapping):
        raise DataError(_strange("args", flags, source, "values by name"))
    options = flags.get("model_kwargs") or {}
    if not isinstance(options, Mapping):
        raise DataError(_strange("model_kwargs", options, source, "values by name"))
    return {**flags, **options}


def _strange(name: str, value: object, source: str, expected: str) -> str:
    return (
        f"the arguments of timm in {source} have {name} {str(value)[:40]!r}, expected {expected}; correct"
        " them in the file, or load its state_dict alone, which has the preset's settings"
    )


def _preset_of(encoder: State) -> str:
    """The preset that has the blocks and the width of the tensors; "" if there is none."""
    paths = [name.split(".") for name in encoder if name.startswith("stages.")]
    blocks = {(path[1], path[3]) for path in paths if len(path) > 4}
    depths = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(len({s for s, _ in blocks})))
    if "cls_token" not in encoder:
        return ""
    dim, fused = encoder["cls_token"].shape[-1], any(name.startswith("fusion.") for name in encoder)
    for name, preset in PRESETS.items():
        same = tuple(filter(None, preset.depths)) == depths and (preset.dim, preset.fused) == (dim, fused)
        if name.startswith("cast_") and same:
            return name
    return ""
