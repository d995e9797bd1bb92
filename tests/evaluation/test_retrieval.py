"""Segment retrieval against loops over pixels, segments and neighbors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.data.dense_views import WholeView
from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import normalize
from castssl.errors import ConfigError, DataError
from castssl.evaluation import features
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.evaluation.retrieval import ColorModel, Retrieval, SegmentModel, segment_classes_of, vote
from castssl.evaluation.windows import with_longer_side
from castssl.metrics.iou import MeanIoU
from castssl.models.cast import CAST
from castssl.models.create import create
from castssl.pooling.spherical_kmeans import spherical_kmeans
from castssl.registry import build
from castssl.types import View
from tests.evaluation.test_class_maps import images, truths

SEEDS = "seeds:count=64,bins=5,iterations=4"


def segmenter(name: str = "nano_seg", **options: Any) -> SegmentModel:
    torch.manual_seed(0)
    encoder = create(name, image_size=32, **options)
    return SegmentModel(encoder, nn.Linear(encoder.dim, 5), groups=6).eval()


def viewed(spec: str, height: int = 32, width: int = 32) -> View:
    noise = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pixels = (F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1) * 255).byte()
    return View(normalize(pixels), build("superpixels", spec)(pixels))


@pytest.mark.parametrize("name", ["nano_seg", "cast_nano"])
def test_the_encoder_runs_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice would be slow, and a pooling that draws at random would give tokens of other segments."""
    model = segmenter(name)
    traced, trace = [], CAST.trace

    def counted(*args: Any, **options: Any) -> Any:
        traced.append(1)
        return trace(*args, **options)

    monkeypatch.setattr(CAST, "trace", counted)
    with torch.no_grad():
        model(viewed(model.encoder.config.superpixels))
    assert len(traced) == 1


@pytest.mark.parametrize("name", ["nano_seg", "cast_nano", "nano_vit_superpixels_seg", "nano_vit_seg"])
def test_a_feature_is_the_direction_of_the_unit_vectors_of_a_segments_pixels(name: str) -> None:
    """By the encoder's own pooling, or by K-means."""
    model = segmenter(name)
    view = viewed(model.encoder.config.superpixels)
    with torch.no_grad():
        segments = model(view)
        tokens = model.encoder.dense(view)
        x = model.projector(tokens.x[..., -model.encoder.dim :])
    assert model.pools == (name in ("nano_seg", "cast_nano"))
    assert segments.features.shape[1] == (8 if model.pools else 6)
    if model.pools:
        assert torch.equal(segments.labels, model.encoder.segment(view).labels(-1))
    for at in range(2):
        unit = F.normalize(x[at], dim=-1)[tokens.labels[at].long()]
        if tokens.grid:  # Each cell's own group, not that of pixels between cells.
            valid = torch.ones(1, x.shape[1], dtype=torch.bool)
            groups = spherical_kmeans(x[at : at + 1], valid, 6).group[0]
            labels = groups[tokens.labels[at].long()]
            maps = (x[at] @ segments.features[at].T).T.view(1, 6, *tokens.grid)
            scores = F.interpolate(maps, (32, 32), mode="bilinear")[0]
            present = torch.bincount(groups, minlength=6) > 0
            scores[~present] = -torch.inf
            assert torch.equal(segments.labels[at], scores.argmax(0))
        else:
            labels = segments.labels[at]
        for group in range(segments.features.shape[1]):
            mask = labels == group
            expected = F.normalize(unit[mask].sum(0), dim=0) if mask.any() else torch.zeros(5)
            torch.testing.assert_close(segments.features[at, group], expected, atol=1e-5, rtol=1e-4)


def test_the_class_of_a_segment_is_its_most_frequent_one_and_unknown_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 5, (3, 6, 7), generator=generator)
    truth = torch.randint(-1, 3, (3, 6, 7), generator=generator)
    labels[labels == 3] = 2  # 3 has no pixel.
    found = segment_classes_of(labels, truth, 5, 3)
    for image in range(3):
        for segment in range(5):
            inside = truth[image][labels[image] == segment].tolist()
            counts = [inside.count(label) for label in (0, 1, 2, -1)]
            expected = (0, 1, 2, -1)[counts.index(max(counts))] if inside else -1
            assert found[image, segment] == expected


def test_neighbors_vote_and_of_equal_numbers_the_smaller_class_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, memory = (F.normalize(torch.randn(n, 4, generator=generator), dim=1) for n in (30, 50))
    labels = torch.randint(0, 3, (50,), generator=generator)
    for k in (1, 4, 20, 99):
        expected = []
        for query in queries:
            order = sorted(range(50), key=lambda row: -float(memory[row] @ query))
            votes = [int(labels[row]) for row in order[:k]]
            expected.append(max(range(3), key=lambda label: (votes.count(label), -label)))
        assert vote(queries, memory, labels, 3, k).tolist() == expected
        monkeypatch.setattr(features, "CELLS", 150)  # Three rows at a time.
        assert vote(queries, memory, labels, 3, k).tolist() == expected


def evaluation(folder: Path, retrieval: Retrieval) -> Evaluation:
    data = images(folder)
    return Evaluation(data, data, build("superpixels", SEEDS), CenterView(32), [retrieval], batch_size=1)


@pytest.mark.parametrize("colors", [False, True])
def test_scores_are_those_of_the_painted_votes(tmp_path: Path, colors: bool) -> None:
    measured = evaluation(tmp_path, Retrieval(neighbors=3, longer=32, views=WholeView(None)))
    model = segmenter(superpixels=SEEDS)
    module = ColorModel(model.encoder, groups=6) if colors else model
    found = measured(Subject(model.encoder, module=module))
    rows, known, maps, targets = [], [], [], []
    data = images(tmp_path)
    for at in range(2):
        image, target = WholeView(None).crop_labels(
            *data.fetch(at, labels=True)[:1], data.fetch(at, labels=True).labels
        )
        view = View(normalize(image.image[None]), measured.superpixels(image.image[None]))
        shown, count = with_longer_side(view, measured.superpixels, 32)
        with torch.no_grad():
            segments = module(shown, (count, *model.encoder.sizes[1:]))
        small = F.interpolate(target[None, None].double(), segments.labels.shape[1:], mode="nearest-exact")
        known.append(segment_classes_of(segments.labels, small[0].long(), segments.features.shape[1], 3)[0])
        rows.append(segments.features[0])
        maps.append(segments.labels)
        targets.append(target)
    memory, labels = torch.cat(rows), torch.cat(known)
    metric = MeanIoU(3)
    for features_, segments_, target in zip(rows, maps, targets, strict=True):
        classes = vote(features_, memory[labels >= 0], labels[labels >= 0], 3, 3)
        painted: Tensor = classes[segments_].masked_fill(segments_ < 0, 0).double()
        large = F.interpolate(painted[None], target.shape, mode="nearest-exact")[0].long()
        metric.update(large, target[None])
    scores = metric.compute()
    assert found["miou"] == pytest.approx(float(scores.mean_iou))
    assert found["pixel_accuracy"] == pytest.approx(float(scores.pixel_accuracy))
    assert "boundary_f" in found
    baselines = measured.baselines()
    assert baselines["bound"]["pixel_accuracy"] >= found["pixel_accuracy"]
    counts = truths(tmp_path).bincount(minlength=3)
    assert baselines["majority"]["pixel_accuracy"] == pytest.approx(float(counts.max() / counts.sum()))


def test_colors_of_one_direction_and_another_brightness_are_apart() -> None:
    """A gray gradient: with the colors alone, light and dark gray would be two directions at most."""
    levels = torch.tensor([20, 90, 160, 230], dtype=torch.uint8).repeat_interleave(8)
    pixels = levels.expand(1, 3, 8, 32).contiguous()
    at = torch.arange(32) // 8
    view = View(normalize(pixels), at.expand(1, 8, 32).int())
    segments = ColorModel(segmenter().encoder, groups=4)(view, (4,))
    assert len(segments.labels.unique()) == 4


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, Retrieval(longer=32, views=WholeView(None)))
    model = segmenter(superpixels=SEEDS)
    with pytest.raises(ConfigError, match="retrieval needs a SegmentModel, got a Linear"):
        measured(Subject(model.encoder, module=nn.Linear(1, 1)))
    for at in range(2):
        path = tmp_path / f"map{at}.png"
        with Image.open(path) as labels:
            Image.new("L", labels.size, 255).save(path)
    with pytest.raises(DataError, match="no segment of the training images has a class"):
        measured(Subject(model.encoder, module=model))
