"""The only reader of weights is :func:`read`, which takes any source; the other functions build models."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import nn

from castssl import step_files
from castssl.checkpoints import native, no_weights, official, timm_layout, unfinished
from castssl.checkpoints.checkpoint import Checkpoint, Which
from castssl.contracts import Encoder
from castssl.errors import DataError
from castssl.files import not_safetensors
from castssl.models.weight_files import NAMES, refuse_two
from castssl.system_errors import explain

if TYPE_CHECKING:
    from castssl.checkpoints.official import Stage
    from castssl.checkpoints.official_model import Official

SETTINGS_FILE = "config.json"
HUB = "hf:"
Source = str | Path | Mapping[str, Any] | Checkpoint


def read(source: Source, *, which: Which = "base", ema: bool = False) -> Checkpoint:
    """What a source of weights holds.

    Args:
        source: the folder of a run or of ``save_pretrained``; a file of castssl, also a checkpoint of a run;
            a published CAST or H-CAST checkpoint, by torch or safetensors; a model of castssl that timm
            trained, as its ``train.py`` or ``save_for_hf`` saves it; ``hf:USER/NAME`` on the Hugging Face
            hub, where ``model.safetensors`` goes before ``encoder.safetensors``; a state dict in one of these
            layouts; or a checkpoint, which is returned.  Of a run that has not ended, its newest whole
            checkpoint is read, with a note in the log.
        which: the encoder of a MoCo checkpoint that comes first: ``"base"`` or ``"momentum"``.
        ema: take the moving average in a published DeiT or H-CAST checkpoint, or in one of timm.

    Raises:
        DataError: if there is no such file; if a folder has both a run's weights and those of
            ``save_pretrained``; if it is damaged, holds no weights of an encoder, or objects other than
            tensors and plain values; if it has no momentum encoder or average where that is asked for.
    """
    if isinstance(source, Checkpoint):
        return source.choose(which)
    if isinstance(source, Mapping):
        return _decode(source, which, ema)
    path = locate(source)
    if path.is_dir():
        if ema:
            raise _no_average(path)
        return unfinished.newest(path).choose(which)
    content: Mapping[str, Any]
    if path.suffix == ".safetensors":
        tensors, text = native.read_file(path)
        content = tensors
        if not text:
            beside = path.with_name(SETTINGS_FILE)
            if path.name == NAMES[1] and beside.is_file():
                text = beside.read_text(errors="replace")  # Tools that write the file anew drop its metadata.
            if _is_timms(tensors):
                content, text = timm_layout.with_settings(tensors, text), ""
        if text:
            if ema:
                raise _no_average(path)
            return native.decode(tensors, text, path).choose(which)
    else:
        content = read_torch(path)
    return _decode(content, which, ema, str(path))


def _no_average(source: str | Path) -> DataError:
    """What castssl wrote has the weights that its run evaluated, and no others."""
    return DataError(f"{source} holds no moving average beside the model; leave ema out")


def _decode(
    content: Mapping[str, Any], which: Which, ema: bool, source: str = "this checkpoint"
) -> Checkpoint:
    """What a checkpoint of a run, in timm's layout or in the published one holds."""
    if content.keys() >= unfinished.ENTRIES:
        if ema:
            raise _no_average(source)
        return unfinished.decode(content, source).choose(which)
    if _is_timms(content.get("state_dict", content)):
        return timm_layout.decode(content, ema=ema, source=source).choose(which)
    return official.decode(content, ema=ema, source=source).choose(which)


def _is_timms(state: object) -> bool:
    return isinstance(state, Mapping) and any(timm_layout.FIRST.fullmatch(str(name)) for name in state)


def locate(source: str | Path) -> Path:
    """The file with the weights: ``source`` itself, or what is in that folder or on the hub.

    It is a folder where that is one of a run which has checkpoints, but no weights yet.

    Raises:
        DataError: if there is none, or a folder has both a run's weights and those of ``save_pretrained``.
    """
    if isinstance(source, str) and source.startswith(HUB):
        return _download(source.removeprefix(HUB))
    path = Path(source).expanduser()
    paths = [path / name for name in NAMES] if path.is_dir() else [path]
    if not (existing := [file for file in paths if file.is_file()]):
        if step_files.exist(path / step_files.FOLDER):
            return path
        raise DataError(no_weights.missing(source, path))
    if len(existing) > 1:
        refuse_two(existing)
    return existing[0]


def _download(name: str) -> Path:
    shared, trained = reversed(NAMES)
    try:
        try:
            path = Path(hf_hub_download(name, shared))
        except EntryNotFoundError:
            return Path(hf_hub_download(name, trained))
        with suppress(EntryNotFoundError):  # For weights without metadata.
            hf_hub_download(name, SETTINGS_FILE)
        return path
    except Exception as error:  # the library raises its own, httpx's and the system's
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            neither = f"{HUB}{name} has neither {shared} nor {trained}, and no other is read"
            raise DataError(neither) from error
        raise DataError(
            f"{HUB}{name} cannot be read from the Hugging Face hub ({type(error).__name__}: {error}); check"
            " the name and the network, or download its folder and give the path"
        ) from error


def read_torch(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint of ``torch.save`` without running code from it.

    Raises:
        DataError: if it is not a checkpoint, or holds objects other than tensors and plain values.
            ``argparse.Namespace``, which the published DeiT file holds, is allowed by name.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if explain(error):
            raise  # The fault is not the file's.
        if (why := not_safetensors(path, error)) != str(error):
            raise DataError(f"{path}: {why}") from error
        if isinstance(error, FileNotFoundError):  # A run has replaced it.
            raise DataError(no_weights.missing(path, path)) from error
        if kind := no_weights.kind_of(path):
            raise DataError(f"{path} is {kind} and holds no weights; {no_weights.instead(path)}") from error
        raise DataError(
            f"{path} cannot be read as weights only ({type(error).__name__}: {_cause(error)})."
            " castssl never unpickles objects from a file; convert it to safetensors where you trust it"
        ) from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a dict of tensors")
    return content


def _cause(error: Exception) -> str:
    """The line of torch's long message that names the object."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.search(r"GLOBAL|unsupported|Unsupported", line)]
    return (named or lines or ["no message"])[0]


def load_encoder(
    source: Source | nn.Module | Encoder, *, which: Which = "base", ema: bool = False
) -> Encoder:
    """A trained encoder in evaluation mode; its ``config`` has its superpixels and image size.

    Args:
        source: as :func:`read`; an encoder, or a module with one as ``.encoder`` (what ``load_official`` and
            ``timm.create_model`` return), is given back as it is.
        which: as :func:`read`.
        ema: as :func:`read`.

    Raises:
        DataError: as :func:`read`; if ``source`` is another object; if a file's settings describe another
            encoder than its tensors.
    """
    if isinstance(source, str | Path | Mapping | Checkpoint):
        return read(source, which=which, ema=ema).build()
    from castssl.checkpoints.official_model import Official
    from castssl.models.timm_registry import TimmCAST

    if isinstance(source, Official | TimmCAST):
        return source.encoder
    if isinstance(source, Encoder):
        return source
    hint = ""
    if isinstance(source, nn.Module):
        hint = "; an objective has .encoder, and castssl.create('timm:NAME') makes an encoder of a timm model"
    raise DataError(
        "expected an encoder, a run's folder, a checkpoint file or hf:USER/NAME as the model, got"
        f" a {type(source).__name__}{hint}"
    )


def load_official(
    source: Source,
    *,
    sizes: Sequence[int] | None = None,
    which: Which = "base",
    ema: bool = False,
    stage: Stage | None = None,
    image_size: int | None = None,
) -> Official:
    """Load a published CAST or H-CAST checkpoint, in evaluation mode and with the published padding.

    Args:
        source: a file (torch's or safetensors, also one of castssl), or a state dict in the published
            layout: with or without ``module.`` and ``base_encoder.`` prefixes; any of the three spellings of
            the block keys.
        sizes: token budget per stage, which a checkpoint does not hold; by default the published 64, 32,
            16, 8, for segmentation 320, 160, 80, 40.  The first may be left out: the labels decide on it.
        which: the encoder of a MoCo checkpoint.
        ema: take ``model_ema`` of a DeiT or H-CAST checkpoint.
        stage: how a COCO model (``cast_seg``) works; by default ``"pretrain"``, except for files of the VOC
            fine-tuning.  ``"segmentation"`` of a ``cast_deit`` makes the Segmenter's encoder of it, as the
            released code does: with a fusion that is yet to be trained.
        image_size: resize the position table, bicubic, to the grid of images with this side, as the VOC code
            (512) and DeiT's fine-tuning do.  By default the table is kept, and resized at each use.

    Returns:
        The model; ``report`` says what became of each tensor, also in the log of ``castssl.checkpoints``.

    Raises:
        DataError: if the file is not a CAST checkpoint, has keys that belong nowhere, lacks some, has wrong
            shapes, or holds objects other than tensors and plain values; the message names them.
    """
    from castssl.checkpoints.official_model import adapt, as_published, make

    checkpoint = adapt(as_published(read(source, which=which, ema=ema)), stage, image_size, sizes)
    model = make(checkpoint)
    logging.getLogger("castssl.checkpoints").info("%s", model.report)
    return model
