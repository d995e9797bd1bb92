"""Tiny views, tokens and batches for the checks, and an encoder with no pooling plugin in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder, Need, Target, Visit
from castssl.encoder_config import BY_HAND, EncoderConfig
from castssl.labels import LabelTree
from castssl.types import Batch, DenseTokens, Hierarchy, Tokens, View

DIM = 192
"""Token width of the samples: a multiple of 2, 3, 4, 6, 8, 12 and 64, as heads or as width of a head."""
COUNT = 24
"""Tokens per image."""
PADDED = 6
"""How many of them are padding in the second image."""
SIDE = 32
"""Pixels per side of a sample view; its segments are a grid of 16 squares."""

TREES = (
    LabelTree.none(),
    LabelTree.flat(("ant", "bee", "cat", "dog")),
    LabelTree((2, 4), ((0, 0, 1, 1),)),
    LabelTree((4,), exclusive=False),
)
"""One label tree for each sort of target: none, one level, two levels, multi-hot."""


def pixels(batch: int = 2, height: int = SIDE, width: int = SIDE, *, seed: int = 0) -> Tensor:
    """Images with regions and some noise: uint8 (B, 3, H, W)."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 4, generator=draw)
    regions = F.interpolate(coarse, (height, width), mode="bilinear") * 215
    noise = torch.rand(batch, 3, height, width, generator=draw) * 40
    return (regions + noise).to(torch.uint8)


def view(batch: int = 4, *, seed: int = 0, noise: int = 0) -> View:
    """A normalized view; ``noise`` varies the noise of the same images, as an augmentation would."""
    image = pixels(batch, seed=seed).float() / 127.5 - 1
    draw = torch.Generator().manual_seed(1000 + noise)
    image = image + 0.1 * torch.randn(image.shape, generator=draw)
    side = torch.arange(SIDE) // (SIDE // 4)
    grid = (side[:, None] * 4 + side).int()
    return View(image, grid.expand(batch, -1, -1).contiguous())


def class_maps(size: int, classes: int, *, seed: int = 0) -> Tensor:
    """Label maps in which each quarter of an image has a class, beside a margin that is unknown (-1).

    Returns:
        int64 (size, SIDE, SIDE).
    """
    draw = torch.Generator().manual_seed(seed)
    quarters = torch.randint(classes, (size, 2, 2), generator=draw)
    maps = quarters.repeat_interleave(SIDE // 2, 1).repeat_interleave(SIDE // 2, 2)
    maps[..., -2:] = -1
    return maps


def batch(
    views: int,
    tree: LabelTree,
    size: int = 4,
    *,
    seed: int = 0,
    target: Target | None = None,
    text_dim: int = 0,
) -> Batch:
    """A labeled batch of ``size`` images, ``views`` views of each; its target fits ``tree``.

    Args:
        views: of each image.
        tree: the classes.
        size: B.
        seed: of images and labels.
        target: "map" for label maps of the finest classes.
        text_dim: width of the text embeddings, of which every third image has none; 0 for no texts.
    """
    draw = torch.Generator().manual_seed(seed)
    augmented = [view(size, seed=seed, noise=number) for number in range(views)]
    if target == "map":
        return Batch(augmented, class_maps(size, tree.sizes[-1], seed=seed))
    if not tree.exclusive:
        return Batch(augmented, torch.randint(-1, 2, (size, sum(tree.sizes)), generator=draw).float())
    path = [torch.randint(tree.sizes[-1], (size,), generator=draw)] if tree.levels else []
    for parents in reversed(tree.parents):
        path.insert(0, torch.tensor(parents)[path[0]])
    found = torch.stack(path, 1) if path else torch.zeros(size, 0, dtype=torch.int64)
    text = torch.randn(size, text_dim, generator=draw) * (torch.arange(size) % 3 != 2)[:, None]
    return Batch(augmented, found, text if text_dim else None)


def tokens(
    needs: Iterable[Need] = (), *, images: int = 2, padded: int = PADDED, seed: int = 0, dim: int = DIM
) -> Tokens:
    """Random tokens; every image but the first has ``padded`` rows of padding, spread over the rows.

    Args:
        needs: the recordings to include; the others are None, as they are in the model.
        images: B.
        padded: rows of mass 0 in each image but the first.
        seed: of the draw, which leaves the global generator alone.
        dim: D.
    """
    draw = torch.Generator().manual_seed(seed)
    mass = torch.randint(1, 9, (images, COUNT), generator=draw).float()
    # The first row too: a masked argmax over nothing falls back on it.
    empty = torch.arange(COUNT)[:: max(COUNT // max(padded, 1), 1)][:padded]
    mass[1:, empty] = 0
    needs = set(needs)
    return Tokens(
        x=torch.randn(images, COUNT, dim, generator=draw),
        cls=torch.randn(images, 1, dim, generator=draw),
        mass=mass,
        keys=torch.randn(images, COUNT, 16, generator=draw) if "keys" in needs else None,
        received=torch.rand(images, COUNT, generator=draw) * (mass > 0) if "received" in needs else None,
    )


class SampleEncoder(Encoder):
    """A small encoder of three stages (16, 8 and 4 tokens) that merges its tokens in fixed pairs.

    Every parameter has a part in the last class token.
    """

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.dim, self.dense_dim = dim, dim
        self.sizes: tuple[int, ...] = (16, 8, 4)
        self.config = EncoderConfig("sample", (1, 1, 1), self.sizes, dim, pooling=BY_HAND)
        self.embed = nn.Linear(3, dim)
        self.place = nn.Parameter(torch.randn(16, dim) * 0.5)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
            for _ in self.sizes
        )
        self.read = nn.ModuleList(nn.Linear(dim, dim) for _ in self.sizes)

    def forward(self, view: View) -> Hierarchy:
        """Stages of 16, 8 and 4 tokens."""
        mean, mass = _segment_means(view, self.sizes[0])
        # A product with positions: a sum would lose the position of a color in the mean over tokens.
        x = torch.tanh(self.embed(mean)) * self.place
        cls = self.cls.expand(x.shape[0], -1, -1)
        stages: list[Tokens] = []
        assigns: list[Tensor] = []
        for mix, read in zip(self.mix, self.read, strict=True):
            x = x + mix(x)
            cls = cls + read(x).mean(1, keepdim=True)
            stages.append(Tokens(x, cls, mass))
            if len(stages) < len(self.sizes):
                pairs = torch.eye(x.shape[1] // 2, device=x.device).repeat_interleave(2, 0)
                assigns.append(pairs * (mass > 0)[..., None])
                x, mass = (x[:, ::2] + x[:, 1::2]) / 2, mass[:, ::2] + mass[:, 1::2]
        return Hierarchy(view.segments, tuple(stages), tuple(assigns))

    def dense(self, view: View, sizes: Sequence[int] | None = None) -> DenseTokens:
        """The finest tokens, each with its parents at all stages and the last class token added."""
        self.check_sizes(sizes)
        found = self(view)
        x = found.stages[-1].cls
        for at, stage in enumerate(found.stages):
            x = x + stage.x.repeat_interleave(2**at, 1)
        return DenseTokens(x, found.stages[0].mass, found.segments)


class SamplePyramid(Encoder):
    """A small encoder whose stages widen, as those of a convolutional network: 16, 8 and 4 tokens.

    Two blocks a stage, which take updates; tokens merge in fixed pairs, which int64 ``assigns`` tell.  The
    class token of a stage is the mean of its tokens.  Every parameter has a part in the last one.

    Args:
        dims: the width of each of the three stages.
    """

    takes_updates = True

    def __init__(self, dims: tuple[int, int, int] = (8, 16, 32)) -> None:
        super().__init__()
        self.dims, self.dim = dims, dims[-1]
        self.sizes: tuple[int, ...] = (16, 8, 4)
        self.config = EncoderConfig("pyramid", self.visits, self.sizes, self.dim, pooling=BY_HAND)
        self.embed = nn.Linear(3, dims[0])
        self.place = nn.Parameter(torch.randn(16, dims[0]) * 0.5)
        self.widen = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(dims))
        layers = [(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU()) for dim in dims for _ in range(2)]
        self.blocks = nn.ModuleList(nn.Sequential(*of_block) for of_block in layers)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """As they were given."""
        return self.dims

    @property
    def visits(self) -> tuple[int, ...]:
        """Two blocks a stage."""
        return (2,) * len(self.sizes)

    def forward(self, view: View) -> Hierarchy:
        """Stages of 16, 8 and 4 tokens."""
        return self.visit_blocks(view, lambda stage, tokens: tokens.x)

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        """The same; what ``visit`` returns goes on into the next block, and the next stage."""
        mean, mass = _segment_means(view, self.sizes[0])
        x = torch.tanh(self.embed(mean)) * self.place
        stages: list[Tokens] = []
        assigns: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            stage, second = divmod(number, 2)
            if stage and not second:
                pair = torch.arange(mass.shape[1], device=x.device).expand_as(mass) // 2
                assigns.append(pair.masked_fill(mass <= 0, -1))
                x = self.widen[stage - 1]((x[:, ::2] + x[:, 1::2]) / 2)
                mass = mass[:, ::2] + mass[:, 1::2]
            x = x + block(x)
            x = visit(stage, Tokens(x, x.mean(1, keepdim=True), mass))
            if second:
                stages.append(Tokens(x, x.mean(1, keepdim=True), mass))
        return Hierarchy(view.segments, tuple(stages), tuple(assigns))


def _segment_means(view: View, size: int) -> tuple[Tensor, Tensor]:
    """The mean color of each segment, float (B, size, 3), and its pixels, float32 (B, size)."""
    member = F.one_hot(view.segments.flatten(1).long(), size).float()
    mass = member.sum(1)
    mean = member.transpose(1, 2) @ view.image.flatten(2).transpose(1, 2) / mass.clamp(min=1)[..., None]
    return mean, mass
