"""Fine-tune an encoder on PASCAL VOC, as the code released with CAST does (CAST, Table 3a, appendix A.3).

    accelerate launch recipes/finetune_voc.py --data voc:aug:/path/to/VOCdevkit --weights RUN \
        --model cast_small_dense
    accelerate launch recipes/finetune_voc.py --data voc:aug:/path/to/VOCdevkit --weights RUN \
        --model vit_small_seg --sizes 1024

Expect an mIoU of 67.6 and a boundary F of 48.1 with CAST-S that was pretrained on COCO: the paper's numbers;
this recipe has not been run at that scale. recipes/README.md has those of the other encoders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch.optim import Optimizer

from castssl.checkpoints.native import Weights
from castssl.checkpoints.segmenter import segmenter_weights
from castssl.checkpoints.transfer import transfer
from castssl.config import FREE, GROWS, launch
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
from castssl.models.dense import DenseCAST
from castssl.objectives.segmentation import Segmentation
from castssl.registry import build_superpixels
from castssl.training import FirstBatch, build_optimizer, check_batch, fits, set_rate, start
from castssl.training.configs import TransferConfig
from castssl.training.logging import best
from castssl.training.optim import TABLES
from castssl.training.poly import poly
from castssl.training.presets import SEGMENT
from castssl.training.rate_multiples import RateMultiples

HEAD = "fused"
MULTIPLES = RateMultiples(backbone=1.0, head=10.0, biases=2.0)
WARMUP = 100 / 30_000
"""As a share of all steps."""


@dataclass(frozen=True, kw_only=True)
class Config(TransferConfig):
    """Train an encoder and CAST's two layers on label maps; the defaults are the released code's for VOC."""

    by_preset = SEGMENT
    mean: Literal["global", "process"] = "global"
    """The loss is a mean over the labeled pixels of all processes, or of each process as published."""
    image_size: int = 512
    """Side of a training crop in pixels, and of the positions of --model; 0 = what the encoder was trained
    at."""
    longer: int = 0
    """Pixels of an image's longer side at evaluation; 0 = --image-size."""
    steps: int = field(default=30_000, metadata=GROWS)
    """Optimizer steps, which the schedule spans."""
    epochs: int = field(default=0, metadata=GROWS)
    """Passes over the data in place of --steps; 0 = --steps counts."""
    batch_size: int = 16
    lr: float = 3e-3
    """Learning rate of the encoder's weights; the head's is ten times as large, that of a bias twice."""
    weight_decay: float = 1e-4
    """Weight decay of all parameters except biases."""
    eval_every: int = field(default=0, metadata=FREE)
    """Epochs between two evaluations on held-out images; 0 = only before and after training, as published."""

    def total_steps(self, batches: int) -> int:
        """The optimizer steps of the whole run, which the schedule spans."""
        return super().total_steps(batches) if self.epochs else self.steps

    def problems(self) -> list[str]:
        """What the types cannot say."""
        return super().problems() + self.below(steps=1, longer=0, image_size=0)


def freeze_tables(encoder: Encoder) -> None:
    """Keep the class token and the positions as they are; the released code trains neither."""
    for name, parameter in encoder.named_parameters():
        if name.rpartition(".")[2] in TABLES:
            parameter.requires_grad_(False)


def make_optimizer(cfg: Config, objective: Segmentation) -> Optimizer:
    """The released code's SGD, whose momentum holds the learning rate, with a rate for each group."""
    options: dict[str, Any] = {"name": "sgd-caffe", "decay": "no-biases", "multiples": MULTIPLES}
    return build_optimizer(objective, lr=cfg.lr, weight_decay=cfg.weight_decay, **options)


def make_weights(objective: Segmentation, images: Images, longer: int) -> Weights:
    """The model with its classes and their colors, as `castssl segment --classes` reads them."""
    palette = images.maps.palette if images.maps else ()
    return segmenter_weights(
        objective, head=HEAD, labels=images.pixel_tree, palette=palette, shorter=0, longer=longer
    )


def main(cfg: Config) -> None:
    """Train, and measure mIoU on held-out images."""
    run, accelerator = start(cfg)
    device = accelerator.device
    encoder = transfer(cfg.weights or None, cfg.model, **cfg.transfer())
    freeze_tables(encoder)
    images, held_out = cfg.images(streams=False, channels=encoder.config.channels)
    indexable = indexed(images)
    tree = indexable.pixel_tree
    size = cfg.image_size or encoder.config.image_size
    longer = cfg.longer or size
    superpixels = build_superpixels(encoder.config)
    fits(superpixels, encoder, size)
    objective = Segmentation(encoder, tree, head=HEAD, mean=cfg.mean).to(device)
    check_batch(objective, cfg.batch_size // cfg.accumulate)
    # Only the dense models take a label map that is smaller than the image.
    reduction = 2 if isinstance(encoder, DenseCAST) else 1
    views = RandomDenseView(size, native=True, scales=(0.5, 1.5), largest=1, reduction=reduction)
    loader = load(images, views=views, superpixels=superpixels, **cfg.loading())
    run.once("label_maps", lambda: check_label_maps(indexable, device, cfg.workers))
    evaluators = [ClassMaps(longer=longer, every=cfg.eval_every, views=WholeView(None))]
    evaluation = Evaluation(
        images, held_out, superpixels, CenterView(size), evaluators, device, batch_size=1, workers=cfg.workers
    )
    optimizer = make_optimizer(cfg, objective)
    subject = Subject(encoder, objective.predict, objective)
    untrained = run.once("untrained", lambda: evaluation(subject))
    weights = run.keep(make_weights(objective, indexable, longer))
    model, optimizer = run.prepare(objective, optimizer)
    if cfg.compile:
        objective.compile()  # It calls the encoder's `dense`, which `encoder.compile()` leaves as it is.
    check = FirstBatch(objective)
    for step, raw in run.steps(loader):
        set_rate(optimizer, poly(run.progress(step), warmup=WARMUP))
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
