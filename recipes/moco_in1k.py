"""Pretrain CAST with MoCo v3 (CAST, section 4 and Table 11).

    accelerate launch recipes/moco_in1k.py --data folder:/path/to/imagenet
    accelerate launch recipes/moco_in1k.py --data folder:/path/to/imagenet --subset imagenet100 --epochs 200 \
        --warmup-epochs 20
    accelerate launch recipes/moco_in1k.py --data folder:/path/to/coco --model cast_small_seg --epochs 400 \
        --warmup-epochs 40

Expect a linear probe of 68.1 on IN-1K (Table 4) and 79.9 on IN-100 (Table 5) with CAST-S.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch.optim import Optimizer

from castssl import distributed
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.native import objective_weights
from castssl.config import MEASURES, launch, measured_with
from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.views import TwoViews
from castssl.evaluation.collapse import Collapse
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.evaluation.knn import Knn
from castssl.evaluation.matching import Matching
from castssl.evaluation.overlap import Overlap
from castssl.evaluation.report import table
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.moco import MoCoV3
from castssl.registry import build_superpixels
from castssl.training import FirstBatch, build_optimizer, check_batch, fits, scaled_rate, set_rate, start
from castssl.training.configs import PretrainConfig
from castssl.training.presets import MOCO
from castssl.training.schedule import warmup_cosine
from castssl.visualization.gallery import Comparison, examples


@dataclass(frozen=True, kw_only=True)
class Config(PretrainConfig):
    """Pretrain CAST with MoCo v3; the defaults are Table 11's for IN-1K."""

    by_preset = MOCO
    init: str = ""
    """Weights to begin from: a run's folder or file, a published checkpoint, hf:USER/NAME; with projector,
    predictor and momentum encoder where it has them."""
    crop_min: float = 0.08
    """Smallest share of an image's area that a view shows."""
    blur: float = 2.0
    """Largest blur radius in pixels; the default is meant for 224-pixel views, 0.6 suits 64."""
    temperature: float = 0.2
    """Temperature of the contrastive loss."""
    momentum: float = 0.99
    """The coefficient of the momentum encoder."""
    momentum_rise: bool = True
    """Let --momentum rise to 1 along a cosine, as in the released scripts; Table 11 has only the constant."""
    hidden: int = 4096
    """Width of the hidden layers of projector and predictor."""
    out_dim: int = 256
    """Width of the embedding."""
    lr: float = 1.5e-4
    """Learning rate for 256 images; scales with --batch-size."""
    weight_decay: float = 0.1
    """Weight decay."""
    decay: Literal["all", "matrices"] = "all"
    """What decays: all parameters (the released code), or only those with two axes or more."""
    optimizer: Literal["adamw", "lars"] = "adamw"
    """adamw (the released scripts; the paper says Adam), or lars (the released code's own default)."""
    eval_size: int = field(default=0, metadata=MEASURES)
    """Side in pixels of the center view of held-out images, for evaluation and pictures; 0 = --image-size."""
    knn_branch: Literal["base", "momentum"] = field(default="base", metadata=MEASURES)
    """Which encoder is evaluated."""


def make_objective(cfg: Config, labels: LabelTree) -> MoCoV3:
    """The encoder with projector, predictor and momentum encoder."""
    encoder = create(cfg.encoder(), advance=True)
    objective = MoCoV3(
        encoder,
        labels,
        temperature=cfg.temperature,
        momentum=cfg.momentum,
        momentum_rise=cfg.momentum_rise,
        hidden=cfg.hidden,
        out=cfg.out_dim,
    )
    if cfg.init:
        report = initialize(objective, cfg.init)
        if distributed.is_main():
            print(report)
    return objective


def make_optimizer(cfg: Config, objective: MoCoV3) -> Optimizer:
    """The optimizer at the learning rate for this batch size."""
    lr, wd = scaled_rate(cfg.lr, cfg.batch_size), cfg.weight_decay
    return build_optimizer(objective, name=cfg.optimizer, lr=lr, weight_decay=wd, decay=cfg.decay)


def make_evaluators(cfg: Config, encoder: Encoder, views: TwoViews, collapse: Collapse) -> list[Evaluator]:
    """What is measured on held-out images."""
    every = cfg.knn_every
    overlap = Overlap(encoder.sizes, every=every)
    matching = Matching(aligned=True, views=views, every=every)
    return [matching, Knn(cfg.knn_images, every=every), collapse, overlap]


def main(cfg: Config) -> None:
    """Pretrain, evaluating the encoder on held-out images as it goes."""
    run, accelerator = start(cfg)
    device = accelerator.device
    images, held_out = cfg.images(measured=cfg.knn_every > 0, streams=False)
    side = cfg.eval_size or cfg.image_size
    superpixels = build_superpixels(cfg.encoder())
    objective = make_objective(cfg, images.tree).to(device)
    fits(superpixels, objective.encoder, max(cfg.image_size, side))
    check_batch(objective, cfg.batch_size // cfg.accumulate)
    views = TwoViews(cfg.image_size, crop_min=cfg.crop_min, blur=cfg.blur)
    loader = load(images, views=views, superpixels=superpixels, **cfg.loading())
    encoder = objective.branch(cfg.knn_branch)
    collapse = run.follow(Collapse(every=cfg.knn_every, measured_with=measured_with(cfg)))
    evaluators, center = make_evaluators(cfg, encoder, views, collapse), CenterView(side)
    evaluation = Evaluation(images, held_out, superpixels, center, evaluators, device, workers=cfg.workers)
    evaluated = objective.branches()[cfg.knn_branch]
    subject = Subject(encoder, module=evaluated, embed=evaluated.embed)
    untrained = run.once("untrained", lambda: evaluation(subject))
    picture = Comparison(encoder, superpixels, examples(held_out), side, device)
    optimizer = make_optimizer(cfg, objective)
    weights = run.keep(objective_weights(objective, objective.encoder))
    model, optimizer = run.prepare(objective, optimizer)
    if cfg.compile:
        objective.branch("base").compile()
        objective.branch("momentum").compile()
    check = FirstBatch(objective)
    for step, raw in run.steps(loader):
        set_rate(optimizer, warmup_cosine(run.progress(step), cfg.warmup_epochs / cfg.epochs))
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
        if run.every(cfg.knn_every):
            run.picture(picture())
    weights.write(run.folder / "encoder.safetensors")
    run.picture(picture())
    results = {"trained": evaluation.finish(subject), "untrained": untrained}
    results |= evaluation.baselines()
    run.finish(table(**results), f"the segments of some images: {run.folder / 'pictures'}", **results)


if __name__ == "__main__":
    launch(main, Config)
