"""Figure and ground of held-out images against one image and one pixel at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import castssl
from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import to_views
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.evaluation.figure_ground import FigureGround
from castssl.evaluation.held_out import Evaluation, Subject, indexed
from castssl.models.attention_maps import class_attention
from castssl.superpixel_labels import partition
from castssl.superpixels.grid import Grid
from castssl.types import Batch, RawView
from tests.evaluation import toys

VIEW = CenterView(32, interpolation="bicubic")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4, 2), superpixels="grid:cell=8")
    for name, value in encoder.named_parameters():
        if "qkv" in name:
            torch.nn.init.normal_(value, std=0.5)  # else all attention is alike
    return encoder.eval()


def one_by_one(encoder: Encoder, folder: Path) -> dict[int, list[tuple[float, float]]]:
    """By stage, figure IoU and mIoU of the heads' mean in each image."""
    images = indexed(open_images(f"folder:{folder}", split="val"))
    scores: dict[int, list[tuple[float, float]]] = {}
    for index in range(len(images)):
        pixels = VIEW(images[index][0])[0][None]
        raw = Batch([RawView(pixels, partition(Grid(8), pixels))], torch.empty(1, 0))
        with torch.no_grad(), class_attention(encoder) as weights:
            hierarchy = encoder(to_views(raw, Grid(8), "cpu").views[0])
        mask = images.mask(index)
        assert mask is not None
        truth = VIEW.crop_mask(mask).numpy() > 127
        if not truth.any():
            continue
        for stage, heads in weights.items():
            mean = heads[0].mean(0).double().numpy()
            order = sorted(range(len(mean)), key=lambda token: -mean[token])
            kept = [
                token for place, token in enumerate(order) if mean[order[:place]].sum() < 0.6 * mean.sum()
            ]
            claimed = np.isin(hierarchy.labels(stage)[0].numpy(), kept)
            sides = [(claimed, truth), (~claimed, ~truth)]
            iou = [(claim & true).sum() / (claim | true).sum() for claim, true in sides]
            scores.setdefault(stage, []).append((iou[0], sum(iou) / 2))
    return scores


def test_they_are_those_of_each_image_by_itself(image_folder: Path, encoder: Encoder) -> None:
    evaluator = FigureGround()
    results = toys.evaluation(image_folder, evaluator)(Subject(encoder))
    expected = one_by_one(encoder, image_folder)
    assert sorted(expected) == list(range(encoder.stages_with_cls))
    for stage, rows in expected.items():
        assert evaluator.count == len(rows) > 5
        assert results[f"figure_iou_mean_stage{stage}"] == pytest.approx(np.mean(rows, 0)[0], abs=1e-6)
        assert results[f"figure_ground_miou_mean_stage{stage}"] == pytest.approx(
            np.mean(rows, 0)[1], abs=1e-6
        )


def test_a_best_head_of_each_image_is_the_upper_bound_of_one_for_all(
    image_folder: Path, encoder: Encoder
) -> None:
    evaluator = FigureGround()
    toys.evaluation(image_folder, evaluator)(Subject(encoder))
    scores = evaluator.scores
    gains = [scores["any_head"][stage].miou - scores["head"][stage].miou for stage in evaluator.heads]
    assert min(gains) >= 0
    assert max(gains) > 0
    assert set(evaluator.heads.values()) <= set(range(encoder.config.heads))
    assert scores["chance"] != scores["mean"]


def test_label_maps_are_masks_of_all_classes_but_the_background(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path))
    masked, mapped = (
        indexed(open_images(f"{name}:size=32,per_class=2", split="val")) for name in ("demo", "demo-maps")
    )
    assert mapped.maps is not None
    unknown = replace(mapped, maps=mapped.maps._replace(classes={**mapped.maps.classes, 0: -1}))
    evaluators = [FigureGround() for _ in range(3)]
    by_mask, by_map, by_known = (
        Evaluation(images, images, Grid(8), VIEW, [evaluator])(Subject(encoder))
        for images, evaluator in zip((masked, mapped, unknown), evaluators, strict=True)
    )
    complete, known_only = (torch.stack([*evaluator._truth.values()]) for evaluator in evaluators[1:])
    assert torch.equal(known_only, torch.where(complete == 1, 1, -1))
    assert by_mask
    assert by_mask == by_map
    for stage in range(encoder.stages_with_cls):
        iou, known = (results[f"figure_iou_mean_stage{stage}"] for results in (by_map, by_known))
        # Where the ground is unknown, nothing outside of the objects counts.
        assert known == by_known[f"figure_ground_miou_mean_stage{stage}"] > iou


def test_images_without_masks_are_refused(flat: Path) -> None:
    images = open_images(f"folder:{flat}")
    with pytest.raises(DataError, match=r"none of 12 images has a mask .* --masks"):
        Evaluation(images, images, Grid(8), VIEW, [FigureGround()])
