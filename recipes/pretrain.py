"""Pretrain CAST with any installed objective, such as SimCLR, BYOL or DINO of plugins/castssl-lightly.

    accelerate launch recipes/pretrain.py --data folder:/path/to/imagenet --objective simclr:temperature=0.2
    accelerate launch recipes/pretrain.py --data folder:/path/to/imagenet --objective dino --crop-min 0.14 \
        --lr 5e-4 --branch momentum
    python recipes/pretrain.py --data demo --model nano --image-size 64 --objective byol:hidden=512,out=128

Expect no published number: CAST has trained with MoCo v3 only, for which moco_in1k.py has all settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer

from castssl.checkpoints.native import objective_weights
from castssl.config import MEASURES, launch, measured_with
from castssl.contracts import Encoder, Objective
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.views import MOCO, TwoViews
from castssl.evaluation.collapse import Collapse
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.evaluation.knn import Knn
from castssl.evaluation.matching import Matching
from castssl.evaluation.overlap import Overlap
from castssl.evaluation.report import table
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.registry import build, build_superpixels
from castssl.training import (
    FirstBatch,
    build_optimizer,
    check_batch,
    check_labels,
    fits,
    scaled_rate,
    set_rate,
    start,
)
from castssl.training.configs import PretrainConfig
from castssl.training.presets import CONTRASTIVE
from castssl.training.schedule import warmup_cosine
from castssl.visualization.gallery import gallery, shown


@dataclass(frozen=True, kw_only=True)
class Config(PretrainConfig):
    """Pretrain CAST with any installed objective; the defaults are MoCo v3's for vision transformers."""

    by_preset = CONTRASTIVE
    objective: str = "moco"
    """An objective with options, such as byol:momentum=0.99; `castssl list objectives` shows all."""
    crop_min: float = 0.08
    """Smallest share of an image's area that a view shows."""
    blur: float = 2.0
    """Largest blur radius in pixels; the default is meant for 224-pixel views, 0.6 suits 64."""
    lr: float = 1.5e-4
    """Learning rate for 256 images; scales with --batch-size."""
    weight_decay: float = 0.1
    """Weight decay."""
    decay: Literal["all", "matrices", "weights"] | None = None
    """Parameters with weight decay: all; matrices, those with two axes or more; or weights, matrices without
    class token and positions. By default all, for lars matrices."""
    optimizer: Literal["adamw", "lars", "sgd"] = "adamw"
    """adamw, lars (large batches) or sgd with momentum."""
    branch: Literal["base", "momentum", "ema"] = field(default="base", metadata=MEASURES)
    """Which encoder is evaluated and saved: base, or the momentum or averaged one of the objective."""


def make_views(cfg: Config, objective: Objective) -> TwoViews:
    """As many views as the objective wants, their looks in turn those of MoCo v3's two."""
    looks = [MOCO[number % len(MOCO)] for number in range(objective.views)]
    return TwoViews(cfg.image_size, crop_min=cfg.crop_min, blur=cfg.blur, colors=looks)


def make_objective(cfg: Config, labels: LabelTree) -> Objective:
    """The objective around a new encoder."""
    encoder = create(cfg.encoder(), advance=True)
    return build("objectives", cfg.objective, encoder, labels)


def make_optimizer(cfg: Config, objective: Objective) -> Optimizer:
    """The optimizer at the learning rate for this batch size."""
    options: dict[str, Any] = {"weight_decay": cfg.weight_decay, "decay": cfg.decay}
    return build_optimizer(objective, name=cfg.optimizer, lr=scaled_rate(cfg.lr, cfg.batch_size), **options)


def make_evaluators(cfg: Config, encoder: Encoder, views: TwoViews, collapse: Collapse) -> list[Evaluator]:
    """What is measured on held-out images."""
    every, two = cfg.knn_every, views if views.views == 2 else TwoViews(cfg.image_size)
    overlap = Overlap(encoder.sizes, every=every)
    matching = Matching(aligned=True, views=two, every=every)
    return [matching, Knn(cfg.knn_images, every=every), collapse, overlap]


def main(cfg: Config) -> None:
    """Pretrain, evaluating the encoder on held-out images as it goes."""
    run, accelerator = start(cfg)
    device = accelerator.device
    images, held_out = cfg.images(measured=cfg.knn_every > 0, streams=False)
    superpixels = build_superpixels(cfg.encoder())
    objective = make_objective(cfg, images.tree).to(device)
    fits(superpixels, objective.encoder, cfg.image_size)
    check_batch(objective, cfg.batch_size // cfg.accumulate)
    check_labels(objective, images)
    views, encoder = make_views(cfg, objective), objective.branch(cfg.branch)
    loader = load(images, views=views, superpixels=superpixels, **cfg.loading())
    collapse = run.follow(Collapse(every=cfg.knn_every, measured_with=measured_with(cfg)))
    evaluators, center = make_evaluators(cfg, encoder, views, collapse), CenterView(cfg.image_size)
    evaluation = Evaluation(images, held_out, superpixels, center, evaluators, device, workers=cfg.workers)
    evaluated = objective.branches()[cfg.branch]
    subject = Subject(encoder, module=evaluated, embed=evaluated.embed)
    untrained = run.once("untrained", lambda: evaluation(subject))
    optimizer = make_optimizer(cfg, objective)
    weights = run.keep(objective_weights(objective, encoder))
    model, optimizer = run.prepare(objective, optimizer)
    if cfg.compile:
        for branch in objective.branches():
            objective.branch(branch).compile()
    check, photos = FirstBatch(objective), shown(images)
    picture = partial(gallery, encoder, superpixels, photos, cfg.image_size, device)
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
    run.finish(table(**results), f"the hierarchy on photographs: {run.folder / 'pictures'}", **results)


if __name__ == "__main__":
    launch(main, Config)
