"""How long the paper's ablations train, and what the embedded data set can bear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from castssl.ablations.grid import Study
from castssl.shipped import recipe

SEEDS = ("0", "1", "2")
MOCO = ("--subset", "imagenet100", "--epochs", "200", "--warmup-epochs", "20")
PROBE = ("--subset", "imagenet100", "--lr", "0.8", "--batch-size", "256")
NANO = (
    *("--model", "nano", "--image-size", "64", "--batch-size", "32", "--workers", "0", "--schedule", "paper"),
    *("--lr", "0.03", "--warmup-lr", "1e-5", "--epochs", "4", "--warmup-epochs", "1", "--repeats", "1"),
    *("--augment", "none", "--erase", "0", "--crop-min", "0.35", "--mixup", "0", "--cutmix", "0"),
    *("--drop-path", "0", "--ema", "0", "--eval-every", "0", "--knn-every", "1000"),
)
NANO_MOCO = (
    *("--image-size", "64", "--crop-min", "0.2", "--blur", "0.6", "--batch-size", "64"),
    *("--warmup-epochs", "1", "--lr", "0.008", "--momentum", "0.95", "--hidden", "512", "--out-dim", "128"),
    *("--workers", "0", "--knn-every", "0"),
)
"""MoCo on the demo set and on drawings, in the studies of what its encoders are good for."""
NANO_PROBE = ("--epochs", "4", "--batch-size", "64", "--lr", "1", "--workers", "0", "--eval-every", "0")


def imagenet100(title: str, grid: Mapping[str, Sequence[str]], **changes: Any) -> Study:
    """MoCo for 200 epochs on IN-100, then the linear probe (CAST, Tables 5 and 11).

    Args:
        title: the table's heading.
        grid: see :class:`Study`; three seeds are added.
        changes: other fields of :class:`Study`.
    """
    options: dict[str, Any] = {
        "recipe": recipe("moco_in1k"),
        "flags": MOCO,
        "then": recipe("probe_in1k"),
        "then_flags": PROBE,
    }
    return Study(**{**options, "title": title, "grid": {**grid, "seed": SEEDS}, **changes})


def embedded(title: str, grid: Mapping[str, Sequence[str]], **changes: Any) -> Study:
    """A nano with labels (DeiT) on the demo set: MoCo shows no difference between poolings in a few minutes.

    Args:
        title: the table's heading; "on the embedded data set" is added.
        grid: see :class:`Study`; three seeds are added.
        changes: other fields of :class:`Study`.
    """
    options: dict[str, Any] = {
        "recipe": recipe("deit_in1k"),
        "flags": NANO,
    }
    named = f"{title}, on the embedded data set"
    return Study(**{**options, "title": named, "grid": {**grid, "seed": SEEDS}, **changes})
