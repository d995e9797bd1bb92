"""The class token's attention of a trained model: maps of images, and scores against masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.datasets.images import Images
from castssl.errors import ConfigError, DataError, PluginError
from castssl.evaluation.figure_ground import FigureGround
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.files import atomic_write, write_text
from castssl.inference.load import TIMM, Model, load, of_timm
from castssl.inference.photos import Photo
from castssl.inference.segment import Segmentation, segment
from castssl.models.attention_maps import class_attention
from castssl.models.sizes import sizes_for, with_sizes
from castssl.registry import build
from castssl.visualization.attention import StageAttention, draw_attention

SCORES = "figure-ground.json"


def class_attention_of(
    image: Photo, model: Encoder, titles: dict[int, str] | None = None, **options: Any
) -> tuple[Segmentation, list[StageAttention]]:
    """The segments of an image, and the class token's attention to those of each stage with a class token.

    Args:
        image: one, as :func:`castssl.segment` takes it.
        model: an encoder, CAST or a ViT of timm.
        titles: what reads the class token of a stage, see :func:`readers`.
        options: of :func:`castssl.segment`.

    Raises:
        ConfigError: if the encoder has no attention of a class token that can be recorded.
    """
    with class_attention(model) as weights:
        segmentation: Segmentation = segment(image, model, **options)
    named = titles or {}
    return segmentation, [
        StageAttention(stage, segmentation.labels(stage), heads[0].cpu(), named.get(stage, ""))
        for stage, heads in weights.items()
    ]


def open_encoder(weights: str, image_size: int | None, device: str) -> tuple[Encoder, str, dict[int, str]]:
    """An encoder on the device, the interpolation of its images, and what reads its stages' class tokens.

    Args:
        weights: what :func:`castssl.load` takes; or ``timm:NAME``, a model of timm with timm's weights.
        image_size: side in pixels of a model of timm.
        device: where to run.

    Raises:
        ConfigError: if timm knows no such model.
        DataError: if there are no weights, or they cannot be read.
    """
    if not weights.startswith(TIMM):
        model = load(weights, device=device)
        return model.encoder, model.interpolation, readers(model)
    try:
        return of_timm(weights.removeprefix(TIMM), image_size, True).to(device), "bicubic", {}
    except ValueError as error:
        raise ConfigError(str(error)) from error


def readers(model: Model) -> dict[int, str]:
    """The label levels that are read from each stage's class token.

    There are none where the weights classify nothing, or the plugin of their objective is not installed.
    H-CAST reads the coarsest level from the last stage, and each finer one from the stage before.
    """
    try:
        objective = model.classifier.objective
    except (DataError, PluginError):
        return {}
    stages = model.encoder.stages_with_cls
    read: dict[int, list[int]] = {}
    for column, stage in zip(objective.columns, objective.stages, strict=True):
        read.setdefault(stage % stages, []).append(column % max(model.classifier.labels.levels, 1))
    return {stage: f"label level {', '.join(map(str, levels))}" for stage, levels in read.items()}


def outputs(folder: Path, name: str) -> tuple[Path, Path]:
    """The picture and the arrays of an image."""
    return folder / f"{name}-attention.png", folder / f"{name}-attention.npz"


def write(
    segmentation: Segmentation, stages: list[StageAttention], folder: Path, name: str, mass: float
) -> None:
    """Write the heat maps, and for each stage ``attention0`` (heads, K) and ``labels0`` (H, W), ..."""
    picture, bundle = outputs(folder, name)
    arrays: dict[str, Any] = {f"attention{stage.stage}": stage.weights.numpy() for stage in stages}
    arrays |= {f"labels{stage.stage}": stage.labels.numpy().astype(np.int32) for stage in stages}
    with atomic_write(bundle, "attention") as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
    with atomic_write(picture, "picture") as aside:
        draw_attention(segmentation.image, stages, mass=mass).save(aside, format="png")


def measure(
    encoder: Encoder,
    images: Images,
    evaluator: FigureGround,
    view: CenterView,
    superpixels: str,
    **options: Any,
) -> dict[str, float]:
    """The results of the evaluator on all images with a mask.

    Args:
        encoder: on the device.
        images: with masks or label maps, unless the evaluator has masks.
        evaluator: new.
        view: of each image.
        superpixels: the spec of the backend.
        options: further ones of :class:`castssl.evaluation.held_out.Evaluation`.
    """
    backend = build("superpixels", superpixels)
    if encoder.uses_superpixels:
        capacity = backend.capacity(view.size, view.size)
        if capacity > encoder.sizes[0]:
            encoder = with_sizes(encoder, sizes_for(encoder, capacity))
    return Evaluation(images, images, backend, view, [evaluator], **options)(Subject(encoder))


def write_scores(results: dict[str, float], evaluator: FigureGround, folder: Path) -> None:
    """Write :data:`SCORES`: the results as shares, the best heads, the number of images."""
    content = {"images": evaluator.count, "mass": evaluator.mass, "best_heads": evaluator.heads, **results}
    write_text(folder / SCORES, json.dumps(content, indent=1) + "\n", "results")
