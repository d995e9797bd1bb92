"""Files of what chosen labels of a trained model attend to in an image."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from castssl.checkpoints.many_labels import LabelModel
from castssl.errors import ConfigError
from castssl.evaluation.many_labels import level_names
from castssl.files import atomic_write
from castssl.inference.many_labels import Labels
from castssl.visualization.label_attention import draw_label_attention


def columns_of(model: LabelModel, names: Sequence[str]) -> list[int]:
    """The columns of some labels, in the order of their names; a name at several levels has several.

    Raises:
        ConfigError: if a name is not a label.
    """
    known = [name for level in level_names(model.labels) for name in level]
    for name in names:
        if name not in known:
            near = ", ".join(get_close_matches(name, known, 5, 0.5) or known[:5])
            raise ConfigError(f"--labels: {name!r} is none of {len(known)} labels, such as {near}")
    return [column for wanted in names for column, name in enumerate(known) if name == wanted]


def outputs(folder: Path, name: str) -> tuple[Path, Path]:
    """The picture and the arrays of an image."""
    return folder / f"{name}-labels.png", folder / f"{name}-labels.npz"


def write(labels: Labels, columns: Sequence[int], folder: Path, name: str, mass: float) -> None:
    """Write the heat maps of some labels, and of all ``attention0`` (C, N), ``labels0`` (S, S), ...

    Raises:
        ConfigError: if labels attend to nothing.
    """
    attention, (picture, bundle) = labels.attention, outputs(folder, name)
    if attention is None:
        raise ConfigError(
            "the labels of these weights attend to nothing: their scores come from a class token; take"
            " weights trained with multilabel:head=hsvlt"
        )
    scores = {label.column: label for label in labels.scores}
    probabilities = [scores[column].probability for column in range(len(scores))]
    arrays: dict[str, Any] = {"probabilities": np.array(probabilities, np.float32)}
    for stage, weights in enumerate(attention.weights):
        arrays[f"attention{stage}"] = weights[0].cpu().numpy()
        arrays[f"labels{stage}"] = attention.hierarchy.labels(stage)[0].cpu().numpy().astype(np.int32)
    with atomic_write(bundle, "attention") as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
    titles = {column: f"{scores[column].name}, {probabilities[column]:.0%}" for column in columns}
    with atomic_write(picture, "picture") as aside:
        draw_label_attention(labels.seen, attention, titles, mass=mass).save(aside, format="png")
