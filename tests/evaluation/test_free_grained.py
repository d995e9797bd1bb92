from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from castssl.checkpoints.classifier import Classifier
from castssl.data.evaluation_views import CenterView
from castssl.data.normalize import normalize
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError
from castssl.evaluation.free_grained import CONFIDENCE, FreeGrained, first_half
from castssl.evaluation.label_paths import LabelPaths
from castssl.inference.predict import label_path
from castssl.metrics.free_grained import Guesses, answer_depths, choose_threshold, measure, summarize
from castssl.objectives.tree_kl import TreeKL
from castssl.testing import samples
from castssl.testing.processes import together
from tests.evaluation.toys import Heads, evaluation, subject
from tests.metrics.test_free_grained import naive
from tests.metrics.trees import BIRDS

SIZES, SEED = (4, 8), 38


def guesses(folder: Path) -> tuple[Images, Guesses]:
    """What the toy predicts for the held-out images, one at a time."""
    objective = Heads(*SIZES, seed=SEED).eval()
    images, view = (
        cast(Images, open_images(f"folder:{folder}", split="val")),
        CenterView(32, interpolation="bicubic"),
    )
    colors = torch.stack([normalize(view(images[i][0])[0]).mean((1, 2)) for i in range(len(images))])
    pairs = [head(colors).detach().softmax(1).max(1) for head in objective.heads]
    probability, predicted = (torch.stack(list(column), 1) for column in zip(*pairs, strict=True))
    return images, Guesses(predicted, probability, images.targets)


def test_a_threshold_is_chosen_on_one_half_and_reported_on_the_other(image_folder: Path) -> None:
    images, given = guesses(image_folder)
    first = first_half([images.name(i) for i in range(len(images))])
    assert 0 < int(first.sum()) < len(images)
    threshold = choose_threshold(images.tree, given.take(first), "both")
    other = given.take(~first)
    assert threshold is not None
    evaluator = FreeGrained()
    found = evaluation(image_folder, LabelPaths(), evaluator)(subject(Heads(*SIZES, seed=SEED).train()))
    assert found["answer_threshold"] == threshold
    assert found["fpa_known"] == pytest.approx(found["fpa"])
    expected: dict[str, float] = {}
    for name, rule, limit in (
        ("consistency", "consistency", 0.0),
        ("confidence", "confidence", CONFIDENCE),
        ("chosen", "both", threshold),
    ):
        depths = answer_depths(images.tree, other, rule, limit)  # type: ignore[arg-type]
        expected |= summarize({name: naive(images.tree, other, depths.tolist())})
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert {name for name in found if name.startswith("answer_")} == {*expected, "answer_threshold"}
    assert {f"risk_area_{rule}" for rule in evaluator.curves} <= found.keys()
    assert found["risk_area_both"] == evaluator.curves["both"].area
    changed = given._replace(target=torch.where(first[:, None], images.tree.paths()[:1], given.target))
    assert measure(
        images.tree, changed.take(~first), answer_depths(images.tree, other, "consistency")
    ) == measure(images.tree, other, answer_depths(images.tree, other, "consistency"))


def test_the_majority_answers_the_most_frequent_path(image_folder: Path) -> None:
    evaluator = FreeGrained()
    evaluation(image_folder, evaluator)(subject(Heads(*SIZES, seed=SEED)))
    images = cast(Images, open_images(f"folder:{image_folder}", split="val"))
    other = ~first_half([images.name(i) for i in range(len(images))])
    paths, often = images.targets.unique(dim=0, return_counts=True)
    path = paths[often.argmax()]
    right = (images.targets == path)[other]
    found = evaluator.majority()
    assert found["answer_consistency_depth_levels"] == len(SIZES)
    assert found["answer_consistency_accuracy"] == pytest.approx(float(right[:, -1].float().mean()))
    apart = 2 * (len(SIZES) - right.sum(1).double().mean())
    assert found["answer_consistency_distance_levels"] == pytest.approx(float(apart))
    # No class is as frequent as 0.9: this rule answers nothing.
    assert found["answer_confidence_depth_levels"] == 0
    assert found["fpa_known"] == pytest.approx(float((images.targets == path).all(1).float().mean()))


def test_halves_depend_on_the_names_alone() -> None:
    names = [f"val/a/{i}.png" for i in range(2000)]
    half = first_half(names)
    assert 900 < int(half.sum()) < 1100
    assert torch.equal(first_half(names[::-1]), half.flip(0))
    assert torch.equal(first_half(names[:10]), half[:10])
    assert first_half(["é", "\udce9"]).dtype == torch.bool


def split(rank: int, folder: str, expected: dict[str, float]) -> None:
    found = evaluation(folder, FreeGrained())(subject(Heads(*SIZES, seed=SEED)))
    assert found == expected


@pytest.mark.distributed
def test_two_processes_have_one_process_s_results(image_folder: Path) -> None:
    expected = evaluation(image_folder, FreeGrained())(subject(Heads(*SIZES, seed=SEED)))
    together(split, str(image_folder), expected)


def test_the_rule_of_both_is_that_of_predict() -> None:
    torch.manual_seed(0)
    objective = TreeKL(samples.SampleEncoder(), BIRDS, order="all-last")
    classifier = Classifier(objective, BIRDS, "grid", 32)
    logits = [4 * torch.randn(40, size) for size in BIRDS.sizes]
    pairs = [scores.softmax(1).max(1) for scores in logits]
    probability, predicted = (torch.stack(list(column), 1) for column in zip(*pairs, strict=True))
    given = Guesses(predicted, probability, torch.full_like(predicted, -1))
    for threshold in (0.0, 0.5, 0.9, 0.99):
        depths = answer_depths(BIRDS, given, "both", threshold).tolist()
        for row, depth in enumerate(depths):
            path = label_path(classifier, [scores[row : row + 1] for scores in logits], threshold)
            assert max((i for i, one in enumerate(path, 1) if one.sure and one.agrees), default=0) == depth
        assert len(set(depths)) > 1


def test_other_levels_are_refused_and_one_level_has_no_answers(image_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"were learned, but the held-out images have \(4, 8\)"):
        evaluation(image_folder, FreeGrained())(subject(Heads(8, 4, seed=SEED)))
