"""An evaluation as a whole, on small generated images with labels and masks."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import ImageFile
from torch import Tensor, nn

from castssl import distributed
from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.data.views import Augment, TwoViews
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.datasets.stream import Stream
from castssl.errors import DataError
from castssl.evaluation import matching
from castssl.evaluation.class_maps import ClassMaps
from castssl.evaluation.classification import Accuracy
from castssl.evaluation.collapse import Collapse
from castssl.evaluation.figure_ground import FigureGround
from castssl.evaluation.free_grained import FreeGrained
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, Subject
from castssl.evaluation.knn import Knn
from castssl.evaluation.label_attention import AttentionOnObject
from castssl.evaluation.label_paths import LabelPaths
from castssl.evaluation.many_labels import ManyLabels
from castssl.evaluation.matching import Matching
from castssl.evaluation.neighbors import Neighbors
from castssl.evaluation.overlap import Overlap
from castssl.evaluation.predictions import Predictions
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.deit import DeiT
from castssl.superpixels.grid import Grid
from castssl.testing.processes import together
from castssl.types import View
from tests.evaluation import (
    test_class_maps,
    test_classification,
    test_label_attention,
    test_label_paths,
    test_many_labels,
)
from tests.evaluation.toys import Colors, evaluation, subject

SIZES = (16, 8, 4, 2)
MEASURES = ("object_iou", "region_iou", "part_iou")


def nano() -> Encoder:
    torch.manual_seed(0)
    return create("nano", image_size=32, sizes=SIZES[:3])


def frozen(**options: Any) -> list[Evaluator]:
    """The evaluators of an encoder."""
    return [Matching(views=TwoViews(32), **options), Knn(**options), Overlap(SIZES, **options)]


def test_results_are_shares_and_repeat_exactly(image_folder: Path) -> None:
    encoder, evaluated = nano(), evaluation(image_folder, *frozen(), batch_size=8)
    found = evaluated(Subject(encoder))
    assert list(found)[:2] == ["match", "knn"]
    by_size = (f"{name}_{k}" for name in MEASURES for k in SIZES)
    assert set(found) == {"match", "knn", "nestedness", *by_size}
    assert all(0 <= value <= 1 for value in found.values())
    assert evaluated(Subject(encoder)) == found
    assert encoder.training


def test_the_chance_level_is_one_in_so_many(image_folder: Path) -> None:
    evaluated = evaluation(image_folder, *frozen())
    chance = evaluated.baselines()["chance"]
    assert chance["knn"] == 1 / 8
    assert chance["match"] == 1 / 8
    # Without merging, the best cell of a grid covers what any encoder's first stage covers.
    found = evaluated(Subject(nano()))
    assert set(found) == {*chance, "nestedness"}
    for name in ("object_iou_16", "region_iou_16", "part_iou_16"):
        assert chance[name] == pytest.approx(found[name])
    assert chance["region_iou_16"] > chance["region_iou_2"]
    assert chance["region_iou_16"] > chance["part_iou_16"]


def test_broken_images_do_not_end_the_evaluation_and_are_known_to_the_run(
    image_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "broken"
    shutil.copytree(image_folder, root)
    broken = [next((root / split).rglob("*.png")) for split in ("train", "val")]
    for path in broken:
        path.write_bytes(b"")
    train = open_images(f"folder:{root}")
    val = open_images(f"folder:{root}", split="val")
    val.bad = train.bad
    evaluated = Evaluation(train, val, Grid(8), CenterView(32), frozen(), batch_size=8)
    assert set(evaluated(Subject(nano()))) >= {"match", "knn", "object_iou_16"}
    assert sorted(train.bad) == sorted(map(str, broken))


def test_other_masks_may_be_given(image_folder: Path, tmp_path: Path) -> None:
    """As PartImageNet's, which know some of the training images and no held-out one."""
    shape = {"size": [32, 32], "counts": [0, 512, 512]}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "meadow/butterfly/0005.png", "width": 32, "height": 32}],
        "categories": [{"id": 0, "name": "left"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "segmentation": shape}],
    }
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content))
    evaluated = evaluation(image_folder, Overlap((16,), path))
    assert evaluated.evaluators[0].images() == ()
    chance = evaluated.baselines()["chance"]
    assert set(chance) == {f"{name}_16" for name in MEASURES}
    assert set(evaluated(Subject(nano()))) == {*chance, "nestedness"}
    assert chance["object_iou_16"] == pytest.approx(1 / 8)
    assert chance["region_iou_16"] == chance["part_iou_16"] == 1
    content["images"][0]["file_name"] = "other.png"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="know none of the images"):
        evaluation(image_folder, Overlap((16,), path))


def test_without_held_out_images_nothing_is_measured(image_folder: Path) -> None:
    images = open_images(f"folder:{image_folder}")
    evaluated = Evaluation(images, None, Grid(8), CenterView(32), [Accuracy(), LabelPaths(), *frozen()])
    assert evaluated(Subject(nano())) == {}
    assert evaluated.baselines() == {"majority": {}, "chance": {}}
    assert evaluated.tree.levels == 0


class Unread(Stream):
    """A stream that nothing is read from."""

    def __init__(self) -> None:
        self.tree = LabelTree(sizes=(8,))

    def __len__(self) -> int:
        return 1


def test_only_what_needs_no_index_is_measured_on_a_stream(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = open_images(f"folder:{image_folder}")
    stream = Unread()
    evaluated = Evaluation(images, stream, Grid(8), CenterView(32), [Accuracy(), *frozen()])
    assert [type(one) for one in evaluated.evaluators] == [Accuracy]
    assert "matching, kNN, IoU are not measured" in capsys.readouterr().err


def test_what_was_not_due_is_measured_at_the_end(image_folder: Path) -> None:
    accuracy, knn = Accuracy(every=1), Knn(every=2)
    evaluated = evaluation(image_folder, accuracy, knn)
    due = evaluated.due(lambda every: every == 1)
    assert due == [accuracy]
    objective = test_classification.toy()
    before = evaluated.update(subject(objective), due)
    assert set(before) == {"top1", "top5", "top1_balanced"}
    calls = Counter[str]()

    def predict(view: View) -> Mapping[str, Tensor]:
        calls["predict"] += 1
        return objective.predict(view)

    found = evaluated.finish(Subject(Colors(), predict, objective))
    assert list(found) == ["top1", "top5", "top1_balanced", "knn"]
    assert {name: found[name] for name in before} == before
    assert not calls


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """How often each image was decoded, and each view segmented, by name and by pixels."""
    counts = Counter[Any]()
    decode, segment = ImageFile.ImageFile.load, Grid.__call__

    def decoded(self: ImageFile.ImageFile) -> Any:
        if self.tile:  # Else its pixels are there.
            counts[getattr(self.fp, "name", "")] += 1
        return decode(self)

    def segmented(self: Grid, images: Tensor) -> Tensor:
        for image in images:
            counts[image.numpy().tobytes()] += 1
        return segment(self, images)

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    monkeypatch.setattr(Grid, "__call__", segmented)
    return counts


def deit(encoder: Encoder | None = None) -> tuple[Subject, Counter[str]]:
    """What deit_in1k evaluates, and how many views its encoder has seen."""
    encoder, seen = encoder or nano(), Counter[str]()
    objective = DeiT(encoder, LabelTree(sizes=(4, 8), parents=((0, 0, 1, 1, 2, 2, 3, 3),)))

    def count(module: nn.Module, args: tuple[View, ...]) -> None:
        seen["views"] += len(args[0].image)

    cast(nn.Module, encoder).register_forward_pre_hook(count)
    return Subject(encoder, partial(objective.predict, branch="base"), objective), seen


def once(image_folder: Path, counted: Counter[Any], evaluators: Sequence[Evaluator]) -> None:
    """Evaluate, and see that no image is decoded, no view segmented, and none encoded twice."""
    evaluated = evaluation(image_folder, *evaluators)
    assert isinstance(evaluated.held_out, Images)
    counted.clear()
    measured, seen = deit()
    evaluated(measured)
    both = [cast(Images, images) for images in (evaluated.train, evaluated.held_out)]
    names = [images.source.path(int(row)) for images in both for row in images.rows]
    files = {name: count for name, count in counted.items() if isinstance(name, str)}
    assert files == dict.fromkeys(names, 1)
    views = {name: count for name, count in counted.items() if not isinstance(name, str)}
    matched = [one for one in evaluators if isinstance(one, Matching)]
    assert sum(views.values()) == len(names) + 2 * len(matched) * len(evaluated.held_out)
    assert set(views.values()) == {1}
    # A CAST segments by a pass of its own, through all stages.
    assert seen["views"] == sum(views.values())


def test_each_image_is_decoded_segmented_and_encoded_once(image_folder: Path, counted: Counter[Any]) -> None:
    """All share the center view but matching, which has two random views of the same decoded image."""
    once(image_folder, counted, [Accuracy(), Knn()])
    once(image_folder, counted, [Accuracy(), *frozen()])


def test_the_count_notices_a_pass_for_each_evaluator(
    image_folder: Path, counted: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(self: Evaluation, due: Sequence[Evaluator]) -> list[tuple[None, tuple[Augment, ...]]]:
        return [(None, (one.views or self.view,)) for one in due]

    monkeypatch.setattr(Evaluation, "_groups", apart)
    with pytest.raises(AssertionError):
        once(image_folder, counted, [Accuracy(), Knn()])


def test_the_count_notices_a_second_forward_pass(
    image_folder: Path, counted: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forward, "_keep", lambda self, view: lambda *args: None)
    with pytest.raises(AssertionError):
        once(image_folder, counted, [Accuracy(), Knn()])


def test_a_few_images_with_two_views_do_not_change_what_the_others_give(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = evaluation(image_folder, Knn())(Subject(nano()))
    monkeypatch.setattr(matching, "IMAGES", 3)
    both = evaluation(image_folder, Matching(views=TwoViews(32)), Knn())(Subject(nano()))
    assert both["knn"] == alone["knn"]
    assert 3 * both["match"] == pytest.approx(round(3 * both["match"]))


def test_a_compiled_encoder_gives_the_same(image_folder: Path) -> None:
    config = replace(nano().config, depths=(1, 1), sizes=(16, 4))  # Compiling takes a second for each stage.
    measured, _ = deit(create(config))
    evaluated = evaluation(image_folder, Accuracy(), Knn())
    expected = evaluated(measured)
    cast(nn.Module, measured.encoder).compile(backend="eager")
    assert evaluated(measured) == expected


def test_every_evaluator_of_the_house_is_tested_here() -> None:
    """But seven, which have files of their own."""
    kinds = {type(one) for one in (Accuracy(), LabelPaths(), ManyLabels(), *frozen())}
    elsewhere = {AttentionOnObject, ClassMaps, Collapse, FreeGrained, Predictions, FigureGround, Neighbors}
    assert kinds | elsewhere == set(Evaluator.__subclasses__())


def results(image_folder: str | Path) -> dict[str, float]:
    """Of all evaluators."""
    classes = evaluation(image_folder, Accuracy(), Matching(views=TwoViews(32)), Knn())
    paths = evaluation(image_folder, LabelPaths(hie=True))
    toy = test_classification.toy()
    found = classes(Subject(Colors(), toy.predict, toy)) | paths(subject(test_label_paths.toy()))
    overlap = evaluation(image_folder, Overlap(SIZES))
    found |= overlap(Subject(nano()))
    baselines = {**overlap.baselines(), **classes.baselines()}
    return found | {f"{kind} {name}": value for kind in baselines for name, value in baselines[kind].items()}


@pytest.mark.distributed
def test_two_processes_count_each_image_once(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path / "cache"))
    attention = test_label_attention.measured()
    many = [test_many_labels.measured(image_folder), test_many_labels.padded(image_folder, 0, 1)]
    alone = [*class_maps(tmp_path), *many, attention]
    together(as_one_of_two, str(image_folder), str(tmp_path))
    assert [torch.load(tmp_path / f"maps{rank}.pt") for rank in range(2)] == [alone, alone]
    # 8 images: of the batches of 2 x 5, one rank has 4 and the other 4; alone, one has 5 and then 3.
    one = results(image_folder) | test_label_paths.padded(0, 1, batch=9)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [one, one]
    assert 0 < one["fpa"] < one["level0"] < 1
    assert 0 < one["fpa_padded"] < one["level0_padded"] < 1
    assert 0 < one["top1"] < one["top5"]
    assert {"knn", "match", "object_iou_16", "pixels knn", "neighbors region_iou_2"} <= one.keys()


def class_maps(folder: Path) -> list[dict[str, float]]:
    """Results and baselines of three images with label maps, of which one process has one, or none."""
    found = []
    for images in ([0, 1, 0], [1]):
        measured, learned = test_class_maps.evaluation(folder, None, images), test_class_maps.objective()
        found.append(measured(Subject(learned.encoder, learned.predict, learned)))
        found += measured.baselines().values()
    return found


def as_one_of_two(rank: int, image_folder: str, folder: str) -> None:
    """What each of the two processes does."""
    assert distributed.world() == 2
    found = [*class_maps(Path(folder)), test_many_labels.measured(Path(image_folder))]
    found += [test_many_labels.padded(Path(image_folder), rank, 2), test_label_attention.measured()]
    torch.save(found, Path(folder) / f"maps{rank}.pt")
    torch.save(results(image_folder) | test_label_paths.padded(rank, 2), Path(folder) / f"{rank}.pt")
