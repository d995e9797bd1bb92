"""Published weights: the state-dict layout of the released CAST code becomes ours.

The released classification models keep every block twice, under ``blocks.{g}`` and ``blocks{s}.{g}`` with a
global index g; the segmentation model, and older files, once under ``blocks{s}.{local}``.  All three
spellings are read, and must agree where several are present.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from castssl.errors import DataError

State = dict[str, Tensor]

_RENAMED = (
    (r"patch_embed\.proj\.", "stem.layers."),
    (r"pool(\d+)\.pool_block\.centroid_fc\.", lambda m: f"poolings.{int(m[1]) - 1}."),
    (r"pool(\d+)\.pool_block\.", lambda m: f"poolings.{int(m[1]) - 1}."),
    (r"block_fusion\.proj_blocks\.0\.norm\.", "fusion.norm."),
    (r"block_fusion\.proj_blocks\.2\.", "fusion.linear."),
)
_BLOCK = re.compile(r"blocks(\d*)\.(\d+)\.(.+)")


def read(path: str | Path) -> Mapping[str, Any]:
    """Read a checkpoint without running code from it.

    Raises:
        DataError: if the file is missing, is no checkpoint, or holds objects other than tensors and
            plain values.  ``argparse.Namespace``, which the published DeiT file holds, is allowed by name.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}; expected a .pth, .pth.tar, .pt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as weights only ({type(error).__name__}: {str(error).splitlines()[0]})."
            " castssl never unpickles objects from a file; convert it to safetensors where you trust it"
        ) from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a dict of tensors")
    return content


def flatten(content: Mapping[str, Any], branch: str = "base") -> State:
    """The encoder's tensors within a checkpoint, without prefixes.

    Args:
        content: a checkpoint or a bare state dict.
        branch: ``"base"`` or ``"momentum"`` of a MoCo checkpoint.

    Raises:
        DataError: if no encoder is found.
    """
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    state = {k.removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    prefix = f"{branch}_encoder."
    if any(k.startswith(prefix) for k in state):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if "cls_token" not in state or "patch_embed.proj.0.weight" not in state:
        near = ", ".join(sorted(state)[:4]) or "no tensors at all"
        raise DataError(f"this is no CAST checkpoint: expected keys cls_token, patch_embed.*; got {near}")
    return state


def stage_depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks per stage, counted from the keys; a bare ``blocks.{g}`` layout is one of two known depths.

    Raises:
        DataError: if only ``blocks.{g}`` is there and its count is neither 11 nor 15.
    """
    members: dict[int, set[int]] = {}
    for key in state:
        if found := _BLOCK.fullmatch(key):
            members.setdefault(int(found[1] or 0), set()).add(int(found[2]))
    if staged := sorted(s for s in members if s):
        return tuple(len(members[s]) for s in staged)
    known = {11: (3, 3, 3, 2), 15: (6, 3, 3, 3)}
    count = len(members.get(0, ()))
    if count not in known:
        raise DataError(f"{count} blocks without stage numbers; expected 11 (S, B) or 15 (deep)")
    return known[count]


def rename(state: Mapping[str, Tensor], depths: tuple[int, ...]) -> State:
    """Our names for the published ones; duplicates must agree.

    Raises:
        DataError: if two spellings of the same tensor differ.
    """
    ours: State = {}
    first = _first_indices(state)
    for key, value in state.items():
        name = _block_name(key, depths, first)
        for pattern, new in _RENAMED:
            name = re.sub("^" + pattern, new, name)
        if name in ours and not torch.equal(ours[name], value):
            raise DataError(f"{key} differs from its other spelling in the same file; expected equal tensors")
        ours[name] = value
    return ours


def _first_indices(state: Mapping[str, Tensor]) -> dict[int, int]:
    """The lowest block index under each ``blocks{s}``: 0 where indices are local, else they are global."""
    first: dict[int, int] = {}
    for key in state:
        if (found := _BLOCK.fullmatch(key)) and found[1]:
            stage = int(found[1])
            first[stage] = min(first.get(stage, int(found[2])), int(found[2]))
    return first


def _block_name(key: str, depths: tuple[int, ...], first: Mapping[int, int]) -> str:
    found = _BLOCK.fullmatch(key)
    if not found:
        return key
    index = int(found[2])
    if found[1]:
        stage = int(found[1])
        return f"stages.{stage - 1}.blocks.{index - first[stage]}.{found[3]}"
    for stage, depth in enumerate(depths):
        if index < depth:
            return f"stages.{stage}.blocks.{index}.{found[3]}"
        index -= depth
    raise DataError(f"{key}: there are only {sum(depths)} blocks")
