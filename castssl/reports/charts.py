"""A report's charts: the curves of runs over their training, and the dots of a study's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from castssl.evaluation.report import BASELINES, Metric, by_importance, metric
from castssl.reports.gather import Run, Study, by_folder, run_of
from castssl.reports.studies import columns
from castssl.training.history import MOST, SPEED, History
from castssl.training.history import Curve as Values
from castssl.visualization.page import markup
from castssl.visualization.page.markup import Html
from castssl.visualization.page.report import Chart, Curve, Dots, Level

LEVELS = ("chance", "majority", "untrained")
"""Baselines that are lines in a chart, or bands where they differ between runs."""
FIRST = ("knn",)
"""Results that have a chart among the first four, else the most important one."""
TRAINING = "training"
"""In place of the evaluation settings, which begin with a space, of what is not a held-out result."""
SPEEDS = {
    "waiting": ("waiting for data", "% of the time", 100.0),
    "images_per_second": ("speed", "images/s", 1.0),
    "memory_gib": ("largest memory", "GiB", 1.0),
}
"""Title, unit and scale of :data:`castssl.training.history.SPEED`."""
LOGGED = {
    "rate": ("learning rate", "", 1.0),
    "match": ("view matching in the batch", "%", 100.0),
    "accuracy": ("accuracy", "%", 100.0),
    "spread": ("spread of embeddings", "", 1.0),
    "class_loss": ("loss of classes", "", 1.0),
    "mask_loss": ("loss of masks", "", 1.0),
    "dice_loss": ("Dice loss", "", 1.0),
    "pseudo": ("loss of pseudo-labels", "", 1.0),
    "confident": ("confident pseudo-labels", "%", 100.0),
    "contrast": ("contrastive loss", "", 1.0),
    "kl": ("tree KL divergence", "", 1.0),
    "tie": ("KL divergence of tied levels", "", 1.0),
    "text": ("loss of texts", "", 1.0),
}
"""Title, unit and scale of scalars that objectives log; others are named as in the log."""


def of_runs(runs: Sequence[tuple[int, Run]], charts: list[Chart | Dots], most: int = MOST) -> Html:
    """The charts of runs: loss, rate, kNN and waiting first, the others folded away.

    Args:
        runs: of one recipe, each with its place among the runs of the page.
        charts: of the page; those of these runs are added.
        most: points of a curve.
    """
    measured = _results(runs)
    trained = _names([run.history.training for _, run in runs])
    scalars = [name for name in trained if name not in ("rate", *SPEED)]
    first = next((key for name in FIRST for key in measured if key[0] == name), next(iter(measured), None))
    made = {
        (name, TRAINING): _training(runs, name, most)
        for name in [*scalars, "rate", *SPEEDS]
        if name in trained
    }
    made |= {key: _measured(runs, *key, most) for key in measured}
    order = [("loss", TRAINING), ("rate", TRAINING), first, ("waiting", TRAINING)]
    leading = [key for key in order if key is not None and key in made]
    others = [key for key in made if key not in leading]
    if not made:
        return markup.paragraph("The log holds no report yet.", "faint")

    def placed(keys: Sequence[tuple[str, str]]) -> Html:
        parts = []
        for key in keys:
            charts.append(made[key])
            parts.append(markup.chart(len(charts) - 1))
        return markup.grid(parts)

    parts = [placed(leading)]
    if others:
        parts.append(markup.details(f"{len(others)} further charts", placed(others)))
    return markup.join(parts)


def points(runs: int) -> int:
    """The most points of a curve in a page of so many runs, which keeps a page of hundreds small."""
    return max(60, min(MOST, 20 * MOST // max(1, runs)))


def note(most: int) -> Html:
    """How curves of at most so many points are drawn."""
    return markup.paragraph(
        "Training: means over the steps between two lines of the log. Held-out results: one point for each"
        " evaluation, and a chart for each set of evaluation settings. A curve has at most"
        f" {most} points: of longer ones the lowest and the highest of each part are drawn. Hours are of all"
        " starts together, without pauses.",
        "faint",
    )


def _names(parts: Sequence[Mapping[str, Values]]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))


def _named(name: str) -> tuple[str, str, float]:
    """Title, unit and scale of a number of training batches."""
    if name.startswith("accuracy_"):
        return f"accuracy, {name.removeprefix('accuracy_').replace('_', ' ')}", "%", 100.0
    return (SPEEDS | LOGGED).get(name, (name.replace("_", " "), "", 1.0))


def _training(runs: Sequence[tuple[int, Run]], name: str, most: int) -> Chart:
    title, unit, scale = _named(name)
    curves = [
        _curve(place, run.history.training[name], scale, most)
        for place, run in runs
        if name in run.history.training
    ]
    note = "of training batches" if name not in ("rate", *SPEED) else ""
    return Chart(
        title, unit, curves, note=note, logarithmic=name == "rate" or "loss" in name, from_zero=name in SPEED
    )


def _results(runs: Sequence[tuple[int, Run]]) -> list[tuple[str, str]]:
    """Name and evaluation settings of each result on held-out images, by importance of the name.

    The settings of the runs' latest starts come before those of earlier ones.
    """
    histories = [run.history for _, run in runs]
    parts = [(one.settings, one.measured) for one in histories]
    parts += [part for one in histories for part in one.earlier.items()]
    order = by_importance(_names([curves for _, curves in parts]))
    settings = dict.fromkeys(own for own, _ in parts)
    having = {(name, own) for own, curves in parts for name in curves}
    return [(name, own) for name in order for own in settings if (name, own) in having]


def _measured(runs: Sequence[tuple[int, Run]], name: str, settings: str, most: int) -> Chart:
    """The curves of a result with some evaluation settings: those of other settings are not comparable."""
    one = metric(name)
    curves = [
        _curve(place, found[name], one.scale, most)
        for place, run in runs
        for found in [_measured_with(run.history, settings)]
        if name in found
    ]
    levels = _levels([run for _, run in runs if run.history.settings == settings], LEVELS, one)
    note = "of held-out images" + (f", evaluated with{settings}" if settings else "")
    return Chart(one.title, one.unit, curves, levels, note)


def _measured_with(history: History, settings: str) -> Mapping[str, Values]:
    return history.measured if history.settings == settings else history.earlier.get(settings, {})


def _curve(place: int, values: Values, scale: float, most: int) -> Curve:
    thin = values.thinned(most)
    return Curve(place, (thin.steps, thin.epochs, thin.hours), [scale * entry for entry in thin.values])


def of_study(study: Study, runs: Sequence[Run], charts: list[Chart | Dots]) -> Html:
    """A chart for each result of the study's table: its seeds, their mean and their deviation."""
    found = by_folder((run.summary.folder, run) for run in runs)
    every = (run_of(study, name, found) for row in study.rows for name in row.folders)
    own = [run for run in every if run is not None]
    parts = []
    for name in columns(study):
        one = metric(name)
        seeds = [[one.scale * entry for entry in row.results.get(name, [])] for row in study.rows]
        levels = _levels(own, BASELINES, one)
        rows = [row.label for row in study.rows]
        charts.append(Dots(one.title, one.unit, rows, seeds, levels))
        parts.append(markup.chart(len(charts) - 1))
    if not parts:
        return Html("")
    text = (
        "A ring is a seed, a dot the mean of a row, and a bar the sample standard deviation over its seeds."
    )
    return markup.join([markup.paragraph(text, "faint"), markup.grid(parts)])


def _levels(runs: Sequence[Run], kinds: Sequence[str], one: Metric) -> list[Level]:
    """The results of baselines in the runs that have them: the lowest and the highest one."""
    levels = []
    for kind in kinds:
        if values := [run.columns[kind][one.name] for run in runs if one.name in run.columns.get(kind, {})]:
            low, high = min(values), max(values)
            texts = dict.fromkeys((one.text(low), one.text(high)))
            levels.append(Level(kind, one.scale * low, one.scale * high, " to ".join(texts)))
    return levels
