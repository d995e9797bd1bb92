"""Recognize at all levels of a taxonomy: H-CAST, and what it is compared with.

    accelerate launch recipes/hcast.py --data breeds:living17:/path/to/imagenet
    accelerate launch recipes/hcast.py --data cub:/path/to/CUB_200_2011 --weights cast_deit_small.pth
    accelerate launch recipes/hcast.py --data aircraft:/path/to/fgvc-aircraft-2013b --method hier-vit
    python recipes/hcast.py --data demo

Expect a full-path accuracy (FPA) of 85.12 and inconsistent paths (TICE) of 3.19 % on Living-17.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from castssl import distributed
from castssl.checkpoints.classifier import classifier_weights
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.native import Weights
from castssl.config import launch
from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.supervised_views import SupervisedView
from castssl.data.taxon_views import TaxonViews
from castssl.data.views import Augment, TwoViews
from castssl.datasets.demo.dataset import cache
from castssl.datasets.demo.texts import demo_texts
from castssl.datasets.free_grain import hide_fine
from castssl.datasets.image_texts import embed_texts
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.errors import DataError
from castssl.evaluation.free_grained import FreeGrained
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.evaluation.knn import Knn
from castssl.evaluation.label_paths import LabelPaths
from castssl.evaluation.matching import Matching
from castssl.evaluation.overlap import Overlap
from castssl.evaluation.report import table
from castssl.evaluation.texts_only import texts_only
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.classification import Supervised
from castssl.registry import build, build_superpixels
from castssl.training import FirstBatch, build_optimizer, check_batch, check_labels, fits, set_rate, start
from castssl.training.hierarchy import HierarchyConfig
from castssl.training.logging import best
from castssl.visualization.gallery import gallery, shown
from castssl.visualization.risk_coverage import write_risk_coverage

SEEDS = "seeds:bins=5,iterations=15"  # What the released H-CAST has for SEEDS.


@dataclass(frozen=True, kw_only=True)
class Config(HierarchyConfig):
    """Recognize at all levels of a taxonomy; the defaults are those published for the data set."""


def make_encoder(cfg: Config) -> Encoder:
    """The encoder as DeiT trains it."""
    return create(cfg.encoder(SEEDS, positions="learned", drop_path=cfg.drop_path), advance=True)


def open_both(cfg: Config) -> tuple[Images, Images | Stream | None]:
    """Training images, some of them with coarse labels only if that is asked for, and held-out images."""
    images, held_out = cfg.images()
    if not isinstance(images, Images):
        raise DataError(f"{cfg.data} is a stream, which has no taxonomy; take a folder or tree:/path")
    share, seed = cfg.hidden()
    return hide_fine(images, share, seed=seed) if share else images, held_out


def with_texts(cfg: Config, images: Images, split: str = "train") -> Images:
    """The same images with their texts, if that is asked for."""
    if cfg.texts is None:
        return images
    file = demo_texts(cfg.data, cfg.texts, split) if cfg.texts.partition(":")[0] == "demo" else cfg.texts
    texts, about = embed_texts(images.source, images.rows.tolist(), file, cfg.text_encoder, cache=cache())
    if distributed.is_main():
        print(about)
    return replace(images, texts=texts)


def measure_texts(
    cfg: Config, images: Images, held_out: Images | Stream | None
) -> dict[str, dict[str, float]]:
    """What a classifier that sees the texts alone reaches, where held-out images have generated ones, too."""
    generated = cfg.texts is not None and cfg.texts.partition(":")[0] == "demo" and not cfg.val
    if not generated or not isinstance(held_out, Images):
        return {}
    return {"texts": texts_only(images, with_texts(cfg, held_out, "train" if cfg.val_share else "val"))}


def make_objective(cfg: Config, labels: LabelTree, text_dim: int = 0) -> Supervised:
    """The encoder with a classifier for each level."""
    encoder = make_encoder(cfg)
    options: dict[str, Any] = {"mixup": cfg.mixup, "cutmix": cfg.cutmix, "smoothing": cfg.smoothing}
    options |= {"ema": cfg.ema, **({"text_dim": text_dim} if text_dim else {})}
    objective = cast(Supervised, build("objectives", cfg.chosen().objective, encoder, labels, **options))
    if cfg.weights:
        report = initialize(objective, cfg.weights)
        if distributed.is_main():
            print(report)
    return objective


def make_views(cfg: Config) -> Augment:
    """What the classifiers train on."""
    if cfg.chosen().objective.partition(":")[0] == "taxon-ssl":
        return TaxonViews(cfg.image_size, crop_min=cfg.crop_min)
    return SupervisedView(cfg.image_size, policy=cfg.augment, erase=cfg.erase, crop_min=cfg.crop_min)


def make_weights(cfg: Config, objective: Supervised, labels: LabelTree) -> Weights:
    """The encoder with its classifiers, as `castssl predict` reads them."""
    return classifier_weights(objective, spec=cfg.chosen().objective, labels=labels, branch=cfg.branch)


def make_evaluators(cfg: Config, encoder: Encoder) -> list[Evaluator]:
    """What is measured on held-out images."""
    every, views = cfg.knn_every, TwoViews(cfg.image_size)
    evaluators: list[Evaluator] = [LabelPaths(cfg.chosen().hie, every=cfg.eval_every), FreeGrained()]
    if every:
        knn = Knn(cfg.knn_images, every=every)
        overlap = Overlap(encoder.sizes, cfg.masks, every=every)
        evaluators += [Matching(views=views, every=every), knn, overlap]
    return evaluators


def main(cfg: Config) -> None:
    """Train, evaluating label paths and segments on held-out images as it goes."""
    run, accelerator = start(cfg)
    device = accelerator.device
    images, held_out = open_both(cfg)
    with accelerator.main_process_first():  # The others read what the first one has computed.
        images = with_texts(cfg, images)
        alone = measure_texts(cfg, images, held_out)
    superpixels = build_superpixels(cfg.encoder(SEEDS))
    objective = make_objective(cfg, images.tree, images.texts.dim if images.texts else 0).to(device)
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
    for part in objective.encoders() if cfg.compile else ():
        part.compile()
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
    for answers in evaluators:
        if isinstance(answers, FreeGrained):
            write_risk_coverage(answers.curves, run.folder)
    results = {"trained": trained, "best": best(run.folder, "fpa"), "untrained": untrained}
    results |= alone | evaluation.baselines()
    run.finish(table(**results), f"the hierarchy on photographs: {run.folder / 'pictures'}", **results)


if __name__ == "__main__":
    launch(main, Config)
