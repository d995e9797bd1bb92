"""Which images make up which batch: a pure function of seed, epoch, step and rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from castssl.errors import ConfigError


class EpochBatches(Sampler[list[int]]):
    """The batches of one epoch on one rank.

    Step ``k`` takes the same images for any number of ranks: the epoch's order is cut into *global* batches
    of ``batch_size``, and each rank takes a consecutive share of each.  Set ``epoch`` before iterating, and
    ``start`` to leave out that many batches at the beginning of the epoch (to resume).

    Args:
        length: how many images there are.
        batch_size: images per step over all ranks.
        seed: decides the order, together with the epoch.
        rank: this process, 0 to world - 1.
        world: how many processes share a batch; must divide ``batch_size``.
        shuffle: a new order each epoch; otherwise 0, 1, 2, ...
        drop_last: leave out an incomplete last batch.  Otherwise its images are shared out as evenly as
            possible; a rank that gets none has one batch less.
        repeats: so many copies of an image follow each other, each to be augmented by itself (repeated
            augmentation, https://arxiv.org/abs/1901.09335), and an epoch, as long as ever, sees only so much
            of the images.  Copy ``c`` of image ``i`` is number ``i + c * length``.  Ranks take turns within a
            global batch, so that copies meet on different ranks, as in DeiT.

    Raises:
        ConfigError: if ``world`` does not divide ``batch_size``, a number is out of range, or the images do
            not fill one batch; for ``repeats`` without ``drop_last``.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        repeats: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise ConfigError(
                f"a batch of {batch_size} images cannot be shared by {world} processes (this is {rank});"
                f" expected a multiple of {world}"
            )
        if length < (batch_size if drop_last else 1):
            raise ConfigError(
                f"{length} images do not fill one batch of {batch_size}; lower the batch size or add images"
            )
        if repeats < 1 or (repeats > 1 and not drop_last):
            raise ConfigError(f"repeats: expected 1, or more where the last batch is dropped, got {repeats}")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.repeats = repeats
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank, whatever ``start`` is."""
        full, rest = divmod(self.length, self.batch_size)
        return full + (not self.drop_last and self._share(rest)[1] > self._share(rest)[0])

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of image indices, or with ``repeats`` of numbers of copies."""
        order = self._order()
        for step in range(self.start, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            first, last = self._share(len(batch))
            mine = batch[first:last] if self.repeats == 1 else batch[self.rank :: self.world]
            yield mine.tolist()

    def _share(self, size: int) -> tuple[int, int]:
        return size * self.rank // self.world, size * (self.rank + 1) // self.world

    def _order(self) -> torch.Tensor:
        images = self._images()
        if self.repeats == 1:
            return images
        copies = torch.arange(self.repeats) * self.length
        return (images[:, None] + copies).flatten()[: self.length]

    def _images(self) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.length)
        # epochs are far fewer than 2**20, and so no two (seed, epoch) meet
        chance = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        return torch.randperm(self.length, generator=chance)


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): workers that live on cannot know the epoch otherwise."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.batches.epoch
        for batch in self.batches:
            yield [(epoch, index) for index in batch]
