"""mIoU of held-out images: from files, through windows and resizing, against a count by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from castssl.contracts import LabelMaps
from castssl.data.dense_views import WholeView
from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import normalize
from castssl.datasets.folder import Files
from castssl.datasets.images import Images
from castssl.datasets.label_maps import class_table
from castssl.errors import ConfigError
from castssl.evaluation.class_maps import BOUNDARY, ClassMaps, ScoredMaps
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.evaluation.windows import Windows, class_logits
from castssl.labels import LabelTree
from castssl.metrics.boundary import BoundaryF, BoundaryIoU, BoundaryScores
from castssl.metrics.iou import MeanIoU
from castssl.models.create import create
from castssl.objectives.segmentation import Segmentation
from castssl.registry import build
from castssl.types import View

TREE = LabelTree.flat(("sky", "sea", "land"))
SIZES = ((40, 48), (64, 40))


def images(folder: Path) -> Images:
    """Two images of two sizes, and their label maps; 255 is unknown."""
    draw = np.random.default_rng(0)
    for at, (height, width) in enumerate(() if (folder / "map1.png").exists() else SIZES):
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{at}.png")
        labels = draw.integers(0, 3, (height, width), dtype=np.uint8)
        labels[:5] = 255
        Image.fromarray(labels).save(folder / f"map{at}.png")
    names = [f"{at}.png" for at in range(len(SIZES))]
    maps = LabelMaps(Files(folder, [f"map{name}" for name in names]), class_table(3))
    rows = np.arange(len(names))
    return Images(
        Files(folder, names),
        rows,
        torch.empty(2, 0, dtype=torch.int64),
        LabelTree.none(),
        maps=maps,
        pixel_tree=TREE,
    )


def objective(tree: LabelTree = TREE) -> Segmentation:
    torch.manual_seed(0)
    return Segmentation(create("nano_seg", image_size=32), tree, head="segmenter")


def evaluation(folder: Path, windows: Windows | None, rows: Sequence[int] = (0, 1)) -> Evaluation:
    data, superpixels = images(folder).take(rows), build("superpixels", "seeds:count=64,bins=5,iterations=4")
    evaluators = [ClassMaps(windows, views=WholeView(32))]
    return Evaluation(data, data, superpixels, CenterView(32), evaluators, batch_size=1)


@pytest.mark.parametrize("windows", [None, Windows(32, 16), Windows(32, 16, once=True)])
def test_scores_are_those_of_the_label_maps_at_their_own_size(
    tmp_path: Path, windows: Windows | None
) -> None:
    measured, learned = evaluation(tmp_path, windows), objective()
    found = measured(Subject(learned.encoder, learned.predict, learned))
    right, either, boundary, band = torch.zeros(3), torch.zeros(3), BoundaryF(3), BoundaryIoU(3)
    hits = total = 0
    for at in range(2):
        with Image.open(tmp_path / f"{at}.png") as image, Image.open(tmp_path / f"map{at}.png") as labels:
            cropped, _ = WholeView(32).crop_labels(image, None)
            truth = torch.from_numpy(np.array(labels)).long()
        pixels = cropped.image[None]
        view = View(normalize(pixels), measured.superpixels(pixels))
        logits = class_logits(learned.model, view, measured.superpixels, windows)
        answer = F.interpolate(logits, truth.shape, mode="bilinear").argmax(1)[0]
        for metric in (boundary, band):
            metric.update(answer[None], truth[None])
        known = truth != 255
        hits, total = hits + int((answer == truth)[known].sum()), total + int(known.sum())
        for label in range(3):
            right[label] += ((answer == label) & (truth == label) & known).sum()
            either[label] += (((answer == label) | (truth == label)) & known).sum()
    assert found["miou"] == pytest.approx(float((right / either).mean()), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(hits / total)
    expected: BoundaryScores = boundary.compute()
    names = ("boundary_f", "boundary_f_pooled", "boundary_f_any", "boundary_f_any_pooled")
    assert [found[name] for name in names] == [float(value) for value in expected[:4]]
    assert found["boundary_iou"] == float(band.compute().nanmean())
    assert found["boundary_tolerance_px"] == 1
    others = {"miou", "pixel_accuracy", "class_accuracy", "boundary_iou", "boundary_tolerance_px"}
    assert set(found) == {*names, *others}


def test_an_image_that_cannot_be_read_has_no_part_in_the_scores(tmp_path: Path) -> None:
    learned = objective()
    subject = Subject(learned.encoder, learned.predict, learned)
    whole = evaluation(tmp_path, None)
    both, alone = whole(subject), evaluation(tmp_path, None, rows=[0])
    expected = alone(subject)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:99])
    damaged = evaluation(tmp_path, None)
    assert damaged(subject) == expected != both
    bounds = (one.evaluators[0].baselines()["bound"] for one in (damaged, alone))
    assert next(bounds) == next(bounds)


def truths(folder: Path) -> Tensor:
    """The labeled pixels of all images, flat."""
    maps = [torch.from_numpy(np.array(Image.open(folder / f"map{at}.png"))).long() for at in range(2)]
    return torch.cat([labels[labels != 255] for labels in maps])


def test_class_255_of_300_is_scored() -> None:
    truth = torch.tensor([[[255, 255, 299, -1], [255, 255, 299, -1]]])
    scored = ScoredMaps(300)
    scored.update(torch.tensor([[[255, 299, 299, 0], [255, 255, 299, 0]]]), truth)
    overlap, boundary, named = scored.compute()
    assert overlap.pixels[[255, 299]].tolist() == [4, 2]
    assert named["miou"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert boundary.points[[255, 299]].tolist() == [1, 1]
    assert "boundary_iou" in named


def test_baselines_are_those_of_constant_and_of_random_answers(tmp_path: Path) -> None:
    measured, learned = evaluation(tmp_path, None), objective()
    assert measured.baselines()["majority"] == measured.baselines()["chance"] == {}
    measured(Subject(learned.encoder, learned.predict, learned))
    truth = truths(tmp_path)
    counts = truth.bincount(minlength=3)
    constant = {"miou": counts.max() / len(truth) / 3, "pixel_accuracy": counts.max() / len(truth)}
    assert measured.baselines()["majority"] == pytest.approx(
        {
            **{name: float(value) for name, value in constant.items()},
            "class_accuracy": 1 / 3,
            **dict.fromkeys(BOUNDARY, 0.0),
        }
    )
    draw, metric = torch.Generator().manual_seed(0), MeanIoU(3)
    for _ in range(50):
        metric.update(torch.randint(3, truth.shape, generator=draw), truth)
    guessed = metric.compute()
    assert measured.baselines()["chance"]["miou"] == pytest.approx(float(guessed.mean_iou), abs=5e-3)
    assert measured.baselines()["chance"]["pixel_accuracy"] == pytest.approx(1 / 3)
    assert measured.baselines()["chance"]["class_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("windows", [None, Windows(32, 16), Windows(32, 16, once=True)])
def test_the_bound_gives_each_superpixel_its_most_frequent_class(
    tmp_path: Path, windows: Windows | None
) -> None:
    """Where the whole image has one partition."""
    measured, learned = evaluation(tmp_path, windows), objective()
    (maps,) = measured.evaluators
    assert isinstance(maps, ClassMaps)
    measured(Subject(learned.encoder, learned.predict, learned))
    if windows is not None and not windows.once:
        assert maps.baselines()["bound"] == {}
        return
    right = total = 0
    for at in range(2):
        with Image.open(tmp_path / f"{at}.png") as image, Image.open(tmp_path / f"map{at}.png") as labels:
            pixels = WholeView(32).crop_labels(image, None)[0].image[None]
            truth = np.array(labels)
        segments = measured.superpixels(pixels)[0].numpy()
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new)
            for new, old in zip(truth.shape, segments.shape, strict=True)
        )
        segments = segments[rows[:, None], columns]
        for label in np.unique(segments):
            known = truth[(segments == label) & (truth != 255)]
            right, total = right + np.bincount(known, minlength=1).max(), total + len(known)
    assert maps.baselines()["bound"]["pixel_accuracy"] == pytest.approx(right / total)
    for name in ("miou", "boundary_f"):
        assert maps.baselines()["bound"][name] > maps.baselines()["majority"][name]


def test_a_model_without_superpixels_has_no_bound(tmp_path: Path) -> None:
    measured = evaluation(tmp_path, Windows(32, 32, once=True))
    (maps,) = measured.evaluators
    assert isinstance(maps, ClassMaps)
    learned = Segmentation(create("timm:test_vit", image_size=32), TREE)
    measured(Subject(learned.encoder, learned.predict, learned))
    assert maps.baselines()["bound"] == {}
    assert maps.baselines()["majority"]


def test_one_class_of_pixels_is_refused_before_training(tmp_path: Path) -> None:
    data = replace(images(tmp_path), pixel_tree=LabelTree.flat(("person",)))
    superpixels = build("superpixels", "seeds:count=64,bins=5,iterations=4")
    with pytest.raises(ConfigError, match=r"at least 2 classes of pixels, got 1, .* make the"):
        Evaluation(data, data, superpixels, CenterView(32), [ClassMaps()])


def test_other_classes_and_objectives_are_refused(tmp_path: Path) -> None:
    measured, learned = evaluation(tmp_path, None), objective(LabelTree.flat(("a", "b")))
    with pytest.raises(ConfigError, match="2 classes were learned, but the held-out images have 3"):
        measured(Subject(learned.encoder, learned.predict, learned))
    with pytest.raises(ConfigError, match="needs the objective segmentation"):
        measured(Subject(learned.encoder))
