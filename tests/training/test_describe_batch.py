from __future__ import annotations

from pathlib import Path

from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.training.describe_batch import describe_batch


def test_the_names_are_those_of_the_images_that_the_batch_had(image_folder: Path, tmp_path: Path) -> None:
    """Batch 4 of epochs of 3 is the second one of the second epoch."""
    images = open_images(f"folder:{image_folder}")
    assert isinstance(images, Images)
    paths = {images.name(index): images[index][1].tolist() for index in range(len(images))}
    loaders = [
        load(images, views=CenterView(32), superpixels=None, batch_size=16, seed=5, rank=rank, world=2)
        for rank in (0, 1)
    ]
    for rank, loader in enumerate(loaders):
        loader.set_epoch(1)
        for _ in range(2):
            batch = next(iter(loader))
            loader.set_epoch(1, 1)
        output = describe_batch(loader, [4], tmp_path)
        names = (tmp_path / "diverged.txt").read_text().splitlines()
        assert len(names) == 8
        assert ", ".join(names[:4]) in output
        assert "8 in all" in output
        assert batch.target.tolist() == [paths[name] for name in names], rank
        assert loader.batches is not None
        assert (loader.batches.epoch, loader.batches.start) == (1, 1), "asking changes nothing"
