"""castssl's own files: safetensors, with what it takes to build the model again as JSON in the metadata.

Tensors of the encoder have its own names, those of the classifiers ``heads.*``, others ``extra.*``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from castssl import distributed
from castssl.checkpoints.checkpoint import MOMENTUM, Checkpoint, State
from castssl.checkpoints.report import Report
from castssl.contracts import Encoder, Objective
from castssl.datasets.pixel_classes import Color
from castssl.encoder_config import EncoderConfig
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.modes import gathered
from castssl.tensor_files import not_safetensors, write_tensors

SETTINGS = "castssl"
"""The metadata key under which the settings are, as JSON."""
FORMAT = 2
"""Files of castssl 0.1 before ``EncoderConfig`` had no number."""
HEADS, EXTRA = "heads.", "extra."
TENSORS = "tensors"
"""The entry of :meth:`Weights.state_dict` that holds the tensors, beside :data:`SETTINGS`."""
_FIELDS = {"format", "config", "objective", "options", "labels", "palette", "variant"}


@dataclass(frozen=True)
class Weights:
    """The weights of a model in training: in the end a file, and before that a part of a run's checkpoints.

    Attributes:
        now: what they are at the moment; their tensors are the model's own.
    """

    now: Callable[[], Checkpoint]

    def write(self, path: str | Path) -> Path:
        """Write a file, as :func:`write` does.

        Raises:
            CastError: if it cannot be written.
        """
        return write(self.now(), path)

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`write` would write, for ``run.keep``."""
        checkpoint = self.now()
        return {TENSORS: _tensors(checkpoint), SETTINGS: json.dumps(settings_of(checkpoint))}


def write(checkpoint: Checkpoint, path: str | Path) -> Path:
    """Write a ``.safetensors`` file, replaced only once the new one is whole; the main rank alone writes.

    Where FSDP has sharded the tensors, all ranks call this together.

    Raises:
        CastError: if it cannot be written.
    """
    path = Path(path)
    tensors = {name: gathered(value) for name, value in _tensors(checkpoint).items()}
    if distributed.is_main():
        write_tensors(path, tensors, {SETTINGS: json.dumps(settings_of(checkpoint))}, "encoder")
    return path


def _tensors(checkpoint: Checkpoint) -> State:
    return {
        **checkpoint.encoder,
        **{HEADS + name: value for name, value in checkpoint.heads.items()},
        **{EXTRA + name: value for name, value in checkpoint.extra.items()},
    }


def save_encoder(encoder: Encoder, path: str | Path) -> Path:
    """Write an encoder with its config, as :func:`write` does.

    Raises:
        CastError: if it cannot be written.
    """
    return write(Checkpoint(encoder.config, dict(encoder.state_dict())), path)


def objective_weights(objective: Objective, encoder: Encoder) -> Weights:
    """An encoder with the other parts of the objective that trains it, so that training can go on.

    Args:
        objective: its tensors but the encoder's become ``extra``: projector, predictor, momentum encoder.
        encoder: the objective's, or its momentum encoder, which comes first then.
    """
    return Weights(partial(_of_objective, objective, encoder))


def _of_objective(objective: Objective, encoder: Encoder) -> Checkpoint:
    state = {name.removeprefix("model."): value for name, value in objective.state_dict().items()}
    extra = {name: value for name, value in state.items() if not name.startswith("encoder.")}
    checkpoint = Checkpoint(encoder.config, dict(objective.encoder.state_dict()), extra=extra)
    if encoder is not objective.encoder:
        checkpoint = (
            checkpoint.choose("momentum")
            if checkpoint.under(f"{MOMENTUM}encoder.")
            else replace(checkpoint, encoder=dict(encoder.state_dict()), extra={})
        )
    return checkpoint


def settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the metadata of a file say, and the ``config.json`` of a shared model."""
    fields: dict[str, Any] = {"format": FORMAT, "config": checkpoint.config.to_dict()}
    if checkpoint.objective:
        fields |= {"objective": checkpoint.objective, "options": dict(checkpoint.options)}
    if checkpoint.labels is not None:
        fields["labels"] = checkpoint.labels.to_dict()
    if checkpoint.palette:
        fields["palette"] = [list(color) for color in checkpoint.palette]
    return fields | ({"variant": checkpoint.variant} if checkpoint.variant else {})


def read_file(path: Path) -> tuple[State, str]:
    """The tensors of a safetensors file, and its settings; ``""`` if castssl did not write it.

    Raises:
        DataError: if it is damaged, or cannot be read.
        OSError: if the process may open no more files.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(SETTINGS, "")
            return {name: file.get_tensor(name) for name in file.keys()}, text  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        reason = not_safetensors(path, error)
        raise DataError(f"{path} is not a complete safetensors file: {reason}") from error


def decode(tensors: Mapping[str, Any], text: str, path: str | Path) -> Checkpoint:
    """The checkpoint in a file of :func:`write`.

    Args:
        tensors: of the file.
        text: its settings, as JSON; they may come from a stranger.
        path: for messages.

    Raises:
        DataError: if the settings cannot be read.
    """
    settings = _settings(text, path)
    palette = _palette(settings.get("palette", []), path)
    config = EncoderConfig.from_dict(settings["config"], path)
    labels = settings.get("labels")
    try:
        tree = LabelTree.from_dict(labels) if labels is not None else None
    except Exception as error:  # a stranger's values fail in many ways
        raise DataError(f"the settings in {path} have no label tree ({error}); copy it again") from error
    parts: dict[str, State] = {HEADS: {}, EXTRA: {}, "": {}}
    for name, value in tensors.items():
        prefix = next(prefix for prefix in parts if name.startswith(prefix))
        parts[prefix][name.removeprefix(prefix)] = value
    return Checkpoint(
        config,
        parts[""],
        parts[HEADS],
        parts[EXTRA],
        settings.get("objective", ""),
        settings.get("options", {}),
        tree,
        settings.get("variant", ""),
        str(path),
        Report(config.name, list(parts[""])),
        palette,
    )


def _palette(colors: list[Any], path: str | Path) -> tuple[Color, ...]:
    for color in colors:
        fits = isinstance(color, list) and len(color) == 3 and all(type(c) is int for c in color)
        if not fits or min(color) < 0 or max(color) > 255:
            raise DataError(
                f"the palette in {path} has the color {str(color)[:40]}, expected three numbers from 0 to"
                " 255; copy it again"
            )
    return tuple((red, green, blue) for red, green, blue in colors)


def _settings(text: str, path: str | Path) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the settings in {path} are not JSON ({error}); copy it again") from error
    if isinstance(settings, dict) and "format" not in settings and {"name", "shape"} & settings.keys():
        raise DataError(
            f"{path} was written before files held an EncoderConfig; train again, or convert the published"
            " weights again"
        )
    types = {"config": dict, "objective": str, "options": dict, "labels": dict, "variant": str}
    types["palette"] = list
    fields: dict[str, Any] = settings if isinstance(settings, dict) else {}
    wrong = [name for name, kind in types.items() if not isinstance(fields.get(name, kind()), kind)]
    if wrong or not fields.get("config"):
        what = ", ".join(wrong) or "no config"
        raise DataError(f"the settings in {path} describe no model ({what}); copy it again")
    if fields.get("format") != FORMAT or (fields.keys() - _FIELDS):
        what = f"format {fields.get('format')} and settings {sorted(fields)}"
        raise DataError(f"{path} has {what}; this castssl reads format {FORMAT}: update castssl")
    return fields
