"""How results are shown: a title, a unit and a legend for each name in results.json."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

UNITS = {"_sq": "d²"} | {
    f"_{unit}": unit for unit in ("levels", "ms", "images", "px", "classes", "times", "dims", "nats")
}
"""Endings of names that give a unit; any other result is a share, 0 to 1, and shown in percent."""
TOP = ("top-{} accuracy", "top-k accuracy: the right class is among the k likeliest")
PRF1 = "OP to CF1: overall (O) and by class (C) precision, recall, F1, above 0.5"
AURC = "AURC: mean risk (share of answers that are wrong) over coverage; lower is better"
ECE = "ECE over 15 bins of the probability; lower is better"
KNOWN = {
    r"ece": ("calibration error", ECE),
    r"ece_level(\d+)": ("calibration error, level {}", ECE),
    r"fpa": ("FPA", "full-path accuracy, the classes of all levels are right"),
    r"fpa_known": ("FPA, known levels", "the classes of all levels with a label are right"),
    r"tice": ("TICE", "tree inconsistency, classes that form no path of the tree; lower is better"),
    r"wap": ("wAP", "mean of the levels' accuracies, weighted by their numbers of classes"),
    r"mAP": ("mAP", "mean over classes of average precision, non-interpolated"),
    r"mAP_level(\d+)": ("mAP, level {}", "mAP, level l: of the classes of a label level; 0 is the coarsest"),
    r"mAP_11point": ("mAP, 11-point", "the same by VOC2007's interpolated average precision"),
    r"([OC](?:P|R|F1))": ("{}", PRF1),
    r"([OC](?:P|R|F1))_top(\d+)": ("{}, top {}", "top k: the same of the k likeliest labels of each image"),
    r"without_parent": ("without parent", "images with a label predicted, its parent not; lower is better"),
    r"unscored_classes": ("classes left out", "of the means over classes, as no held-out image has them"),
    r"attention_on_object_(\d+)": (
        "attention on object, stage {}",
        "attention on object: of a label's attention, on its own object; 0: finest stage",
    ),
    r"attention_of_others_(\d+)": (
        "of other labels, stage {}",
        "of the attention of the image's other labels, on that object",
    ),
    r"attention_gain_(\d+)_times": (
        "attention to area, stage {}",
        "attention on object divided by area of object",
    ),
    r"area_of_object": ("area of object", "its share of the view, as of uniform attention"),
    r"miou": ("mIoU", "mean over classes of intersection over union, of all pixels of the set"),
    r"boundary_f": ("boundary F", "of boundaries, class by class; mean over classes, then over images"),
    r"boundary_f_pooled": (
        "boundary F, pooled",
        "boundaries of all images counted together; mean over classes",
    ),
    r"boundary_f_any": ("boundary F, any class", "of changes of the label; mean over images"),
    r"boundary_f_any_pooled": ("boundary F, any class, pooled", "the same of all images counted together"),
    r"boundary_iou": ("boundary IoU", "mIoU of the pixels within 2 % of the diagonal of a boundary"),
    r"pixel_accuracy": ("pixel accuracy", "the share of labeled pixels that are right"),
    r"class_accuracy": ("class accuracy", "the mean over classes of pixel accuracy"),
    r"top(1)": TOP,
    r"knn": ("kNN accuracy", "the class that the 20 nearest training images vote for is right"),
    r"object_iou_(\d+)": ("object IoU, {} segments", "of the object and its best segment"),
    r"region_iou_(\d+)": (
        "region mIoU, {} segments",
        "of object and background, each segment given to one of the two",
    ),
    r"part_iou_(\d+)": ("part mIoU, {} segments", "the same of the object's parts and the rest"),
    r"nestedness": ("nestedness", "pixels in the coarser segment that most of their finer segment is in"),
    r"confidence": ("confidence", "the probability of the class that is predicted"),
    r"effective_rank_dims": (
        "effective rank, features",
        "effective rank (RankMe): exp of the entropy of singular values; higher is better",
    ),
    r"embedding_rank_dims": (
        "effective rank, embeddings",
        "embeddings: what the loss compares, by the projector",
    ),
    r"dead_dimensions": ("dead dimensions", "of embeddings, nearly the same for all images; lower is better"),
    r"alignment_sq": ("alignment", "squared distance of two views' embeddings, 0 to 4; lower is better"),
    r"uniformity_nats": ("uniformity", "log mean exp(-2 d²) of pairs of embeddings; lower is better"),
    r"match": ("view matching", "of all views, the nearest to a random view is of its image"),
    r"top(\d+)": TOP,
    r"boundary_tolerance_px": (
        "boundary tolerance",
        "0.75 % of an image's diagonal, rounded up; mean over images",
    ),
    r"top1_balanced": ("balanced accuracy", "the mean over classes of top-1 accuracy"),
    r"level(\d+)": ("accuracy, level {}", "accuracy, level l: top-1 at a label level; 0 is the coarsest"),
    r"level(\d+)_balanced": (
        "balanced accuracy, level {}",
        "balanced accuracy, level l: the mean over the classes of the level",
    ),
    r"answer_(\w+)_accuracy": (
        "answer accuracy, {}",
        "accuracy of answers: of the class where each stops; on the other half of images",
    ),
    r"answer_(\w+)_depth_levels": ("answer depth, {}", "depth: levels that are answered, a mean"),
    r"answer_(\w+)_distance_levels": (
        "answer distance, {}",
        "distance: edges of the tree from the answer to the label; lower is better",
    ),
    r"answer_(\w+)_share_(\d+)": (
        "{}, answers of {} levels",
        "0 to L: the share of images whose answer has so many levels",
    ),
    r"answer_threshold": ("chosen threshold", "from half of the images; divide by 100 for --min-confidence"),
    r"risk_area_(confidence)": ("AURC, {}", AURC),
    r"risk_area_both": ("AURC, rule of chosen", AURC),
    r"severity_levels": ("mistake severity", "mean height where wrong and right class meet; lower is better"),
    r"distance(\d+)_levels": (
        "hierarchical distance@{}",
        "hierarchical distance@k: mean height of the k likeliest classes; lower is better",
    ),
}
"""Patterns of names, the most important first: a title, whose {} is what the name has there, and a legend.

A legend begins with its title, or with what stands there before a comma and {}; one with a colon is whole."""
FEWEST = "{} segments: GraphPool assigns them by random weights, which no loss reaches"
"""A legend of metrics by the fewest segments: no class token of a classification model depends on them."""
AMENDED = ", HiE"
HIE = "HiE: each class's probability is multiplied by its parent's"
COLUMNS = {
    "trained": "",
    "best": "best: the highest value during training",
    "bound": "bound: each superpixel, or retrieved segment, has its most frequent true class",
    "untrained": "untrained: new weights",
    "mean color": "mean color: that of each superpixel in place of a token",
    "pixels": "pixels: the images themselves, averaged to 16 x 16 pixels, in place of features",
    "texts": "texts: linear classifiers of the texts of the images alone",
    "color": "color: superpixels merged by mean color without learning (Ward's clustering)",
    "color+place": "color+place: superpixels merged by mean color and position",
    "neighbors": "neighbors: superpixels merged by mean color where they touch",
    "majority": "majority: always the most frequent held-out class; of many labels, their shares",
    "chance": "chance level: random guesses; of IoU by segments, superpixels merged at random",
}
"""Columns of the final table, in order, with their legends."""
BASELINES = tuple(COLUMNS)[2:]
"""Those that are not trained."""
ANSWERS = re.compile(r"answer_(consistency|confidence|chosen)_(\w+)")
"""Results that have a table of their own, too: a row for each rule by which an answer stops."""
RULES = {
    "consistency": "consistency: an answer goes down while each class is a child of the class above",
    "confidence": "confidence: an answer goes down while the probability is 0.9 or more",
    "chosen": "chosen: down to the finest consistent level with at least the chosen threshold",
}
NEUTRAL = re.compile(
    r"answer_\w+_(depth_levels|share_\d+)|answer_threshold"
    r"|unscored_classes|boundary_tolerance_px|area_of_object"
)
"""Results of which neither a high nor a low value is better: where answers stop, and what the data decide."""
SEGMENTS = re.compile(r"(object|region|part)_iou_(\d+)")
"""Results that have a table of their own: a row for each column of the others."""


class Metric(NamedTuple):
    """How a result is shown."""

    name: str
    """Its key in results.json."""
    title: str
    """As a paper prints it."""
    unit: str
    """% or one of :data:`UNITS`."""
    legend: str
    """One line; empty for an unknown name."""

    @property
    def scale(self) -> float:
        """What a value is multiplied by: 100 for a share, 1 for what has a unit."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def digits(self) -> int:
        """How many of them follow the point: more where the values are small."""
        return {"levels": 2, "d²": 3, "nats": 3}.get(self.unit, 1)

    def text(self, value: float) -> str:
        """A value in its unit, without a negative zero."""
        return f"{round(self.scale * value, self.digits) + 0.0:.{self.digits}f}"

    @property
    def neutral(self) -> bool:
        """True if no value is better than another."""
        return NEUTRAL.fullmatch(self.name) is not None

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
            head = title.partition(", ")[0] if "{}" in title else title
            shown = legend if ": " in legend else f"{head}: {legend}"
            return Metric(name, title.format(*match.groups()) + AMENDED * amended, unit, shown)
    return Metric(name, name.replace("_", " "), unit, "")


def by_importance(names: Iterable[str]) -> list[str]:
    """Names of results in the order of :data:`KNOWN`, then those with HiE, then unknown names.

    Of one kind, those with fewer segments are first.
    """

    def rank(name: str) -> tuple[int, ...]:
        for index, pattern in enumerate(KNOWN):
            if match := re.fullmatch(pattern, name.replace("_hie", "")):
                numbers = (int(number) for number in match.groups() if number.isdigit())
                return ("_hie" in name, index, *numbers)
        return (2,)

    return sorted(names, key=rank)


def table(**columns: Mapping[str, float]) -> Group | str:
    """Results side by side with their units, then those of segments, then a legend; n/a without a value.

    Without any result, it is a sentence.

    Args:
        columns: a heading, such as ``trained`` or ``chance``, to results by name.
    """
    names = list(dict.fromkeys(name for results in columns.values() for name in results))
    if not names:
        return "nothing was measured on held-out images"
    ordered = {heading: columns[heading] for heading in COLUMNS if heading in columns}
    columns = {heading: results for heading, results in (ordered | columns).items() if results}
    segments = [name for name in names if SEGMENTS.fullmatch(name)]
    answers = [name for name in names if ANSWERS.fullmatch(name)]
    others = [name for name in names if name not in segments + answers]
    shown: list[Table | str] = [_by_metric(others, columns), ""] if others else []
    shown += [_by_rule(answers, columns)] * bool(answers)
    shown += [_by_heading(segments, columns)] * bool(segments)
    lines = legend([metric(name) for name in (*others, *answers, *segments)], columns)
    return Group(*shown, *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def _by_metric(names: Sequence[str], columns: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each metric, a column for each heading."""
    columns = {heading: results for heading, results in columns.items() if {*names} & results.keys()}
    shown = Table(
        title="On held-out images",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("metric")
    shown.add_column("unit", no_wrap=True)
    for heading in columns:
        shown.add_column("chance\nlevel" if heading == "chance" else heading, justify="right", no_wrap=True)
    for one in map(metric, names):
        shown.add_row(one.title, one.unit, *(_cell(one, results) for results in columns.values()))
    return shown


def _by_heading(names: Sequence[str], columns: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each heading, a column for each measure and number of segments."""
    shown = Table(title="Segments of held-out images: IoU in %", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    shown.add_column("\nsegments", no_wrap=True)
    parts = [name.split("_iou_") for name in names]
    for (measure, size), before in zip(parts, [["", ""], *parts], strict=False):
        shown.add_column(f"{measure * (measure != before[0])}\n{size}", justify="right", no_wrap=True)
    for heading, results in columns.items():
        if {*names} & results.keys():
            cells = (_cell(metric(name), results) for name in names)
            shown.add_row("chance level" if heading == "chance" else heading, *cells)
    return shown


def _by_rule(names: Sequence[str], columns: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each heading and rule, a column for each measure of the answers."""
    shown = Table(
        title="Answers that stop where classes are sure",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("rule", no_wrap=True)
    found = [match for match in map(ANSWERS.fullmatch, names) if match]
    measures = list(dict.fromkeys(match[2] for match in found))
    for measure in measures:
        title = measure.removesuffix("_levels").removeprefix("share_")
        unit = metric(f"answer_chosen_{measure}").unit
        shown.add_column(f"{title}\n{unit}", justify="right", no_wrap=True)
    for heading, results in columns.items():
        for rule in RULES:
            own = [metric(f"answer_{rule}_{measure}") for measure in measures]
            if any(one.name in results for one in own):
                cells = (_cell(one, results) for one in own)
                shown.add_row(f"{heading}: {rule}", *cells)
    return shown


def _cell(one: Metric, results: Mapping[str, float]) -> str:
    return one.text(results[one.name]) if one.name in results else "n/a"


def fewest(names: Iterable[str]) -> set[int]:
    """The fewest segments in the names of a model's results; nothing without one by number of segments."""
    return {min(found)} if (found := [int(m[2]) for m in map(SEGMENTS.fullmatch, names) if m]) else set()


def legend(
    metrics: Sequence[Metric], columns: Collection[str], untrained: Collection[int] | None = None
) -> list[str]:
    """One line for each kind of metric, then for the columns.

    Args:
        metrics: of the table.
        columns: headings of the table.
        untrained: the :func:`fewest` segments of each model; None if the metrics are those of one model.
    """
    amended = any(one.title.endswith(AMENDED) for one in metrics)
    rules = {match[1] for one in metrics if (match := ANSWERS.fullmatch(one.name))}
    of_rules = [line for rule, line in RULES.items() if rule in rules]
    shown = {int(match[2]) for one in metrics if (match := SEGMENTS.fullmatch(one.name))}
    counts = shown & set(fewest(one.name for one in metrics) if untrained is None else untrained)
    of_segments = [FEWEST.format(" or ".join(map(str, sorted(counts))))] * bool(counts)
    lines = [one.legend for one in metrics if one.legend] + of_segments + [HIE] * amended
    of_columns = (line for heading, line in COLUMNS.items() if heading in columns and line)
    return list(dict.fromkeys([*lines, *of_rules, *of_columns]))
