"""Examine a frozen encoder: a linear probe, and nearest neighbours (CAST, Tables 4 and 5).

    accelerate launch recipes/probe_in1k.py --data folder:/path/to/imagenet --weights RUN/encoder.safetensors
    accelerate launch recipes/probe_in1k.py --data folder:/path/to/imagenet --weights checkpoint_0099.pth.tar
    accelerate launch recipes/probe_in1k.py --data folder:/path/to/imagenet --subset imagenet100 \
        --weights RUN/encoder.safetensors --lr 0.8 --batch-size 256
    accelerate launch recipes/probe_in1k.py ... --superpixels seeds:count=324 --sizes 324 128 64 32

Expect a top-1 accuracy of 68.1 on IN-1K and 79.9 on IN-100 with CAST-S; the last line is Table 5d's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from castssl.checkpoints import load_encoder
from castssl.config import FREE, launch
from castssl.contracts import Superpixels
from castssl.data.augment import OneView
from castssl.data.finish import finish
from castssl.data.loader import load
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.evaluation.classify import Recognition
from castssl.evaluation.exam import Exam, table
from castssl.files import write_tensors
from castssl.models.resized import resized
from castssl.models.untrained import untrained
from castssl.objectives.probe import LinearProbe
from castssl.pictures.gallery import gallery
from castssl.pictures.photographs import photographs
from castssl.registry import build
from castssl.training import (
    FirstBatch,
    build_optimizer,
    check_labels,
    epoch_cosine,
    fits,
    scaled_rate,
    set_rate,
    start,
)
from castssl.training.log import best
from castssl.training.settings import ImageConfig


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig):
    """Train a linear classifier on a frozen encoder; the defaults are the released code's for IN-1K."""

    weights: str = ""
    """A finished run's folder or its encoder.safetensors, or a published checkpoint."""
    image_size: int = 0
    """Side of a training crop in pixels; 0 = what the encoder was trained at."""
    epochs: int = 90
    batch_size: int = 1024
    crop_min: float = 0.08
    """Smallest share of an image's area that a view shows."""
    lr: float = 30.0
    """Learning rate for 256 images; scales with --batch-size."""
    level: int = -1
    """The label level to learn, from 0, the coarsest; -1 = the finest."""
    eval_every: int = field(default=1, metadata=FREE)
    """Epochs between two looks at the accuracy on held-out images; 0 = only after training."""

    def problems(self) -> list[str]:
        """What the types cannot say."""
        found = [] if self.weights else ["--weights is missing: type --weights RUN/encoder.safetensors"]
        return found + ["--val none: a probe is measured on held-out images"] * (self.val == "none")


def examinations(
    cfg: Config,
    images: Images | Stream,
    held_out: Images | Stream | None,
    superpixels: Superpixels,
    size: int,
) -> tuple[Exam, Recognition]:
    """What is asked about the encoder, and about the probe, on held-out images."""
    test = Recognition(held_out, superpixels, size, "bilinear", workers=cfg.workers, level=cfg.level)
    shared: dict[str, Any] = {"workers": cfg.workers, "voters": cfg.knn_images}
    return Exam.on(images, held_out, superpixels, size, **shared), test


def main(cfg: Config) -> None:
    """Examine the encoder, then train the probe, looking at its accuracy on held-out images as it goes."""
    run, accelerator = start(cfg)
    device = accelerator.device
    images, held_out = cfg.images()
    loaded = load_encoder(cfg.weights)
    size = cfg.image_size or loaded.config.image_size
    backend = loaded.config.superpixels if cfg.superpixels == "auto" else cfg.superpixels
    superpixels = build("superpixels", backend)
    encoder = resized(loaded, cfg.sizes) if cfg.sizes else loaded
    fits(superpixels, encoder, size)
    objective = LinearProbe(encoder, images.tree, level=cfg.level).to(device)
    views = OneView(size, crop_min=cfg.crop_min)
    loader = load(images, views=views, superpixels=superpixels, **cfg.loading())
    exam, test = examinations(cfg, images, held_out, superpixels, size)
    check_labels(objective, images, test.images)
    frozen = run.once("encoder", lambda: exam.sit(encoder, device))
    unlearned = run.once("untrained", lambda: exam.sit(untrained(encoder), device))
    optimizer = build_optimizer(
        objective, name="sgd", lr=scaled_rate(cfg.lr, cfg.batch_size), weight_decay=0.0
    )
    model, optimizer = run.prepare(objective, optimizer)
    if cfg.compile:
        encoder.compile()
    check, scores = FirstBatch(objective), dict[str, float]()
    if not run.step:
        run.picture(gallery(encoder, superpixels, [photo for _, photo in photographs()], size, device))
    for step, raw in run.steps(loader):
        set_rate(optimizer, epoch_cosine(run.progress(step), cfg.epochs))
        batch = finish(raw, superpixels, device)
        check(batch)
        with accelerator.accumulate(model):
            outcome = model(batch)
            accelerator.backward(run.finite(outcome.loss))
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            objective.after_step(run.progress(step + 1))
        run.report(step, outcome.logs)
        if run.every(cfg.eval_every):
            run.note(**(scores := test.sit(objective, device)))
    found = {
        "trained": (scores or test.sit(objective, device)) | frozen,
        "best": best(run.folder, "top1"),
        "untrained": unlearned,
        "majority": test.by_majority() | exam.by_majority(),
        "chance": test.by_chance() | exam.by_chance(encoder.sizes),
    }
    if accelerator.is_main_process:
        write_tensors(run.folder / "probe.safetensors", objective.head.state_dict(), {})
    run.finish(table(**found), f"the hierarchy on photographs: {run.folder / 'pictures'}", **found)


if __name__ == "__main__":
    launch(main, Config)
