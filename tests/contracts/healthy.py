"""One small subject of each kind that keeps every promise; the mutants differ from it in one thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Model, Objective, Pooling, Superpixels, Target
from castssl.datasets import DataError, DataSet, Files, Item, Listing, Turn, Unreadable, read_text
from castssl.encoder_config import EncoderConfig
from castssl.pooling.arithmetic import check_size, gather, weighted_mean
from castssl.superpixels.per_image import per_image
from castssl.testing.samples import SampleEncoder
from castssl.tokens.inputs import check_view
from castssl.types import Batch, Hierarchy, LabelTree, Outcome, Pooled, Tokens, View


class Bands(Superpixels):
    """Superpixels: pixels of like brightness."""

    count: int

    def __init__(self, count: int = 32) -> None:
        self.count = count

    def capacity(self, height: int, width: int) -> int:
        return self.count

    def __call__(self, images: Tensor) -> Tensor:
        return per_image(self.partition)(images)

    def partition(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        brightness: NDArray[np.int64] = image.sum(-1, dtype=np.int64)
        return brightness * self.count // 766


class Heaviest(Pooling):
    """Pooling: soft assignment to the heaviest tokens in a learned space."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.space = nn.Linear(dim, dim)

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        check_size(tokens, size)
        assign = self.assign(tokens, size)
        return Pooled(weighted_mean(tokens.x, assign), tokens.cls, assign)

    def assign(self, tokens: Tokens, size: int) -> Tensor:
        index = tokens.mass.topk(size).indices
        space = F.normalize(self.space(tokens.x).float(), dim=-1)
        logits = (5 * space @ gather(space, index).transpose(1, 2)).float()
        absent = tokens.mass.gather(1, index) <= 0
        assign = logits.masked_fill(absent[:, None], -torch.inf).softmax(-1)
        return assign * (tokens.mass > 0)[..., None]


class Headed(Model):
    """What the objective trains."""

    head: nn.Linear


class Classifier(Objective):
    """Objective: a head names the finest label, and stays near its slow moving average."""

    target: Target = "path"
    model: Headed
    progress: Tensor

    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__()
        self.width = labels.levels
        head = nn.Linear(encoder.dim, labels.sizes[-1] if labels.levels else 1)
        self.model = Headed(encoder, head=head)
        self.average = deepcopy(head).requires_grad_(False)
        self.register_buffer("progress", torch.zeros(()))

    def forward(self, batch: Batch) -> Outcome:
        self.validate(batch)
        cls = self.read(batch.views[0])
        logits = self.model.head(cls).float()
        loss = F.cross_entropy(logits, batch.target[:, -1])
        near = F.mse_loss(logits, self.average(cls).float())
        return Outcome(loss + 0.1 * (1 - self.progress) * near, {"near": near.detach()})

    def validate(self, batch: Batch) -> None:
        if len(batch.views) != self.views:
            raise ValueError(f"expected {self.views} view, got {len(batch.views)}")
        if batch.target.dtype != torch.int64:
            raise ValueError(f"expected int64 labels, got {batch.target.dtype}")
        if batch.target.shape[1] != self.width:
            raise ValueError(f"expected {self.width} label levels, got {batch.target.shape[1]}")

    def read(self, view: View) -> Tensor:
        return self.model.feature(view)

    def after_step(self, progress: float) -> None:
        self.progress.fill_(progress)
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.model.head.parameters(), strict=True):
                slow.lerp_(fast, 0.1)

    def predict(self, view: View) -> Mapping[str, Tensor]:
        return {"finest": self.model.head(self.read(view))}


class Labels(DataSet):
    """Data set: a folder with lists of images and their label paths."""

    location = "/folder"
    splits: tuple[str, ...] = ("train", "val")
    refusal = DataError

    def open(self, location: str, split: str) -> Listing:
        root = Path(location)
        rows, tree = self.rows(root / f"{split}.txt"), self.classes(root, split)
        return Listing(Files(root, [name for name, _ in rows]), tree.number(_paths(rows)), tree)

    def classes(self, root: Path, split: str) -> LabelTree:
        return LabelTree.from_paths(_paths(self.rows(root / "train.txt")))

    def rows(self, path: Path) -> list[tuple[str, str]]:
        name, _, label = zip(*(line.partition(" ") for line in read_text(path).splitlines()), strict=True)
        return list(zip(name, label, strict=True))

    def example(self, folder: Path) -> str:
        for split in self.splits:
            lines = [f"{split}-{n}.png {('animal/cat', 'plant/oak', 'plant/birch')[n % 3]}" for n in range(6)]
            (folder / f"{split}.txt").write_text("\n".join(lines))
            for number, line in enumerate(lines):
                Image.new("RGB", (24, 20), (40 * number, 90, 0)).save(folder / line.partition(" ")[0])
        return str(folder)


def _paths(rows: list[tuple[str, str]]) -> list[list[str]]:
    return [label.split("/") for _, label in rows]


class Reel:
    """The images of a listing in order, as a stream."""

    lost: list[Unreadable] = []  # noqa: RUF012
    first = 0

    def __init__(self, files: list[str], labels: list[int], classes: tuple[str, ...]) -> None:
        self.files, self.labels, self.classes = files, labels, classes
        self.length = len(files)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.files, self.labels, self.classes))

    def workers(self, world: int) -> int | None:
        return None

    def items(self, turn: Turn) -> Iterator[Item]:
        reader, readers = turn.rank * turn.workers + turn.worker, turn.world * turn.workers
        for file, label in list(zip(self.files, self.labels, strict=True))[reader::readers]:
            yield Item(file, partial(_open, file), label + self.first)


def _open(file: str) -> IO[bytes]:
    return open(file, "rb")


class Frames(DataSet):
    """Data set: the same as a stream of one level."""

    location = "/folder"
    splits = ("train", "val")
    indexed = False

    def open(self, location: str, split: str) -> Reel:
        found = Labels().open(location, split)
        files = [found.source.path(row) for row in range(len(found.source))]
        return Reel(files, found.targets[:, -1].tolist(), found.tree.names[-1])

    def example(self, folder: Path) -> str:
        return Labels().example(folder)


class Pairs(SampleEncoder):
    """Encoder: the samples' own, of a config."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = replace(config, sizes=self.sizes, dim=self.dim, pooling="")

    def forward(self, view: View) -> Hierarchy:
        check_view(view)
        return super().forward(view)
