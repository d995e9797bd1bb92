"""Pretrain CAST with labels, as DeiT (CAST, Table 12).

    accelerate launch recipes/deit_in1k.py --data folder:/path/to/imagenet
    accelerate launch recipes/deit_in1k.py --data folder:/path/to/imagenet --schedule paper --repeats 1
    accelerate launch recipes/deit_in1k.py --data folder:/path/to/imagenet --augment three --bce --branch ema

Expect a top-1 accuracy of 80.4 on IN-1K with CAST-S.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from castssl.checkpoints.classifier import classifier_weights
from castssl.checkpoints.native import Weights
from castssl.config import launch
from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.supervised_views import SupervisedView
from castssl.data.views import TwoViews
from castssl.evaluation.classification import Accuracy
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.evaluation.knn import Knn
from castssl.evaluation.matching import Matching
from castssl.evaluation.overlap import Overlap
from castssl.evaluation.report import table
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.deit import DeiT
from castssl.registry import build_superpixels
from castssl.training import FirstBatch, build_optimizer, check_batch, check_labels, fits, set_rate, start
from castssl.training.logging import best
from castssl.training.supervised import SupervisedConfig
from castssl.visualization.gallery import gallery, shown

SEEDS = "seeds:bins=5,iterations=15"  # What the released DeiT has for SEEDS.


@dataclass(frozen=True, kw_only=True)
class Config(SupervisedConfig):
    """Pretrain CAST with labels; the defaults are Table 12's for IN-1K."""

    level: int = -1
    """The label level to learn, from 0, the coarsest; -1 = the finest."""
    bce: bool = False
    """A binary loss for each class in place of cross entropy; no label smoothing then."""


def make_encoder(cfg: Config) -> Encoder:
    """The encoder as DeiT trains it."""
    return create(cfg.encoder(SEEDS, positions="learned", drop_path=cfg.drop_path), advance=True)


def make_objective(cfg: Config, labels: LabelTree) -> DeiT:
    """The encoder with its classifier, and the average of both."""
    encoder = make_encoder(cfg)
    mixing = {"mixup": cfg.mixup, "cutmix": cfg.cutmix, "smoothing": cfg.smoothing}
    return DeiT(encoder, labels, level=cfg.level, bce=cfg.bce, ema=cfg.ema, **mixing)


def make_views(cfg: Config) -> SupervisedView:
    """What the classifier trains on."""
    return SupervisedView(cfg.image_size, policy=cfg.augment, erase=cfg.erase, crop_min=cfg.crop_min)


def make_weights(cfg: Config, objective: DeiT, labels: LabelTree) -> Weights:
    """The encoder with its classifier, as `castssl predict` reads them."""
    options = {"level": cfg.level, "bce": cfg.bce}
    return classifier_weights(objective, spec="deit", options=options, labels=labels, branch=cfg.branch)


def make_evaluators(cfg: Config, encoder: Encoder) -> list[Evaluator]:
    """What is measured on held-out images."""
    every, views = cfg.knn_every, TwoViews(cfg.image_size)
    evaluators: list[Evaluator] = [Accuracy(cfg.level, every=cfg.eval_every)]
    if every:
        knn = Knn(cfg.knn_images, every=every)
        evaluators += [Matching(views=views, every=every), knn, Overlap(encoder.sizes, every=every)]
    return evaluators


def main(cfg: Config) -> None:
    """Train, evaluating the classifier and the encoder on held-out images as it goes."""
    run, accelerator = start(cfg)
    device = accelerator.device
    images, held_out = cfg.images()
    superpixels = build_superpixels(cfg.encoder(SEEDS))
    objective = make_objective(cfg, images.tree).to(device)
    fits(superpixels, objective.encoder, cfg.image_size)
    check_batch(objective, cfg.batch_size // cfg.accumulate)
    loader = load(images, views=make_views(cfg), superpixels=superpixels, **cfg.loading())
    encoder, center = objective.branch(cfg.branch), CenterView(cfg.image_size, interpolation="bicubic")
    evaluators = make_evaluators(cfg, encoder)
    evaluation = Evaluation(images, held_out, superpixels, center, evaluators, device, workers=cfg.workers)
    check_labels(objective, images, held_out)
    subject = Subject(encoder, partial(objective.predict, branch=cfg.branch), objective)
    untrained = run.once("untrained", lambda: evaluation(subject))
    optimizer = build_optimizer(objective, lr=cfg.peak, **cfg.optimizing())
    weights = run.keep(make_weights(cfg, objective, images.tree))
    model, optimizer = run.prepare(objective, optimizer)
    if cfg.compile:
        objective.encoder.compile()
    check, photos = FirstBatch(objective), shown(images)
    picture = partial(gallery, encoder, superpixels, photos, cfg.image_size, device)
    for step, raw in run.steps(loader):
        set_rate(optimizer, cfg.rate(run.progress(step)))
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
    trained = evaluation.finish(subject)
    results = {"trained": trained, "best": best(run.folder, "top1"), "untrained": untrained}
    results |= evaluation.baselines()
    run.finish(table(**results), f"the hierarchy on photographs: {run.folder / 'pictures'}", **results)


if __name__ == "__main__":
    launch(main, Config)
