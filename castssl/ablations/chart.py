"""A study's picture: each result as bars with error bars, its cost beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from castssl.ablations.table import Row, columns
from castssl.errors import PluginError
from castssl.evaluation.report import metric
from castssl.files import atomic_write
from castssl.installer import install


def draw(title: str, made: Sequence[Row], path: Path) -> Path:
    """Write a PNG: a panel for each result (mean, standard deviation over seeds) and for each cost.

    Raises:
        PluginError: if matplotlib is not installed; with the command.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PluginError(f"a study's picture needs matplotlib: {install('matplotlib')}") from error
    found, costs = columns(made)
    names = [", ".join(row.values) or "all" for row in made]
    panels = max(1, len(found) + len(costs))
    figure = Figure(figsize=(1.5 + 2.6 * panels, 1.4 + 0.34 * len(made)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    places = range(len(made))
    for axis, name in zip(axes, [*found, *costs], strict=False):
        if name in found:
            spreads = [row.found.get(name) for row in made]
            times = metric(name).scale
            means = [times * spread.mean if spread else 0.0 for spread in spreads]
            errors = [times * spread.deviation if spread and spread.seeds > 1 else 0.0 for spread in spreads]
            axis.barh(places, means, xerr=errors, color="#4477aa", ecolor="#333333", capsize=2)
        else:
            axis.barh(places, [row.cost.get(name, 0.0) for row in made], color="#bbbbbb")
        axis.set_xlabel(f"{name}, %" if name in found and metric(name).unit == "%" else name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, names)
    axes[0].invert_yaxis()
    figure.suptitle(title)
    with atomic_write(path, "picture") as aside:
        figure.savefig(aside, dpi=120, format="png")
    return path
