"""Encoders on the Hugging Face hub: a folder of weights, settings and a model card.

``castssl.load_encoder("hf:USER/NAME")`` reads one.  Weights are safetensors only.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open

from castssl.checkpoints.card import make_card
from castssl.checkpoints.checkpoint import Checkpoint
from castssl.checkpoints.load import SETTINGS_FILE
from castssl.checkpoints.native import SETTINGS, settings_of, write
from castssl.contracts import Encoder
from castssl.encoder_config import BY_HAND
from castssl.errors import ConfigError
from castssl.files import write_text
from castssl.models.weight_files import NAMES


def save_pretrained(encoder: Encoder, folder: str | Path, **card: str) -> Path:
    """Write ``model.safetensors``, ``config.json`` and ``README.md`` into a folder.

    Args:
        encoder: made by :func:`castssl.create` or :func:`castssl.load_encoder`.
        folder: made if need be; a README.md that is there stays.
        card: fields of :func:`castssl.checkpoints.card.make_card`, such as ``licence`` (default: Apache-2.0),
            ``details`` (Markdown), ``model_name`` and ``repo_id`` (``USER/NAME``).

    Raises:
        ConfigError: if the encoder was built from modules, so no config describes it; or if the folder has
            another ``config.json``, such as that of a run, or a ``model.safetensors`` that is not of castssl.
    """
    folder, config = Path(folder), encoder.config
    if config.kind == "cast" and config.pooling == BY_HAND:
        raise ConfigError(
            f"this {type(encoder).__name__} was built by hand, so its config.json would not describe it:"
            " make it with castssl.create"
        )
    if os.path.lexists(found := folder / SETTINGS_FILE) and not _is_encoder(found):
        raise ConfigError(f"{found} does not describe an encoder, and would be replaced; give another folder")
    if os.path.lexists(weights := folder / NAMES[1]) and not (os.path.lexists(found) or _is_own(weights)):
        raise ConfigError(f"{weights} is not of castssl, and would be replaced; give another folder")
    checkpoint = Checkpoint(config, dict(encoder.state_dict()))
    folder.mkdir(parents=True, exist_ok=True)
    write(checkpoint, weights)
    write_text(folder / SETTINGS_FILE, json.dumps(settings_of(checkpoint), indent=2))
    if not os.path.lexists(folder / "README.md"):
        write_text(folder / "README.md", str(make_card(encoder, **card)))
    return folder


def _is_encoder(config: Path) -> bool:
    """True for a file that :func:`save_pretrained` wrote."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(config.read_text(encoding="utf-8"))
        return isinstance(content, dict) and {"format", "config"} <= {*content}
    return False


def _is_own(weights: Path) -> bool:
    """True for a file of castssl."""
    with suppress(OSError, SafetensorError), safe_open(weights, "pt") as file:
        return SETTINGS in (file.metadata() or {})
    return False


def push_to_hub(
    encoder: Encoder, repo_id: str, *, private: bool | None = None, token: str | None = None, **card: str
) -> str:
    """Upload what :func:`save_pretrained` writes to a repository, which is made if need be.

    Args:
        encoder: as there.
        repo_id: ``USER/NAME``.
        private: of a new repository.
        token: by default the one of ``hf auth login``.
        card: as there.

    Returns:
        The address of the commit.
    """
    api = HfApi(token=token, library_name="castssl")
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(encoder, folder, repo_id=repo_id, **card)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
