"""Which images make up which batch: a pure function of seed, epoch, step and rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch.utils.data import Sampler

from castssl.errors import ConfigError


@dataclass(eq=False, repr=False)
class EpochBatches(Sampler[list[int]]):
    """The batches of one epoch on one rank.

    Step ``k`` takes the same images for any number of ranks: the epoch's order is divided into *global*
    batches of ``batch_size``, and each rank takes a consecutive share of each.  Set ``epoch`` before
    iterating, and ``start`` to leave out that many batches at the beginning of the epoch (to resume).

    Args:
        length: the number of images.
        batch_size: images per step over all ranks.
        seed: decides the order, together with the epoch.
        rank: this process, 0 to world - 1.
        world: the number of processes that share a batch; must divide ``batch_size``.
        shuffle: a new order each epoch; otherwise 0, 1, 2, ...
        drop_last: leave out an incomplete last batch.  Otherwise its images are divided as evenly as
            possible; a rank that gets none has one batch less.
        repeats: the number of copies of an image that follow each other, each augmented separately (repeated
            augmentation, https://arxiv.org/abs/1901.09335); an epoch keeps its length, so it contains fewer
            of the images.  Copy ``c`` of image ``i`` is number ``i + c * length``.  Ranks take turns within a
            global batch, so that copies are on different ranks, as in DeiT.

    Raises:
        ConfigError: if ``world`` does not divide ``batch_size``, a number is out of range, or the images do
            not fill one batch; for ``repeats`` without ``drop_last``.
    """

    length: int
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    rank: int = 0
    world: int = 1
    shuffle: bool = True
    drop_last: bool = True
    repeats: int = 1
    epoch: int = field(default=0, init=False)
    start: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.world or not 0 <= self.rank < self.world:
            raise ConfigError(
                f"a batch of {self.batch_size} images cannot be shared by {self.world} processes (this is"
                f" {self.rank}); expected a multiple of {self.world}"
            )
        if self.length < (self.batch_size if self.drop_last else 1):
            fits = self.world << max(0, (self.length // self.world).bit_length() - 1)
            hint = f", such as by --batch-size {fits}," if fits <= self.length else ""
            raise ConfigError(
                f"{self.length} images do not fill one batch of {self.batch_size}; lower the batch"
                f" size{hint} or add images"
            )
        if self.repeats < 1 or (self.repeats > 1 and not self.drop_last):
            raise ConfigError(
                f"repeats: expected 1, or more where the last batch is dropped, got {self.repeats}"
            )

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
            share = batch[first:last] if self.repeats == 1 else batch[self.rank :: self.world]
            yield share.tolist()

    def _share(self, size: int) -> tuple[int, int]:
        return size * self.rank // self.world, size * (self.rank + 1) // self.world

    def _order(self) -> torch.Tensor:
        images = torch.arange(self.length)
        if self.shuffle:
            # Epochs are far fewer than 2**20, so all (seed, epoch) differ.
            generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
            images = torch.randperm(self.length, generator=generator)
        if self.repeats > 1:
            copies = torch.arange(self.repeats) * self.length
            images = (images[:, None] + copies).flatten()[: self.length]
        return images


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): persistent workers cannot know the epoch otherwise."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.batches.epoch
        for batch in self.batches:
            yield [(epoch, index) for index in batch]
