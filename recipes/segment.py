"""Transfer an encoder to semantic segmentation: linear evaluation, fine-tuning, Segmenter (CAST, Table 3).

    accelerate launch recipes/segment.py --data voc:/path/to/VOCdevkit --weights RUN --head linear --frozen
    accelerate launch recipes/segment.py --data voc:/path/to/VOCdevkit --weights RUN --head fused
    accelerate launch recipes/segment.py --data ade20k:/path/to/ADEChallengeData2016 --weights RUN \
        --head segmenter --window 512 --stride 512
    accelerate launch recipes/segment.py --data ade20k:/path/to/ADEChallengeData2016 --weights RUN \
        --head queries --window 512 --stride 512

Expect an mIoU of 67.6 on VOC, 43.1 on ADE20K and 49.1 on Pascal Context with CAST-S, and a boundary F of
48.1, 36.5 and 44.1: the paper's numbers; this recipe has not been run at that scale.  recipes/README.md has
those of the other encoders, and of Cityscapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch.optim import Optimizer

from castssl.checkpoints.native import Weights
from castssl.checkpoints.segmenter import segmenter_weights
from castssl.checkpoints.transfer import transfer
from castssl.config import FREE, MEASURES, launch
from castssl.contracts import Encoder
from castssl.data.dense_views import RandomDenseView, WholeView
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.datasets.images import Images
from castssl.evaluation.class_maps import ClassMaps
from castssl.evaluation.held_out import Evaluation, Subject, indexed
from castssl.evaluation.label_maps import check_label_maps
from castssl.evaluation.report import table
from castssl.evaluation.windows import Windows
from castssl.labels import LabelTree
from castssl.objectives.mask_classification import MaskClassification
from castssl.objectives.segmentation import Segmentation
from castssl.registry import build_superpixels
from castssl.training import FirstBatch, build_optimizer, check_batch, fits, set_rate, start
from castssl.training.configs import TransferConfig
from castssl.training.fine_tuning import clip_gradients, decay_rates
from castssl.training.logging import best
from castssl.training.poly import poly
from castssl.training.presets import SEGMENT
from castssl.training.rate_multiples import RateMultiples


class Published(NamedTuple):
    """How a head is trained where it was published."""

    lr: float
    optimizer: dict[str, Any]
    floor: float = 0.0
    """The smallest factor of the learning rate."""
    warmup: float = 0.0
    """Warm-up, as a share of all steps."""
    by_block: float = 1.0
    """Layer decay: the rate of a block of the encoder is this factor times that of the next block."""
    clip: float | None = None
    """Largest norm of the gradient."""


ADAMW: dict[str, Any] = {"name": "adamw", "weight_decay": 0.05}
VOC = RateMultiples(backbone=1.0, head=10.0, biases=2.0)
HEADS = {
    "linear": Published(1e-3, {"name": "adamw", "weight_decay": 1e-3}, warmup=1500 / 40_000),
    "fused": Published(
        3e-3,
        {"name": "sgd-caffe", "weight_decay": 1e-4, "decay": "no-biases", "multiples": VOC},
        warmup=100 / 30_000,
    ),
    "segmenter": Published(1e-3, {"name": "sgd-nesterov", "weight_decay": 0.0}, floor=1e-2),
    "queries": Published(1e-4, ADAMW, warmup=500 / 39_153, by_block=0.8, clip=0.01),
    "frozen-queries": Published(2e-4, ADAMW, warmup=6_000 / 20_208, clip=0.01),
}
"""DINOv3's linear evaluation with CAST's schedule, the released VOC code, Segmenter, EoMT and PMT."""


@dataclass(frozen=True, kw_only=True)
class Config(TransferConfig):
    """Train a head for segmentation, and the encoder with it unless it is frozen."""

    by_preset = SEGMENT
    head: Literal["linear", "fused", "segmenter", "queries"] = "linear"
    """Batch norm and one layer (DINOv2, DINOv3), CAST's two layers, Segmenter's mask transformer, or mask
    queries in the encoder's last blocks (EoMT), or with --frozen in blocks of their own (PMT)."""
    masked_attention: bool = True
    """Restrict the attention of --head queries to their masks early in training."""
    frozen: bool = False
    """Train the head alone."""
    mean: Literal["global", "process"] = "global"
    """The loss is a mean over the labeled pixels of all processes, or of each process as published."""
    shorter: int = 0
    """Pixels of an image's shorter side before scaling and at evaluation; 0 = --image-size."""
    epochs: int = 64
    batch_size: int = 16
    lr: float = 0.0
    """Learning rate; 0 = what was published with the head."""
    window: int = field(default=0, metadata=MEASURES)
    """Side of the windows of evaluation in pixels, to which smaller images are enlarged; 0 = whole images."""
    stride: int = field(default=0, metadata=MEASURES)
    """Pixels from one window to the next; 0 = --window."""
    superpixels_once: bool = field(default=False, metadata=MEASURES)
    """Compute superpixels once for an image and cut them, in place of those of each window (as published)."""
    eval_every: int = field(default=1, metadata=FREE)
    """Epochs between two evaluations on held-out images; 0 = only before and after training."""

    def problems(self) -> list[str]:
        """What the types cannot say."""
        problems = super().problems()
        if self.frozen and not self.weights:
            problems.append("--frozen: an encoder with new weights is not worth keeping; give --weights")
        if self.head == "queries" and self.mean != "global":
            problems.append("--mean: --head queries divides masks by their number; leave --mean out")
        if (self.stride or self.superpixels_once) and not self.window:
            problems.append(
                "--stride and --superpixels-once need --window, the side of the windows in pixels"
            )
        return problems

    def head_name(self) -> str:
        """The head as its file names it."""
        return f"frozen-{self.head}" if self.head == "queries" and self.frozen else self.head

    def windows(self) -> Windows | None:
        """The windows of evaluation; None for whole images."""
        stride = self.stride or self.window
        return Windows(self.window, stride, self.superpixels_once) if self.window else None


def make_objective(cfg: Config, encoder: Encoder, labels: LabelTree) -> Segmentation:
    """What --head learns by."""
    if cfg.head == "queries":
        return MaskClassification(encoder, labels, frozen=cfg.frozen, masked=cfg.masked_attention)
    return Segmentation(encoder, labels, head=cfg.head, frozen=cfg.frozen, mean=cfg.mean)


def make_weights(cfg: Config, objective: Segmentation, images: Images, shorter: int) -> Weights:
    """The model with its classes and their colors, as `castssl segment --classes` reads them."""
    palette = images.maps.palette if images.maps else ()
    described: dict[str, Any] = {"labels": images.pixel_tree, "palette": palette, "shorter": shorter}
    return segmenter_weights(objective, head=cfg.head_name(), **described)


def make_optimizer(objective: Segmentation, lr: float, published: Published) -> Optimizer:
    """The published optimizer, with its own rate unless another one is given."""
    optimizer = build_optimizer(objective, lr=lr or published.lr, **published.optimizer)
    if published.by_block != 1:
        decay_rates(optimizer, objective.encoder, published.by_block)
    if published.clip is not None:
        clip_gradients(optimizer, published.clip)
    return optimizer


def main(cfg: Config) -> None:
    """Train, and measure mIoU and boundary F-score on held-out images as it goes."""
    run, accelerator = start(cfg)
    device = accelerator.device
    encoder = transfer(cfg.weights or None, cfg.model, **cfg.transfer())
    images, held_out = cfg.images(streams=False, channels=encoder.config.channels)
    indexable = indexed(images)
    tree = indexable.pixel_tree
    size = cfg.image_size or encoder.config.image_size
    superpixels = build_superpixels(encoder.config)
    fits(superpixels, encoder, size)
    objective = make_objective(cfg, encoder, tree).to(device)
    check_batch(objective, cfg.batch_size // cfg.accumulate)
    shorter = cfg.shorter or size
    views = RandomDenseView(size, shorter=shorter, distort=True)
    loader = load(images, views=views, superpixels=superpixels, **cfg.loading())
    run.once("label_maps", lambda: check_label_maps(indexable, device, cfg.workers))
    evaluators = [ClassMaps(cfg.windows(), every=cfg.eval_every, views=WholeView(shorter))]
    evaluation = Evaluation(
        images, held_out, superpixels, CenterView(size), evaluators, device, batch_size=1, workers=cfg.workers
    )
    published = HEADS[cfg.head_name()]
    optimizer = make_optimizer(objective, cfg.lr, published)
    subject = Subject(encoder, objective.predict, objective)
    untrained = run.once("untrained", lambda: evaluation(subject))
    weights = run.keep(make_weights(cfg, objective, indexable, shorter))
    model, optimizer = run.prepare(objective, optimizer)
    if cfg.compile:
        objective.compile()  # It calls the encoder's `dense`, which `encoder.compile()` leaves as it is.
    check = FirstBatch(objective)
    for step, raw in run.steps(loader):
        set_rate(optimizer, poly(run.progress(step), floor=published.floor, warmup=published.warmup))
        batch = to_views(raw, superpixels, device)
        check(batch)
        with accelerator.accumulate(model):
            outcome = model(batch)
            accelerator.backward(run.finite(outcome.loss))
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            objective.after_step(run.progress(step + 1))
        run.report(step, outcome.logs)
        if due := evaluation.due(run.every):
            run.note(**evaluation.update(subject, due))
    trained = evaluation.finish(subject)
    results = {"trained": trained, "best": best(run.folder, "miou"), "untrained": untrained}
    results |= evaluation.baselines()
    weights.write(run.folder / "encoder.safetensors")
    run.finish(table(**results), **results)


if __name__ == "__main__":
    launch(main, Config)
