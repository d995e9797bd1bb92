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

from castssl.contracts import Encoder, LabelMaps, Model, Objective, Pooling, Superpixels, Target, Visit
from castssl.datasets import (
    DataError,
    DataSet,
    Files,
    Item,
    Listing,
    NoSplit,
    Turn,
    Unreadable,
    many_labels,
    multi_hot,
    read_text,
)
from castssl.encoder_config import EncoderConfig
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.segmentation import masked_cross_entropy
from castssl.pooling.arithmetic import check_size, gather, highest, weighted_mean
from castssl.segmenter import Segmenter, check_image, consecutive
from castssl.superpixels.per_image import per_image
from castssl.testing.samples import SampleEncoder, SamplePyramid
from castssl.tokens.inputs import check_view
from castssl.types import Batch, Hierarchy, LabelAttention, Outcome, Pooled, Tokens, View


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
        index = self.heaviest(tokens.mass, size)
        space = F.normalize(self.space(tokens.x).float(), dim=-1)
        logits = (5 * space @ gather(space, index).transpose(1, 2)).float()
        absent = tokens.mass.gather(1, index) <= 0
        assign = logits.masked_fill(absent[:, None], -torch.inf).softmax(-1)
        return assign * (tokens.mass > 0)[..., None]

    def heaviest(self, mass: Tensor, size: int) -> Tensor:
        return highest(mass, size)


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


class PixelClassifier(Objective):
    """Objective: a head names the class of each finest token, and so of its pixels."""

    target: Target = "map"
    model: Headed

    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__()
        width = encoder.stage_dims[0] + encoder.dim
        head = nn.Linear(width, labels.sizes[-1] if labels.levels else 1)
        self.model = Headed(encoder, head=head)

    def forward(self, batch: Batch) -> Outcome:
        if len(batch.views) != self.views:
            raise ValueError(f"expected {self.views} view, got {len(batch.views)}")
        if batch.target.dtype != torch.int64:
            raise ValueError(f"expected int64 maps, got {batch.target.dtype}")
        if batch.target.dim() != 3:
            raise ValueError(f"expected maps (B, H, W), got shape {tuple(batch.target.shape)}")
        return Outcome(self.loss(self.predict(batch.views[0])["pixels"], batch.target), {})

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return masked_cross_entropy(logits, target)

    def predict(self, view: View) -> Mapping[str, Tensor]:
        hierarchy = self.model.encoder(view)
        tokens = hierarchy.stages[0].x
        cls = hierarchy.stages[-1].cls.expand(-1, tokens.shape[1], -1)
        logits = self.model.head(torch.cat([tokens, cls], -1)).transpose(1, 2)
        at = hierarchy.labels(0).flatten(1)[:, None].expand(-1, logits.shape[1], -1)
        return {"pixels": logits.gather(2, at).unflatten(2, view.segments.shape[1:])}


class Tagger(Objective):
    """Objective: a head scores each of many labels by itself."""

    target: Target = "multihot"
    model: Headed

    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__()
        self.classes = sum(labels.sizes)
        self.model = Headed(encoder, head=nn.Linear(encoder.dim, max(self.classes, 1)))

    def forward(self, batch: Batch) -> Outcome:
        if len(batch.views) != self.views:
            raise ValueError(f"expected {self.views} view, got {len(batch.views)}")
        if batch.target.dtype != torch.float32:
            raise ValueError(f"expected float32 targets, got {batch.target.dtype}")
        if batch.target.shape[1] != self.classes:
            raise ValueError(f"expected {self.classes} labels, got {batch.target.shape[1]}")
        return Outcome(self.loss(self.predict(batch.views[0])["labels"].float(), batch.target), {})

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        known = target >= 0
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return losses.where(known, 0).sum() / known.sum().clamp(min=1)

    def predict(self, view: View) -> Mapping[str, Tensor]:
        return {"labels": self.model.head(self.model.feature(view))}


class Attends(Tagger):
    """Objective: each label attends to the tokens of each stage."""

    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        super().__init__(encoder, labels)
        if labels.exclusive:
            raise ConfigError("labels that exclude each other do not attend")
        queries = (nn.Linear(dim, self.classes, bias=False) for dim in encoder.stage_dims)
        self.model.add_module("queries", nn.ModuleList(queries))

    def predict(self, view: View) -> Mapping[str, Tensor]:
        logits, attention = super().predict(view)["labels"], self.attend(view)
        seen = zip(attention.weights, attention.hierarchy.stages, strict=True)
        return {"labels": logits + sum((weights @ stage.x).mean(-1) for weights, stage in seen)}

    def label_attention(self, view: View) -> LabelAttention | None:
        return self.attend(view)

    def attend(self, view: View) -> LabelAttention:
        hierarchy, queries = self.encoder(view), self.model.get_submodule("queries")
        assert isinstance(queries, nn.ModuleList)
        pairs = zip(queries, hierarchy.stages, strict=True)
        weights = [self.weigh(query(stage.x).float(), stage.mass) for query, stage in pairs]
        return LabelAttention(hierarchy, tuple(weights))

    def weigh(self, logits: Tensor, mass: Tensor) -> Tensor:
        """The weights (B, C, N) of logits (B, N, C)."""
        return logits.masked_fill(mass[..., None] <= 0, -torch.inf).softmax(1).transpose(1, 2)


class Labels(DataSet):
    """Data set: a folder with lists of images and their label paths."""

    location = "/folder"
    splits: tuple[str, ...] = ("train", "val")
    refusal = DataError

    def open(self, location: str, split: str) -> Listing:
        root = Path(location)
        if self.lacks(root, split):
            raise NoSplit(f"{root} has no {split} split")
        rows, tree = self.rows(root / f"{split}.txt"), self.classes(root, split)
        return Listing(Files(root, [name for name, _ in rows]), tree.number(_paths(rows)), tree)

    def lacks(self, root: Path, split: str) -> bool:
        return root.exists() and not (root / f"{split}.txt").exists()

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


class Maps(DataSet):
    """Data set: a folder of images, each with a label map beside it."""

    location = "/folder"
    splits = ("train", "val")
    target: Target = "map"
    size = (24, 20)
    values: tuple[int, ...] = (0, 1, 2, 255)

    def open(self, location: str, split: str) -> Listing:
        root = Path(location)
        if not (root / f"{split}-0.png").is_file():
            raise NoSplit(f"{root} has no {split} split")
        images, maps = (Files(root, [f"{split}-{n}{end}.png" for n in range(3)]) for end in ("", "-map"))
        labels = LabelMaps(maps, {0: 0, 1: 1, 2: 2, 255: -1}, ((0, 0, 0), (9, 9, 9), (5, 0, 0)))
        return Listing(images, torch.empty(3, 0, dtype=torch.int64), self.classes(), maps=labels)

    def classes(self) -> LabelTree:
        return LabelTree.flat(("sky", "road", "car"))

    def example(self, folder: Path) -> str:
        values = np.resize(np.array(self.values, dtype=np.uint8), self.size[::-1])
        for split in self.splits:
            for number in range(3):
                Image.new("RGB", (24, 20), (40 * number, 90, 0)).save(folder / f"{split}-{number}.png")
                Image.fromarray(values).save(folder / f"{split}-{number}-map.png")
        return str(folder)


class Tags(Labels):
    """Data set: a folder with lists of images and their labels at two levels, some of them unknown."""

    target: Target = "multihot"

    def open(self, location: str, split: str) -> Listing:
        root = Path(location)
        if self.lacks(root, split):
            raise NoSplit(f"{root} has no {split} split")
        rows = self.rows(root / f"{split}.txt")
        kinds, species = zip(*_paths(rows), strict=True)
        levels = ("animal", "plant"), ("cat", "oak", "birch")
        coarse, fine = (
            multi_hot([(kind, "plant") for kind in kinds], levels[0]),
            self.fine(species, levels[1]),
        )
        tree = many_labels(*levels, parents=[(0, 1, 1)])
        return Listing(Files(root, [name for name, _ in rows]), torch.cat((coarse, fine), 1), tree)

    def fine(self, species: tuple[str, ...], names: tuple[str, ...]) -> Tensor:
        return multi_hot([(name,) for name in species], names, [("oak",)] * len(species))


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


class Widening(SamplePyramid):
    """Encoder: the samples' own of several widths, of a config."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = replace(config, sizes=self.sizes, dim=self.dim, pooling="")

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        check_view(view)
        found = super().visit_blocks(view, visit)
        return found._replace(assigns=tuple(map(self.number, found.assigns)))

    def number(self, assign: Tensor) -> Tensor:
        """The token of the next stage that each token passes to."""
        return assign


class Tones(Segmenter):
    """Segmenter: eight bands of brightness, then four, then two."""

    nested = True

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        check_image(image)
        return consecutive(self.bands(image))

    def bands(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        brightness = image.mean(2).astype(np.int64)
        return np.stack([brightness >> bits for bits in (5, 6, 7)])
