"""Recognize many labels per image, with language: HSVLT on a timm trunk, or on CAST's segments.

    accelerate launch recipes/multilabel.py --data coco14:/path/to/coco
    accelerate launch recipes/multilabel.py --data voc07:/path/to/VOCdevkit --preset paper
    accelerate launch recipes/multilabel.py --data nus-wide:/path/to/NUS-WIDE --model cast_small
    python recipes/multilabel.py --data demo-many --preset small

Expect a mAP of 97.5 on VOC07, 91.6 on COCO14 and 72.1 on NUS-WIDE with ConvNeXt-S and BERT: the paper's
numbers; this recipe has not been run at that scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from castssl import distributed
from castssl.checkpoints.classifier import classifier_weights
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.native import Weights
from castssl.config import FREE, MEASURES, launch, measured_with
from castssl.data.evaluation_views import CenterView, SquashedView
from castssl.data.loader import load
from castssl.data.normalize import to_views
from castssl.data.supervised_views import Policy, SupervisedView
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.encoder_config import EncoderConfig
from castssl.errors import CastError, DataError
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.evaluation.label_attention import AttentionOnObject
from castssl.evaluation.many_labels import ManyLabels
from castssl.evaluation.report import table
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.averaged import Averaged
from castssl.registry import build, build_superpixels, parse, require
from castssl.training import FirstBatch, build_optimizer, check_batch, check_labels, fits, set_rate, start
from castssl.training.configs import PretrainConfig
from castssl.training.logging import best
from castssl.training.plateau import Plateau
from castssl.training.poly import poly
from castssl.training.presets import MULTILABEL
from castssl.visualization.gallery import gallery, shown

EMBEDDINGS = "label-embeddings.safetensors"
"""The file in a run's folder that keeps the embeddings of the label names."""


@dataclass(frozen=True, kw_only=True)
class Config(PretrainConfig):
    """Recognize many labels per image, with language; the defaults are those of HSVLT's code."""

    by_preset = MULTILABEL
    preset: str = field(default="released", metadata=FREE)
    """Defaults of the other flags: released, those of HSVLT's code, or paper, those of its text; small or
    tiny, for fewer images; or auto, by the number of training images. recipes/README.md lists what each
    sets."""
    model: str = "timm-features:convnext_small"
    """timm-features:NAME, any timm model with feature maps (HSVLT: ConvNeXt-S); a model whose tokens are
    segments, such as cast_small or cast_nano; or another of `castssl list encoders`."""
    weights: str | None = None
    """Begin with a trained encoder: a run's folder, an encoder.safetensors, or a published checkpoint."""
    objective: str = "multilabel"
    """The objective with options, such as multilabel:head=plain or multilabel:loss=asl,norm=pre; `castssl
    describe objectives multilabel` lists them."""
    text: str = "bert:bert-base-uncased"
    """Where the embeddings of label names come from: bert:NAME (HSVLT), sentence:NAME, clip:NAME, file:PATH
    or learned:256. They are computed once and kept in the run's folder."""
    normalize: Literal["imagenet", "none"] = "none"
    """Pixels as the encoder reads them: by ImageNet's mean and standard deviation, or from 0 to 1."""
    image_size: int = 448
    epochs: int = 100
    batch_size: int = 4
    lr: float = 1e-5
    """Learning rate of all parameters; does not scale with --batch-size."""
    weight_decay: float = 1e-4
    """Weight decay of all parameters."""
    warmup_epochs: float = 2
    schedule: Literal["plateau", "poly"] = "plateau"
    """After the warm-up: plateau, a tenth of the rate where the mAP of held-out images does not rise (the
    released code); or poly, (1 - progress)^0.9 (the paper, which does not give the power)."""
    patience: int = 1
    """Evaluations without a higher mAP before --schedule plateau lowers the rate."""
    stop_after: int = 4
    """Evaluations without a higher mAP after which --schedule plateau ends the training; 0 = never."""
    augment: Policy = "randaugment"
    """randaugment: two operations of magnitude 9; three: 3-Augment; or none."""
    crop_min: float = 0.7
    """Smallest share of an image's area that a view shows."""
    ema: float = 0.0
    """Keep an average of the weights that moves by 1 - ema a step; 0 = none."""
    branch: Literal["base", "ema"] = field(default="base", metadata=MEASURES)
    """What is evaluated and saved: the weights themselves, or their average."""
    eval_every: int = field(default=1, metadata=FREE)
    """Epochs between measurements of the mAP on held-out images; 0 = only before and after training."""
    knn_every: int = field(default=10, metadata=FREE)
    """Epochs between pictures, and measurements of what labels attend to where objects have masks; 0 = after
    training alone."""

    def problems(self) -> list[str]:
        """What the types cannot say."""
        problems = super().problems()
        if self.branch != "base" and not self.ema:
            problems.append("--branch ema needs --ema above 0")
        if self.schedule == "plateau" and self.eval_every < 1:
            problems.append("--schedule plateau follows the mAP: it needs --eval-every 1 or more")
        if self.normalize == "none" and (self.mean or self.std):
            problems.append("--mean and --std: --normalize none leaves pixels as they are; leave one out")
        if self.lr <= 0 or self.patience < 0 or self.stop_after < 0:
            problems.append("--lr is above 0, --patience and --stop-after are 0 or more")
        try:
            require("objectives", parse(self.objective).name)
        except CastError as error:
            problems.append(f"--objective: {error}")
        return problems

    def encoder(self, seeds: str = "seeds", **overrides: Any) -> EncoderConfig:
        """As for other recipes, with the constants of --normalize."""
        config = super().encoder(seeds, **overrides)
        if self.normalize == "none":
            config = replace(config, mean=(0.0,) * self.channels, std=(1.0,) * self.channels)
        return config

    def rate(self, progress: float) -> float:
        """The share of the highest learning rate after a share of all steps, without that of a plateau."""
        warmup = self.warmup_epochs / max(self.epochs, 1)
        return poly(progress, 0.9 if self.schedule == "poly" else 0.0, warmup=warmup, start=0.0)

    def plateau(self) -> Plateau:
        """What follows the mAP; nothing with --schedule poly."""
        if self.schedule == "poly":
            return Plateau(self.lr)
        after = {"patience": self.patience, "stop_after": self.stop_after}
        return Plateau(self.lr, **after, measured_with=measured_with(self))


def open_both(cfg: Config) -> tuple[Images | Stream, Images | Stream | None]:
    """Training images and held-out images."""
    images, held_out = cfg.images(streams=False)
    if held_out is None and cfg.schedule == "plateau":
        raise DataError(
            f"--schedule plateau follows the mAP of held-out images, and {cfg.data} has none; give --val,"
            " --val-share 0.1 or --schedule poly"
        )
    return images, held_out


def make_objective(cfg: Config, labels: LabelTree, folder: Path) -> Averaged[Any]:
    """The objective around an encoder; label embeddings are computed once and kept in a run's folder."""
    encoder = create(cfg.encoder(), advance=True)
    if cfg.weights:
        report = initialize(encoder, cfg.weights)
        if distributed.is_main():
            print(report)
    store = "" if cfg.text.startswith("learned:") else str(folder / EMBEDDINGS)
    options: dict[str, Any] = {"text": cfg.text, "store": store, "ema": cfg.ema}
    return cast(Averaged[Any], build("objectives", cfg.objective, encoder, labels, **options))


def make_evaluators(cfg: Config, objective: Averaged[Any]) -> list[Evaluator]:
    """What is measured on held-out images."""
    whole, attend = SquashedView(cfg.image_size), partial(objective.label_attention, branch=cfg.branch)
    return [
        ManyLabels(every=cfg.eval_every, views=whole),
        AttentionOnObject(every=cfg.knn_every, attend=attend),
    ]


def make_weights(cfg: Config, objective: Averaged[Any], labels: LabelTree) -> Weights:
    """The encoder with its head and the label embeddings, as `castssl predict` reads them."""
    options = {"text": cfg.text}
    return classifier_weights(
        objective, spec=cfg.objective, labels=labels, options=options, branch=cfg.branch
    )


def main(cfg: Config) -> None:
    """Train, measuring average precision on held-out images as it goes."""
    run, accelerator = start(cfg)
    device = accelerator.device
    images, held_out = open_both(cfg)
    superpixels = build_superpixels(cfg.encoder())
    with accelerator.main_process_first():
        objective = make_objective(cfg, images.tree, run.folder).to(device)
    fits(superpixels, objective.encoder, cfg.image_size)
    check_batch(objective, cfg.batch_size // cfg.accumulate)
    check_labels(objective, images, held_out)
    view = SupervisedView(cfg.image_size, policy=cfg.augment, erase=0.0, crop_min=cfg.crop_min)
    loader = load(images, views=view, superpixels=superpixels, **cfg.loading())
    encoder, center = objective.branch(cfg.branch), CenterView(cfg.image_size)
    measures = make_evaluators(cfg, objective)
    evaluation = Evaluation(images, held_out, superpixels, center, measures, device, workers=cfg.workers)
    subject = Subject(encoder, partial(objective.predict, branch=cfg.branch), objective)
    untrained = run.once("untrained", lambda: evaluation(subject))
    plateau = run.follow(cfg.plateau())
    optimizer = build_optimizer(objective, lr=cfg.lr, weight_decay=cfg.weight_decay, decay="all")
    weights = run.keep(make_weights(cfg, objective, images.tree))
    model, optimizer = run.prepare(objective, optimizer)
    if cfg.compile:
        objective.compile()
    check, photos = FirstBatch(objective), shown(images)
    picture = partial(gallery, encoder, superpixels, photos, cfg.image_size, device)
    for step, raw in run.steps(loader):
        set_rate(optimizer, cfg.rate(run.progress(step)) * plateau.factor)
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
        if run.every(cfg.eval_every) and run.ends_epoch:
            plateau.step(evaluation.latest.get("mAP"), warming=run.epochs_done < cfg.warmup_epochs)
        if run.every(cfg.knn_every):
            run.picture(picture())
    weights.write(run.folder / "encoder.safetensors")
    run.picture(picture())
    trained = evaluation.finish(subject)
    results = {"trained": trained, "best": best(run.folder, "mAP"), "untrained": untrained}
    results |= evaluation.baselines()
    run.finish(table(**results), f"the hierarchy on photographs: {run.folder / 'pictures'}", **results)


if __name__ == "__main__":
    launch(main, Config)
