"""An encoder in one file: safetensors, with what it takes to build it again in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from castssl.contracts import Encoder
from castssl.errors import DataError
from castssl.models.create import create

SETTINGS = "castssl"
"""The metadata key under which the settings lie, as JSON."""


def save_encoder(encoder: Encoder, path: str | Path, **settings: Any) -> Path:
    """Write an encoder's weights and the settings of :func:`castssl.models.create.create` that made it.

    Args:
        encoder: what is saved.
        path: a ``.safetensors`` file; replaced only once the new one is whole.
        settings: ``name`` and the options of ``create``, and ``superpixels``.
    """
    path = Path(path)
    state = {name: value.detach().contiguous().cpu() for name, value in encoder.state_dict().items()}
    aside = path.with_suffix(".partial")
    save_file(state, aside, metadata={SETTINGS: json.dumps(settings), "format": "pt"})
    aside.replace(path)
    return path


def load_encoder(path: str | Path) -> tuple[Encoder, dict[str, Any]]:
    """The encoder of a file, in evaluation mode, and the settings that it was saved with.

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
        raise DataError(f"{path} is no whole safetensors file: {error}") from error
    if text is None:
        raise DataError(f"{path} has no castssl settings; castssl.load_official reads published weights")
    settings = json.loads(text)
    options = {key: value for key, value in settings.items() if key not in {"name", "superpixels"}}
    encoder = create(settings["name"], **options)
    encoder.load_state_dict(state)
    encoder.eval()
    return encoder, settings
