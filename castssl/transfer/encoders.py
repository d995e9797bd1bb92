"""An encoder in one file: safetensors, with what it takes to build it again in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from castssl import ranks
from castssl.contracts import Encoder
from castssl.errors import DataError
from castssl.files import not_safetensors, write_tensors
from castssl.models.create import Preset, assemble, create, unloaded
from castssl.models.hub import check_settings, remember
from castssl.modes import kept_random_state

SETTINGS = "castssl"
"""The metadata key under which the settings lie, as JSON."""
BESIDE = "published."
"""Before the names of tensors that came with published weights and are no part of the encoder."""
RECOGNISER = "recogniser"
"""The setting of files whose classifiers :mod:`castssl.transfer.recogniser` can build again."""
_NO_OPTIONS = {"name", "superpixels", "shape", "published", RECOGNISER}


def save_encoder(
    encoder: Encoder, path: str | Path, *, beside: Mapping[str, Tensor] | None = None, **settings: Any
) -> Path:
    """Write an encoder's weights and the settings of :func:`castssl.models.create.create` that made it.

    Only the main rank writes.

    Args:
        encoder: what is saved.
        path: a ``.safetensors`` file; replaced only once the new one is whole.
        beside: tensors to keep in the same file, such as heads; :func:`load_encoder` passes them by.
        settings: ``name`` and the options of ``create``, and ``superpixels``.  Where the model has no name,
            ``shape`` holds the fields of its :class:`castssl.models.create.Preset`.
    """
    path = Path(path)
    if not ranks.is_main():
        return path
    state = dict(encoder.state_dict()) | {BESIDE + name: value for name, value in (beside or {}).items()}
    write_tensors(path, state, {SETTINGS: json.dumps(settings)}, "encoder")
    return path


@kept_random_state()
def load_encoder(path: str | Path) -> tuple[Encoder, dict[str, Any]]:
    """The encoder of a file, in evaluation mode, and the settings that it was saved with.

    In float32, or in float64 where the file is.

    Raises:
        DataError: if the file is missing, damaged, or was not written by :func:`save_encoder`.
    """
    state, settings = read_encoder(path)
    own = {name: value for name, value in state.items() if not name.startswith(BESIDE)}
    encoder = encoder_of(settings, own, path)
    if any(value.dtype == torch.float64 for value in own.values()):
        cast(nn.Module, encoder).double()
    encoder.load_state_dict(own)
    encoder.eval()
    return encoder, settings


def encoder_of(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], source: object) -> Encoder:
    """An encoder as the settings of a file say, with weights of its own.

    Args:
        settings: of the file.
        tensors: of the file; those that are beside the encoder do not matter.
        source: the file, for messages.

    Raises:
        ConfigError: if a setting is unknown or does not fit.
        DataError: if the settings are of another encoder than the tensors.
    """
    shapes = {name: tuple(t.shape) for name, t in tensors.items() if not name.startswith(BESIDE)}
    check_settings(settings, shapes, source, build_encoder)
    return build_encoder(settings)


def build_encoder(settings: Mapping[str, Any]) -> Encoder:
    """An encoder of these settings, which nothing has checked, with weights of its own.

    Raises:
        ConfigError: if a setting is unknown or does not fit.
    """
    options, shape = {key: v for key, v in settings.items() if key not in _NO_OPTIONS}, shape_of(settings)
    encoder = create(unloaded(settings["name"]), **options) if shape is None else assemble(shape, **options)
    remember(encoder, **settings)
    return encoder


def shape_of(settings: Mapping[str, Any]) -> Preset | None:
    """The shape of a model without a name, or None."""
    if "shape" not in settings:
        return None
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["shape"].items()}
    return Preset(**fields)


def read_encoder(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file of :func:`save_encoder`, also those beside the encoder, and its settings.

    Raises:
        DataError: if the file is missing, damaged, or was not written by :func:`save_encoder`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no encoder at {path}; expected the encoder.safetensors of a finished run")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(SETTINGS)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise DataError(f"{path} is no whole safetensors file: {not_safetensors(path, error)}") from error
    if text is None:
        raise DataError(f"{path} has no castssl settings; castssl.load_official reads published weights")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the settings in {path} are no JSON ({error}); copy it again") from error
    if not isinstance(settings, dict) or not {"name", "shape"} & settings.keys():
        raise DataError(f"the settings in {path} name no model; copy it again")
    _check(settings, path)
    return state, settings


def _check(settings: Mapping[str, Any], path: str | Path) -> None:
    """Refuse settings whose superpixels or classifier have not the types that :func:`save_encoder` writes."""
    if not isinstance(settings.get("superpixels") or "", str):
        raise DataError(
            f"the settings in {path} have superpixels {settings['superpixels']!r}, expected a name;"
            " copy it again"
        )
    about = settings.get(RECOGNISER)
    if about is not None and not (
        isinstance(about, dict)
        and isinstance(about.get("objective"), str)
        and isinstance(about.get("options"), dict)
        and isinstance(about.get("labels"), dict)
    ):
        raise DataError(
            f"the settings in {path} describe no classifier: expected its objective, options and labels; copy"
            " it again"
        )
