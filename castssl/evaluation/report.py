"""How results are shown: a title, a unit and a legend for each name in results.json."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

UNITS = {"_levels": "levels", "_ms": "ms", "_images": "images"}
"""Endings of names that give a unit; any other result is a share, 0 to 1, and shown in percent."""
TOP = ("top-{} accuracy", "top-k accuracy: the right class is among the k likeliest")
KNOWN = {
    r"fpa": ("FPA", "FPA: full-path accuracy, the classes of all levels are right"),
    r"tice": ("TICE", "TICE: tree inconsistency, classes that are no path of the tree; lower is better"),
    r"wap": ("wAP", "wAP: mean of the levels' accuracies, weighted by their numbers of classes"),
    r"miou": ("mIoU", "mIoU: mean over classes of intersection over union, of all pixels of the set"),
    r"pixel_accuracy": ("pixel accuracy", "pixel accuracy: the share of labelled pixels that are right"),
    r"class_accuracy": ("class accuracy", "class accuracy: the mean over classes of pixel accuracy"),
    r"top(1)": TOP,
    r"knn": ("kNN accuracy", "kNN accuracy: the class that the 20 nearest training images vote for is right"),
    r"object_iou_(\d+)": ("object IoU, {} segments", "object IoU: of the object and its best segment"),
    r"region_iou_(\d+)": (
        "region mIoU, {} segments",
        "region mIoU: of object and background, each segment given to one of the two",
    ),
    r"part_iou_(\d+)": ("part mIoU, {} segments", "part mIoU: the same of the object's parts and the rest"),
    r"match": ("view matching", "view matching: of all views, the nearest to a random view is of its image"),
    r"top(\d+)": TOP,
    r"top1_balanced": ("balanced accuracy", "balanced accuracy: the mean over classes of top-1 accuracy"),
    r"level(\d+)": ("accuracy, level {}", "accuracy, level l: top-1 at a label level; 0 is the coarsest"),
    r"level(\d+)_balanced": (
        "balanced accuracy, level {}",
        "balanced accuracy, level l: the mean over the classes of the level",
    ),
    r"severity_levels": (
        "mistake severity",
        "mistake severity: mean height where wrong and right class meet; lower is better",
    ),
    r"distance(\d+)_levels": (
        "hierarchical distance@{}",
        "hierarchical distance@k: mean height of the k likeliest classes; lower is better",
    ),
}
"""Patterns of names, the most important first: a title, whose {} is the number in the name, and a legend."""
AMENDED = ", HiE"
HIE = "HiE: each class's probability is multiplied by its parent's"
COLUMNS = {
    "best": "best: the highest value during training",
    "bound": "bound: each superpixel has its most frequent true class",
    "majority": "majority: the most frequent held-out class as a constant answer",
    "chance": "chance level: random guesses; of IoU by segments, superpixels merged at random",
}
"""Legends of columns."""


class Metric(NamedTuple):
    """How a result is shown."""

    name: str
    """Its key in results.json."""
    title: str
    """As a paper prints it."""
    unit: str
    """%, levels, ms or images."""
    legend: str
    """One line; empty for an unknown name."""

    @property
    def scale(self) -> float:
        """What a value is multiplied by: 100 for a share, 1 for what has a unit."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def lower_is_better(self) -> bool:
        """True for errors and times."""
        return self.unit == "ms" or "lower is better" in self.legend


def metric(name: str) -> Metric:
    """The metric of a name in results.json; an unknown name is its own title."""
    unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "%")
    plain = name.replace("_hie", "")
    for pattern, (title, legend) in KNOWN.items():
        if match := re.fullmatch(pattern, plain):
            amended = plain != name
            return Metric(name, title.format(*match.groups()) + AMENDED * amended, unit, legend)
    return Metric(name, name.replace("_", " "), unit, "")


def by_importance(names: Iterable[str]) -> list[str]:
    """Names of results in the order of :data:`KNOWN`, then those with HiE, then unknown names.

    Of one kind, those with fewer segments are first.
    """

    def rank(name: str) -> tuple[int, ...]:
        for index, pattern in enumerate(KNOWN):
            if match := re.fullmatch(pattern, name.replace("_hie", "")):
                return ("_hie" in name, index, *map(int, match.groups()))
        return (2,)

    return sorted(names, key=rank)


def table(**columns: Mapping[str, float]) -> Group | str:
    """Results side by side with their units, then a legend; n/a without a value.

    Without any result, it is a sentence.

    Args:
        columns: a heading, such as ``trained`` or ``chance``, to results by name.
    """
    names = list(dict.fromkeys(name for results in columns.values() for name in results))
    if not names:
        return "nothing was measured on held-out images"
    metrics = [metric(name) for name in names]
    shown = Table(title="On held-out images", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("metric")
    shown.add_column("unit", no_wrap=True)
    for heading in columns:
        shown.add_column("chance\nlevel" if heading == "chance" else heading, justify="right", no_wrap=True)
    for one in metrics:
        values = [results.get(one.name) for results in columns.values()]
        cells = ("n/a" if value is None else f"{one.scale * value:.1f}" for value in values)
        shown.add_row(one.title, one.unit, *cells)
    return Group(shown, *(Text(line, no_wrap=True, overflow="ignore") for line in legend(metrics, columns)))


def legend(metrics: Sequence[Metric], columns: Collection[str]) -> list[str]:
    """One line for each kind of metric, then for the columns."""
    amended = any(one.title.endswith(AMENDED) for one in metrics)
    lines = [one.legend for one in metrics if one.legend] + [HIE] * amended
    return list(dict.fromkeys([*lines, *(line for heading, line in COLUMNS.items() if heading in columns)]))
