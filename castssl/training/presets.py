"""Settings for data sets smaller than those of the papers: ``--preset small`` and ``--preset tiny``.

They were chosen on generated images and on drawings on photographs; recipes/README.md has what they reach on
Fashion-MNIST, which took no part in the choice.  Of those of the recipe multilabel only the rate and the
initial weights were compared, on demo-many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from castssl.config import flag_value
from castssl.data.splits import open_splits
from castssl.errors import CastError

Preset = Literal["published", "small", "tiny"]
Values = Mapping[str, Mapping[str, Any]]
"""The values of a recipe's fields by the name of the preset."""
LIMITS: Mapping[Preset, int] = {"tiny": 2_000, "small": 50_000}
"""``auto`` takes the first preset whose number of training images is above that of the data."""

_NANO = {"model": "cast_nano", "image_size": 64}
_LABELS = {
    **{**_NANO, "schedule": "paper", "lr": 0.03, "warmup_lr": 1e-5, "warmup_epochs": 1, "repeats": 1},
    **{"augment": "none", "erase": 0.0, "mixup": 0.0, "cutmix": 0.0, "drop_path": 0.0},
}
SUPERVISED: Values = {
    "small": {**_LABELS, "epochs": 30, "batch_size": 32, "crop_min": 0.35, "ema": 0.999},
    "tiny": {**_LABELS, "epochs": 60, "batch_size": 16, "crop_min": 0.35, "ema": 0.99},
}
_VIEWS = {**_NANO, "crop_min": 0.2, "blur": 0.6, "lr": 0.008, "batch_size": 64}
CONTRASTIVE: Values = {
    "small": {**_VIEWS, "epochs": 50},
    "tiny": {**_VIEWS, "epochs": 200},
}
_NARROW = {"momentum": 0.95, "hidden": 512, "out_dim": 128}
MOCO: Values = {name: {**values, **_NARROW} for name, values in CONTRASTIVE.items()}
_TRUNK = {
    **{"model": "timm-features:convnext_small", "text": "bert:bert-base-uncased", "image_size": 448},
    **{"epochs": 100, "batch_size": 4, "lr": 1e-5, "weight_decay": 1e-4, "warmup_epochs": 2, "crop_min": 0.7},
}
_SEGMENTS = {
    **{**_NANO, "text": "learned:256", "normalize": "imagenet"},
    **{"objective": "multilabel:norm=pre,init=scaled", "crop_min": 0.7},
    **{"schedule": "poly", "lr": 2e-3, "weight_decay": 0.05, "warmup_epochs": 1, "augment": "none"},
}
MULTILABEL: Values = {
    "released": {**_TRUNK, "objective": "multilabel", "normalize": "none", "schedule": "plateau"},
    "paper": {
        **{**_TRUNK, "objective": "multilabel:visual=gated,aggregation=hamburger"},
        **{"normalize": "imagenet", "schedule": "poly"},
    },
    "small": {**_SEGMENTS, "epochs": 30, "batch_size": 32},
    "tiny": {**_SEGMENTS, "epochs": 60, "batch_size": 16},
}
PROBE: Values = {
    "small": {"epochs": 30, "batch_size": 32, "lr": 1.0, "crop_min": 0.35},
    "tiny": {"epochs": 60, "batch_size": 16, "lr": 1.0, "crop_min": 0.35},
}
SEGMENT: Values = {
    "small": {"epochs": 64, "batch_size": 8},
    "tiny": {"epochs": 128, "batch_size": 4},
}


def resolve(argv: Sequence[str], default: str = "published") -> str:
    """The preset that a command line names; ``auto`` becomes one of the others."""
    name = flag_value(argv, "--preset") or default
    if name != "auto":
        return name
    try:
        share = float(flag_value(argv, "--val-share") or 0)
    except ValueError:
        share = 0.0  # The command line is refused.
    data, subset = flag_value(argv, "--data") or "", flag_value(argv, "--subset")
    return by_size(data, share, subset, "--allow-commands" in argv)


def by_size(data: str, share: float, subset: str | None, commands: bool) -> Preset:
    """The preset for the number of training images; ``published`` for data that cannot be opened."""
    try:
        return _by_size(data, share, subset, commands)
    except CastError:
        return "published"  # The run opens the data again and reports what is wrong.


@lru_cache
def _by_size(data: str, share: float, subset: str | None, commands: bool) -> Preset:
    """As :func:`by_size`; an exception is not kept, so data that are repaired are counted."""
    splits = open_splits(data, share=share, subset=subset, measured=False, commands=commands)
    return of_count(len(splits.train))


def of_count(images: int) -> Preset:
    """The preset for so many training images."""
    return next((name for name, limit in LIMITS.items() if images < limit), "published")
