from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from castssl.data.augment import CenterView
from castssl.data.loader import EpochBatches, load
from castssl.datasets.open import open_images
from castssl.encoder_config import EncoderConfig
from castssl.evaluation import neighbours
from castssl.evaluation.neighbours import features, knn, match
from castssl.superpixels.grid import Grid
from castssl.testing.processes import together
from castssl.types import Batch, Hierarchy, Tokens, View


class Toy(nn.Module):
    """An encoder that would answer differently in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 6
        self.sizes: tuple[int, ...] = (4, 4)
        self.config = EncoderConfig("toy")
        self.project = nn.Linear(3, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)

    def forward(self, view: View) -> Hierarchy:
        cls = self.drop(self.norm(self.project(view.image.mean((2, 3))))).unsqueeze(1)
        rows, size = len(cls), self.sizes[0]
        stage = Tokens(torch.zeros(rows, size, self.dim), torch.zeros_like(cls), torch.ones(rows, size))
        assign = torch.eye(size).expand(rows, -1, -1)
        return Hierarchy(view.segments, (stage, stage._replace(cls=cls)), (assign,))


class Shares:
    """A loader that yields the images of ``batches`` in turn."""

    def __init__(self, batches: Iterable[Sequence[int]], *, count: int = 23, numbered: bool = True) -> None:
        self.shares = batches
        self.batches = batches if numbered else None
        rng = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=rng)
        self.paths = torch.stack([torch.arange(count) // 5, torch.arange(count)], 1)

    def __iter__(self) -> Iterator[Batch]:
        for share in self.shares:
            rows = torch.tensor(list(share))
            images = self.images[rows]
            yield Batch([View(images, Grid(4)(images))], self.paths[rows])


def encoder() -> Toy:
    torch.manual_seed(0)
    return Toy()


def split(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def test_features_are_the_last_class_token_in_evaluation_mode() -> None:
    toy, loader = encoder(), Shares(split(23, 5))
    toy.norm.eval()
    rows, paths = features(toy, loader, Grid(4), "cpu")
    assert (rows.dtype, rows.shape) == (torch.float32, (23, 6))
    assert torch.equal(paths, loader.paths)
    assert (toy.training, toy.project.training, toy.norm.training) == (True, True, False)
    assert not rows.requires_grad
    alone, _ = features(toy, Shares([[7]]), Grid(4), "cpu")
    torch.testing.assert_close(rows[7], alone[0])


def test_features_are_sorted_and_each_image_counts_once() -> None:
    whole, paths = features(encoder(), Shares(split(23, 5)), Grid(4), "cpu")
    mixed, again = features(encoder(), Shares([[20, 3, 3], [22, 0], [3, 1]]), Grid(4), "cpu")
    chosen = torch.tensor([0, 1, 3, 20, 22])
    assert torch.equal(again, paths[chosen])
    torch.testing.assert_close(mixed, whole[chosen])


SHARES: dict[str, tuple[Iterable[list[int]], Iterable[list[int]]]] = {
    "loaded": (
        EpochBatches(23, 6, rank=0, world=2, drop_last=False),
        EpochBatches(23, 6, rank=1, world=2, drop_last=False),
    ),
    "padded": (
        [[0, 1, 2], [6, 7, 8], [12, 13, 14], [18, 19, 20]],
        [[3, 4, 5], [9, 10, 11], [15, 16, 17], [21, 22, 0]],
    ),
    "uneven": ([list(range(12)), [21, 22]], [list(range(12, 21))]),
    "idle": ([list(range(23))], []),
}


def test_a_stream_gives_all_its_rows_as_they_come() -> None:
    loader = Shares([[5, 2], [2]], numbered=False)
    rows, paths = features(encoder(), loader, Grid(4), "cpu")
    assert torch.equal(paths, loader.paths[[5, 2, 2]])
    torch.testing.assert_close(rows[1], rows[2])


def test_the_real_loader_will_do(tmp_path: Path) -> None:
    for i in range(7):
        folder = tmp_path / "train" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (30 * i, 90, 200 - 20 * i)).save(folder / f"{i}.png")
    images = open_images(f"folder:{tmp_path}")
    loader = load(images, views=CenterView(8), superpixels=Grid(4), batch_size=3, train=False)
    rows, paths = features(encoder(), loader, Grid(4), "cpu")
    assert rows.shape == (7, 6)
    assert paths.squeeze(1).tolist() == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.distributed
def test_two_processes_give_the_features_of_one(tmp_path: Path) -> None:
    together(as_one_of_two, str(tmp_path))
    rows, paths = features(encoder(), Shares(split(23, 6)), Grid(4), "cpu")
    for rank in range(2):
        answers = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert list(answers) == list(SHARES)
        for theirs in answers.values():
            torch.testing.assert_close(theirs["rows"], rows)
            assert torch.equal(theirs["paths"], paths)


def as_one_of_two(rank: int, folder: str) -> None:
    """What each of the two processes does."""
    neighbours.SENT = 5
    answers = {}
    for name, shares in SHARES.items():
        rows, paths = features(encoder(), Shares(shares[rank]), Grid(4), "cpu")
        answers[name] = {"rows": rows, "paths": paths}
    torch.save(answers, Path(folder) / f"{rank}.pt")


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
    """Rows around four centres, of any length, and whose they are."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=rng)
    centres = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    rows = centres[labels] + torch.randn(count, 5, generator=rng)
    return rows * (1 + 9 * torch.rand(count, 1, generator=rng)), labels


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 30), st.sampled_from([0.07, 1.0]))
def test_the_vote_is_that_of_a_loop_over_pairs(seed: int, k: int, temperature: float) -> None:
    train, test = clouds(seed, 25), clouds(seed + 1, 12)
    got = knn(*train, *test, k=k, temperature=temperature, classes=4)
    assert got == pytest.approx(naive_knn(train, test, k, temperature))


def test_the_vote_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = clouds(1, 60), clouds(2, 41)
    whole = knn(*train, *test, classes=4), match(train[0][:41], test[0])
    monkeypatch.setattr(neighbours, "CELLS", 200)
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


def test_matching_counts_rows_that_find_their_own() -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert match(rows, 3 * rows) == 1
    swapped = rows[[1, 0, *range(2, 50)]]
    assert match(rows, swapped) == pytest.approx(0.96)
    assert match(rows, torch.ones(50, 8)) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="one shape"):
        match(rows, rows[:3])
