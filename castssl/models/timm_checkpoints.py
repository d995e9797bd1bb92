"""``timm.create_model(NAME, checkpoint_path=RUN)`` for castssl's models.

timm's ``create_model`` builds the model, and then opens ``checkpoint_path``, which must be a file, without
the settings in it.  castssl puts :func:`load_checkpoint` in front of timm's function for its own models, so
that the folder of a run works, and the model gets what the run was trained with: superpixels, sizes and image
size, unless the caller gives them.  Other models, and files that castssl did not write, are timm's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from castssl.encoder_config import EncoderConfig
from castssl.errors import ConfigError, DataError
from castssl.models.timm_registry import TimmCAST, TimmFeatures
from castssl.models.weight_files import NAMES, refuse_two
from castssl.tensor_files import not_safetensors

SETTINGS = "castssl"
"""The metadata key of the settings in castssl's files."""
COMPARED = ("pooling", "membership", "padding", "channels", "mean", "std")
"""Settings that the model must share with the run."""
_factory: Any = import_module("timm.models._factory")
_timms: Callable[..., Any] = _factory.load_checkpoint


def load_checkpoint(model: nn.Module, checkpoint_path: str, *args: Any, **options: Any) -> Any:
    """As timm's function; a model of castssl also takes the folder of a run.

    Raises:
        DataError: if the folder holds no weights or two files of them, or the file is a pointer of Git LFS.
        ConfigError: if the run had another pooling, membership or padding than the model.
    """
    model = model.model if isinstance(model, TimmFeatures) else model
    if not isinstance(model, TimmCAST):
        return _timms(model, checkpoint_path, *args, **options)
    path = Path(checkpoint_path).expanduser()
    if path.is_dir():
        if not (existing := [path / name for name in NAMES if (path / name).is_file()]):
            raise DataError(f"{path} holds none of {', '.join(NAMES)}; give the folder of a finished run")
        refuse_two(existing)
        path = existing[0]
    try:
        if (config := _config(path)) is not None:
            _adapt(model, config, path)
        return _timms(model, str(path), *args, **options)
    except Exception as error:  # each format has its own
        if (why := not_safetensors(path, error)) != str(error):
            raise DataError(f"{path}: {why}") from error
        raise


def _config(path: Path) -> EncoderConfig | None:
    """The config of the run in a file of castssl; None for another file."""
    text = ""
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(SETTINGS, "")
    return EncoderConfig.from_dict(json.loads(text)["config"], path) if text else None


def _adapt(model: TimmCAST, config: EncoderConfig, path: Path) -> None:
    """Give the model what the run was trained with."""
    own = model.encoder.config
    if differing := [name for name in COMPARED if getattr(own, name) != getattr(config, name)]:
        words = ", ".join(f"{name}={getattr(config, name)!r}" for name in differing)
        words = words.replace("channels=", "in_chans=")
        raise ConfigError(f"{path} was trained with {words}: give create_model the same")
    if "img_size" not in model.chosen:
        side = config.image_size
        model.set_input_size(side)
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (own.channels, side, side)}
    if "superpixel_channels" not in model.chosen:
        triple = config.superpixel_channels
        model.encoder.config = replace(model.encoder.config, superpixel_channels=triple)
        model.set_superpixels(model.spec)
    if "superpixels" not in model.chosen:
        model.set_superpixels(config.superpixels)
    if "sizes" not in model.chosen:
        model.encoder.sizes = config.sizes
        # What save_pretrained and other writers store.
        model.encoder.config = replace(model.encoder.config, sizes=config.sizes)


_factory.load_checkpoint = load_checkpoint
