"""Settings that recipes which train with labels share: DeiT's, which CAST and H-CAST take over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from castssl.config import FREE, MEASURES
from castssl.data.supervised_views import Policy
from castssl.training.configs import PretrainConfig
from castssl.training.epoch_schedule import epoch_cosine
from castssl.training.optim import scaled_rate
from castssl.training.presets import SUPERVISED
from castssl.training.schedule import warmup_cosine

if TYPE_CHECKING:
    from typing_extensions import Self

FITTED = {"code": 512, "paper": 1024}
"""The images per step that a schedule's learning rate is meant for."""


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(PretrainConfig):
    """Training with labels; the defaults are those of CAST's Table 12 and the code released with it."""

    by_preset = SUPERVISED
    epochs: int = 300
    batch_size: int = 1024
    warmup_epochs: float = 5
    schedule: Literal["code", "paper"] = "code"
    """code: epoch by epoch, one epoch late, and --lr is for 512 images; paper: with every step, for 1024."""
    cosine_epochs: int = 0
    """Epochs that the cosine takes to fall, 0 = all of --epochs; the released H-CAST has 300 for runs of 100,
    which so end at three quarters of the peak, and so have the published settings of its data sets here.
    With --schedule code only."""
    lr: float = 5e-4
    """Learning rate for so many images as --schedule says; scales with --batch-size."""
    warmup_lr: float = 1e-6
    """Learning rate that the warm-up starts from; does not scale.  A default above the highest learning rate
    becomes a hundredth of that."""
    min_lr: float = 1e-5
    """Learning rate that the cosine falls to (the released code; Table 12 has none); does not scale.  A
    default above the highest learning rate becomes a hundredth of that."""
    weight_decay: float = 0.05
    """Weight decay of all but biases, norms, class token and positions."""
    cls_token_twice: bool = field(default=True, metadata=FREE)
    """The class token learns at twice the rate: the released code adds two parameters with the same gradient
    (class token, and its slot of the learned positions), castssl has one."""
    drop_path: float = 0.1
    """Stochastic depth of the last block."""
    augment: Policy = "randaugment"
    """randaugment: two operations of magnitude 9; three: 3-Augment, which erases nothing; or none."""
    erase: float = 0.25
    """Probability that a part of a view becomes noise."""
    crop_min: float = 0.08
    """Smallest share of an image's area that a view shows."""
    repeats: int = 3
    """Views of one image in an epoch, which then sees a third of the images; 1 = each image once."""
    mixup: float = 0.8
    """Blend images, by shares from Beta(mixup, mixup); 0 = never."""
    cutmix: float = 1.0
    """Paste parts of images into others, by shares from Beta(cutmix, cutmix); 0 = never."""
    smoothing: float = 0.1
    """Label smoothing."""
    ema: float = 0.99996
    """Keep an average of the weights that moves by 1 - ema a step; 0 = none."""
    branch: Literal["base", "ema"] = field(default="base", metadata=MEASURES)
    """What is evaluated and saved: the weights themselves (the released code), or their average."""
    eval_every: int = field(default=1, metadata=FREE)
    """Epochs between measurements of the accuracy on held-out images; 0 = only before and after training."""

    def problems(self) -> list[str]:
        """Faults of these settings that their types allow."""
        problems = super().problems()
        if self.branch != "base" and not self.ema:
            problems.append("--branch ema needs --ema above 0")
        if self.lr == 0:
            problems.append("--lr: got 0, expected a number above 0")
        elif self.peak > 0 and not (0 <= self.warmup_lr <= self.peak and 0 <= self.min_lr <= self.peak):
            problems.append(
                f"--warmup-lr, --min-lr: got {self.warmup_lr:g} and {self.min_lr:g}, expected 0 to the"
                f" highest learning rate, {self.peak:g} for a batch of {self.batch_size}"
            )
        if self.cosine_epochs and self.schedule == "paper":
            problems.append("--cosine-epochs is the released code's: it needs --schedule code")
        return problems + self.below(cosine_epochs=0, repeats=1)

    def fitted(self, typed: Collection[str]) -> Self:
        """Whole epochs of warm-up where the schedule moves by epochs; ends of the schedule below its peak."""
        config, changed = super().fitted(typed), dict[str, Any]()
        if config.warmup_epochs != self.warmup_epochs and config.schedule == "code":
            changed["warmup_epochs"] = int(config.warmup_epochs)
        for name in ("warmup_lr", "min_lr"):
            if name not in typed and getattr(config, name) > config.peak > 0:
                changed[name] = config.peak / 100
        return replace(config, **changed)

    def loading(self) -> dict[str, Any]:
        """As for other recipes, and ``repeats``."""
        return super().loading() | {"repeats": self.repeats}

    def optimizing(self) -> dict[str, Any]:
        """The options of :func:`castssl.training.optim.build_optimizer` beside the learning rate."""
        return {"weight_decay": self.weight_decay, "decay": "weights", "summands": self.cls_token_twice}

    @property
    def peak(self) -> float:
        """The highest learning rate, for this batch size."""
        return scaled_rate(self.lr, self.batch_size, per=FITTED[self.schedule])

    def rate(self, progress: float) -> float:
        """The learning rate at a share of all steps, as a share of the highest."""
        begin, floor = self.warmup_lr / self.peak, self.min_lr / self.peak
        if self.schedule == "paper":
            return warmup_cosine(progress, self.warmup_epochs / self.epochs, floor, start=begin)
        shape: dict[str, Any] = {"start": begin, "floor": floor, "lag": 1, "cycle": self.cosine_epochs}
        return epoch_cosine(progress, self.epochs, warmup=self.warmup_epochs, **shape)
