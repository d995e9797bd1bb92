"""Label maps are read once before training, so that a wrong one does not stop a run hours later."""

from __future__ import annotations

from itertools import chain, islice
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from castssl import distributed
from castssl.data.workers import start_worker
from castssl.datasets.decode import header
from castssl.datasets.images import Images
from castssl.datasets.label_maps import UNKNOWN, open_labels, to_classes
from castssl.datasets.orientation import orientation, upright_size
from castssl.errors import DataError
from castssl.evaluation.features import Device, tracked
from castssl.system_errors import explain

NAMED = 5
"""The number of label maps that the error names."""


class _Found(NamedTuple):
    """What one label map has."""

    labeled: int
    """Pixels with a class."""
    pixels: int
    fault: str
    """Why training could not use it; "" if it can, or the map or its image cannot be decoded."""


class _LabelMaps(Dataset[_Found]):
    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, index: int) -> _Found:
        images, row = self.images, int(self.images.rows[index])
        assert images.maps is not None
        try:
            with images.source.open(row) as file:
                opened = header(file, images.declared, images.channels)
                size, turn = upright_size(opened), orientation(opened)
            stored = open_labels(images.maps, row)
        except Exception as error:  # As in Images.fetch, which replaces such an image.
            if explain(error):
                raise
            return _Found(0, 0, "")
        try:
            labels = to_classes(stored, images.maps, row, size, turn)
        except DataError as error:
            return _Found(0, 0, str(error))
        return _Found(int((labels != UNKNOWN).sum()), labels.size, "")


def check_label_maps(images: Images, device: Device = "cpu", workers: int = 0) -> dict[str, float]:
    """Read all label maps of training images once; every process calls it, and reads its share.

    Args:
        images: with label maps.
        device: where processes exchange numbers.
        workers: data-loading processes of each process.

    Returns:
        ``labeled``: the share of the pixels that have a class, in [0, 1].

    Raises:
        DataError: on all processes, with the faults of label maps that training could not use, or if no pixel
            has a class.
    """
    own = [[index] for index in range(distributed.rank(), len(images), distributed.world())]
    loader: DataLoader[_Found] = DataLoader(
        _LabelMaps(images),
        batch_sampler=own,
        num_workers=workers,
        worker_init_fn=start_worker,
        collate_fn=list,
        # Else it would draw from the global generator, and training would depend on it.
        generator=torch.Generator(),
    )
    met: list[_Found] = [found for batch in tracked(loader, len(own), "label maps") for found in batch]
    faults = [found.fault for found in met if found.fault]
    if distributed.world() > 1:
        parts: list[list[str]] = [[] for _ in range(distributed.world())]
        dist.all_gather_object(parts, faults)
        faults = list(chain(*parts))
    counts = torch.tensor([(found.labeled, found.pixels) for found in met]).view(-1, 2).sum(0)
    labeled, pixels = distributed.mean(counts.double().to(device)).tolist()
    if faults:
        more = [f"and {len(faults) - NAMED:,} more"] if len(faults) > NAMED else []
        listed = "\n  ".join([*islice(faults, NAMED), *more])
        raise DataError(
            f"{len(faults):,} of {len(images):,} label maps cannot be used; correct them, and give the same"
            f" command again:\n  {listed}"
        )
    if not labeled:
        raise DataError(
            f"no pixel of {len(images):,} label maps has a class: all are unknown; check the ignored value,"
            " reduce_zero_label and whether these are the right files"
        )
    return {"labeled": labeled / pixels}
