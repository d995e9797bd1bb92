"""Evaluate a frozen encoder: a linear probe, and nearest neighbors (CAST, Tables 4 and 5).

    accelerate launch recipes/probe_in1k.py --data folder:/path/to/imagenet --weights RUN/encoder.safetensors
    accelerate launch recipes/probe_in1k.py --data folder:/path/to/imagenet --weights checkpoint_0099.pth.tar
    accelerate launch recipes/probe_in1k.py --data folder:/path/to/imagenet --subset imagenet100 \
        --weights RUN/encoder.safetensors --lr 0.8 --batch-size 256
    accelerate launch recipes/probe_in1k.py ... --superpixels seeds:count=324 --sizes 324 128 64 32

Expect a top-1 accuracy of 68.1 on IN-1K and 79.9 on IN-100 with CAST-S; the last line is Table 5d's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from castssl import distributed
from castssl.checkpoints import load_encoder
from castssl.checkpoints.classifier import probe_weights
from castssl.checkpoints.native import Weights
from castssl.config import FREE, launch
from castssl.contracts import Encoder
from castssl.data.evaluation_views import CenterView
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.views import OneView, TwoViews
from castssl.evaluation.classification import Accuracy
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.evaluation.knn import Knn
from castssl.evaluation.matching import Matching
from castssl.evaluation.overlap import Overlap
from castssl.evaluation.report import table
from castssl.labels import LabelTree
from castssl.models.reset import reinitialize
from castssl.models.sizes import with_sizes
from castssl.modes import gathered
from castssl.objectives.probe import LinearProbe
from castssl.registry import build_superpixels
from castssl.tensor_files import write_tensors
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
from castssl.training.configs import ImageConfig
from castssl.training.logging import best
from castssl.training.presets import PROBE
from castssl.visualization.gallery import gallery, shown


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig):
    """Train a linear classifier on a frozen encoder; the defaults are the released code's for IN-1K."""

    by_preset = PROBE
    weights: str = ""
    """A run's folder, its encoder.safetensors or a checkpoint of it, or a published checkpoint."""
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
    """Epochs between two evaluations on held-out images; 0 = only after training."""

    def problems(self) -> list[str]:
        """What the types cannot say."""
        problems = super().problems()
        if not self.weights:
            problems.append("--weights is missing: type --weights RUN/encoder.safetensors")
        if self.val == "none":
            problems.append("--val none: a probe is measured on held-out images")
        return problems


def make_evaluators(cfg: Config, encoder: Encoder, size: int) -> list[Evaluator]:
    """What is measured of the frozen encoder on held-out images."""
    return [Matching(views=TwoViews(size)), Knn(cfg.knn_images), Overlap(encoder.sizes)]


def make_weights(cfg: Config, probe: LinearProbe, labels: LabelTree, spec: str, size: int) -> Weights:
    """The classifier with its encoder, as `castssl evaluate` and `castssl predict` read them."""
    return probe_weights(probe, superpixels=spec, image_size=size, labels=labels, level=cfg.level)


def save(folder: Path, probe: LinearProbe, weights: Weights) -> None:
    """Write the classifier alone, and with its encoder for `castssl evaluate` and `castssl predict`."""
    # Before only one process writes: all gather what FSDP has sharded.
    head = {name: gathered(tensor) for name, tensor in probe.model.head.state_dict().items()}
    if distributed.is_main():
        write_tensors(folder / "probe.safetensors", head, {})
    weights.write(folder / "encoder.safetensors")


def main(cfg: Config) -> None:
    """Evaluate the encoder, then train the probe, measuring its accuracy on held-out images as it goes."""
    run, accelerator = start(cfg)
    device = accelerator.device
    loaded = load_encoder(cfg.weights)
    images, held_out = cfg.images(channels=loaded.config.channels)
    size = cfg.image_size or loaded.config.image_size
    spec = loaded.config.superpixels if cfg.superpixels == "auto" else cfg.superpixels
    superpixels = build_superpixels(loaded.config, spec)
    encoder = with_sizes(loaded, cfg.sizes) if cfg.sizes else loaded
    fits(superpixels, encoder, size)
    objective = LinearProbe(encoder, images.tree, level=cfg.level).to(device)
    views, center = OneView(size, crop_min=cfg.crop_min), CenterView(size)
    loader = load(images, views=views, superpixels=superpixels, **cfg.loading())
    evaluators, accuracy = make_evaluators(cfg, encoder, size), Accuracy(cfg.level, every=cfg.eval_every)
    features = Evaluation(images, held_out, superpixels, center, evaluators, device, workers=cfg.workers)
    evaluation = replace(features, evaluators=[accuracy])
    check_labels(objective, images, held_out)
    frozen = run.once("encoder", lambda: features(Subject(encoder)))
    unlearned = run.once("untrained", lambda: features(Subject(reinitialize(encoder))))
    subject = Subject(encoder, objective.predict, objective)
    lr = scaled_rate(cfg.lr, cfg.batch_size)
    optimizer = build_optimizer(objective, name="sgd", lr=lr, weight_decay=0.0)
    weights = run.keep(make_weights(cfg, objective, images.tree, spec, size))
    model, optimizer = run.prepare(objective, optimizer)
    if cfg.compile:
        encoder.compile()
    check = FirstBatch(objective)
    if not run.step:
        run.picture(gallery(encoder, superpixels, shown(images), size, device))
    for step, raw in run.steps(loader):
        set_rate(optimizer, epoch_cosine(run.progress(step), cfg.epochs))
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
    trained = evaluation.finish(subject) | frozen
    results = {"trained": trained, "best": best(run.folder, "top1"), "untrained": unlearned}
    for heading, values in features.baselines().items():
        results[heading] = evaluation.baselines().get(heading, {}) | values
    save(run.folder, objective, weights)
    run.finish(table(**results), f"the hierarchy on photographs: {run.folder / 'pictures'}", **results)


if __name__ == "__main__":
    launch(main, Config)
