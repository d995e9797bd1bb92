from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from castssl.data.evaluation_views import CenterView
from castssl.datasets.free_grain import hide_fine
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.evaluation import features
from castssl.evaluation.held_out import Evaluation, Subject
from castssl.evaluation.knn import Knn, knn
from castssl.evaluation.matching import match
from castssl.superpixels.grid import Grid
from tests.evaluation.toys import Colors, evaluation


def test_the_accuracy_is_that_of_a_vote_over_the_training_images(tmp_path: Path) -> None:
    """Colors that any features tell apart; only one held-out image lies in the other class's folder."""
    for split, count in (("train", 7), ("val", 4)):
        for i in range(count):
            folder = tmp_path / split / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            bright = i % 2 if (split, i) != ("val", 3) else 0
            Image.new("RGB", (20, 16), (250 * bright, 90, 250 - 250 * bright)).save(folder / f"{i}.png")
    train, val = (open_images(f"folder:{tmp_path}", split=split) for split in ("train", "val"))
    found = Evaluation(train, val, Grid(4), CenterView(8), [Knn()], batch_size=3)
    toy = Colors()
    assert found(Subject(toy))["knn"] in {0.5, 0.75}
    assert toy.training
    baselines = found.baselines()
    assert baselines == {"majority": {"knn": 0.5}, "chance": {"knn": 0.5}, "pixels": {"knn": 0.75}}
    assert Evaluation(train, val, Grid(4), CenterView(8), [Knn()]).baselines() == baselines


def test_images_of_which_only_coarse_labels_are_known_do_not_vote(image_folder: Path) -> None:
    images, held_out = (open_images(f"folder:{image_folder}", split=split) for split in ("train", "val"))
    assert isinstance(images, Images)
    some, none = (
        Evaluation(hide_fine(images, share), held_out, Grid(8), CenterView(32), [Knn()])(Subject(Colors()))
        for share in (0.5, 1)
    )
    assert "knn" in some
    assert "knn" not in none


@pytest.mark.filterwarnings("ignore:the images in .* have no class folders")
def test_held_out_images_without_labels_are_not_measured(tmp_path: Path) -> None:
    for name in ("train/a/0.png", "train/b/0.png", "val/0.png", "val/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    measured = evaluation(tmp_path, Knn())
    assert measured(Subject(Colors())) == {}
    assert not any(measured.baselines().values())


def test_a_sample_of_the_training_images_votes(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every, sampled = (evaluation(image_folder, Knn(count)) for count in (48, 9))
    assert capsys.readouterr().err.startswith("kNN: 9 of 48 training images vote")
    assert every(Subject(Colors())).keys() == sampled(Subject(Colors())).keys()


def naive_knn(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], k: int, temperature: float) -> float:
    """By the book, one pair at a time."""
    right = 0
    known = list(zip(*(part.tolist() for part in train), strict=True))
    for row, truth in zip(*(part.tolist() for part in test), strict=True):
        near = sorted(((cosine(row, other), label) for other, label in known), reverse=True)[:k]
        votes: dict[int, float] = {}
        for similarity, label in near:
            votes[label] = votes.get(label, 0) + math.exp(similarity / temperature)
        right += max(votes, key=lambda label: votes[label]) == truth
    return right / len(test[1])


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def clouds(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Rows around four centers, of any length, and whose they are."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=rng)
    centers = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    rows = centers[labels] + torch.randn(count, 5, generator=rng)
    return rows * (1 + 9 * torch.rand(count, 1, generator=rng)), labels


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 30), st.sampled_from([0.07, 1.0]))
def test_the_vote_is_that_of_a_loop_over_pairs(seed: int, k: int, temperature: float) -> None:
    train, test = clouds(seed, 25), clouds(seed + 1, 12)
    got = knn(*train, *test, k=k, temperature=temperature, classes=4)
    assert got == pytest.approx(naive_knn(train, test, k, temperature))


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_of_images_that_are_equally_near_the_first_ones_vote(seed: int, k: int) -> None:
    """Corners of a cube: their cosines are exact, and each is many times there."""
    draw = torch.Generator().manual_seed(seed)
    train, test = (torch.randint(2, (count, 4), generator=draw) * 2.0 - 1 for count in (30, 8))
    labels, truth = (torch.randint(3, (count,), generator=draw) for count in (30, 8))
    right = 0
    for row, label in zip(test, truth.tolist(), strict=True):
        cosines = (train @ row / 4).tolist()
        order = sorted(range(30), key=lambda place: -cosines[place])[:k]
        votes = [sum(math.exp(cosines[i] / 0.07) for i in order if labels[i] == one) for one in range(3)]
        best = max(votes)
        right += min(one for one in range(3) if math.isclose(votes[one], best, rel_tol=1e-9)) == label
    assert knn(train, labels, test, truth, k=k, classes=3) == right / 8


def test_the_vote_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = clouds(1, 60), clouds(2, 41)
    whole = knn(*train, *test, classes=4), match(train[0][:41], test[0])
    monkeypatch.setattr(features, "CELLS", 200)
    assert (knn(*train, *test, classes=4), match(train[0][:41], test[0])) == whole
    assert 0.5 < whole[0] < 1


def test_the_vote_knows_its_own_rows_and_nothing_of_noise() -> None:
    rows, labels = clouds(3, 200)
    assert knn(rows, labels, rows, labels, k=1, classes=4) == 1
    noise = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    strangers = torch.arange(400) % 4
    assert knn(rows, labels, noise, strangers, classes=4) == pytest.approx(0.25, abs=0.07)


def test_a_vote_that_cannot_be_held_is_refused() -> None:
    rows, labels = clouds(3, 20)
    with pytest.raises(ValueError, match="choose a level"):
        knn(rows, labels[:, None], rows, labels, classes=4)
    with pytest.raises(ValueError, match=r"\[0, 3\), got 0 to 3"):
        knn(rows, labels, rows, labels, classes=3)
    with pytest.raises(ValueError, match="n > 0"):
        knn(rows[:0], labels[:0], rows, labels, classes=4)
    with pytest.raises(ValueError, match="diverged"):
        knn(rows, labels, rows / 0, labels, classes=4)
