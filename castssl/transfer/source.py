"""A trained encoder from whatever holds one: a run's folder, our file, a published checkpoint, or itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import nn

from castssl.contracts import Encoder
from castssl.errors import DataError
from castssl.files import not_safetensors
from castssl.models.cast import CAST
from castssl.models.create import preset
from castssl.models.timm_names import TimmCAST
from castssl.transfer.encoders import load_encoder
from castssl.transfer.official import Official, load_official

ENCODERS = ("encoder.safetensors", "model.safetensors")
"""What a finished run leaves in its folder, and what ``encoder.save_pretrained`` does."""
SEGMENTS = "seeds"
"""For an encoder that does not say: the paper's."""


class Trained(NamedTuple):
    """An encoder and what its images have to look like."""

    encoder: Encoder
    superpixels: str
    """Spec of the backend that it was trained with."""
    image_size: int
    """Side of its training crops in pixels."""


def open_trained(source: str | Path | nn.Module | Encoder) -> Trained:
    """An encoder, its superpixels and its image size.

    Args:
        source: the folder of a finished run or of ``save_pretrained``, an ``encoder.safetensors``, a
            published checkpoint (see :func:`castssl.transfer.official.load_official`), what that returned,
            ``hf:USER/NAME`` on the Hugging Face hub, an encoder, or a CAST of ``timm.create_model``.

    Raises:
        DataError: if there is no such file, or it holds no encoder; if ``source`` is none of these.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        source = CAST.from_pretrained(source.removeprefix("hf:"))
    if isinstance(source, str | Path):
        path = locate(source)
        if path is None:
            raise DataError(f"no weights at {source}; expected a finished run's folder or a checkpoint file")
        if is_ours(path):
            encoder, settings = load_encoder(path)
            superpixels = settings.get("superpixels") or preset(settings["name"]).superpixels
            return Trained(encoder, superpixels, settings.get("image_size") or side(encoder))
        source = load_official(path)
    if isinstance(source, Official):
        source = source.encoder
    if isinstance(source, TimmCAST):
        return Trained(cast(Encoder, source.encoder), source.spec, side(source.encoder))
    _refuse(source)
    settings = getattr(source, "settings", None) or {}
    return Trained(cast(Encoder, source), settings.get("superpixels", SEGMENTS), side(source))


def _refuse(source: object) -> None:
    if isinstance(source, nn.Module) and hasattr(source, "dim") and hasattr(source, "sizes"):
        return
    hint = ""
    if isinstance(source, nn.Module):
        hint = "; an objective has .encoder, and castssl.create('timm:NAME') makes an encoder of a timm model"
    raise DataError(
        "expected an encoder, a finished run's folder, a checkpoint file or hf:USER/NAME as the model, got"
        f" a {type(source).__name__}{hint}"
    )


def locate(source: str | Path) -> Path | None:
    """The file with the weights: ``source`` itself, or what lies in that folder; None if there is none."""
    path = Path(source).expanduser()
    found = [path / name for name in ENCODERS] if path.is_dir() else [path]
    return next((each for each in found if each.is_file()), None)


def side(encoder: Any) -> int:
    """The image side in pixels that a CAST's position table is for; 224 for other encoders."""
    positions, stem = getattr(encoder, "positions", None), getattr(encoder, "stem", None)
    return 224 if positions is None or stem is None else int(positions.shape[-1] * stem.stride)


def is_ours(path: Path) -> bool:
    """True for a file of ours; a safetensors file may hold published keys, too.

    Raises:
        DataError: if it is a damaged safetensors file.
    """
    if path.suffix != ".safetensors":
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return "castssl" in (file.metadata() or {})
    except SafetensorError as error:
        raise DataError(
            f"{path} is no whole safetensors file: {not_safetensors(path, error)}; copy it again"
        ) from error
