"""A study's chart: a panel for each column of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castssl.ablations.table import Row, Spread
from castssl.errors import ConfigError
from castssl.evaluation.report import metric
from castssl.files import atomic_write
from castssl.visualization.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

DPI = 120
PANELS = 3
"""Side by side; further ones are below."""
WIDEST = 1600
"""Pixels."""
HIGHEST = 2**16 - 1
"""Pixels; matplotlib draws no more."""
MEAN = "mean ± standard deviation"
LINES = {
    "bound": ("-", "#bb5566"),
    "untrained": (":", "#888888"),
    "pixels": ("-.", "#997700"),
    "mean color": ("-.", "#117733"),
    "texts": ("--", "#997700"),
    "color": ("-", "#117733"),
    "color+place": ("--", "#117733"),
    "neighbors": (":", "#117733"),
    "majority": ("-.", "#888888"),
    "chance": ("--", "#bb5566"),
}
"""Style and color of the references."""


def draw(
    title: str,
    table_rows: Sequence[Row],
    names: Sequence[str],
    references: Mapping[str, Mapping[str, Spread]],
    path: Path,
) -> Path:
    """Write a PNG of at most :data:`WIDEST` pixels in width.

    A panel has a small point for each seed, a large one for their mean with their standard deviation, and a
    line for each reference.

    Args:
        title: of the chart.
        table_rows: from top to bottom.
        names: results and costs, one panel each.
        references: results without training, by their kind.
        path: the file.

    Raises:
        ConfigError: if the rows need more than :data:`HIGHEST` pixels.
        PluginError: if matplotlib is not installed; with the command.
    """
    # A dollar sign in a path or a flag begins no formula.
    labels = [row.label.replace("$", r"\$") for row in table_rows]
    across = max(1, min(PANELS, len(names)))
    down = max(1, ceil(len(names) / across))
    width = min(WIDEST / DPI, 1.5 + 0.08 * max(map(len, labels)) + 3.4 * across)
    height = down * (1 + 0.32 * len(table_rows)) + 0.8
    if height * DPI > HIGHEST:
        raise ConfigError(
            f"{path.name} is left out: its panels of {len(table_rows):,} rows need {height * DPI:,.0f} pixels"
            f" in height, and matplotlib draws at most {HIGHEST:,}; the tables hold all values, and fewer"
            " values of --grid or fewer --columns give a chart"
        )
    figure = new_figure(width, height)
    axes = figure.subplots(down, across, sharey=True, squeeze=False)
    handles: dict[str, Artist] = {}
    for axis, name in zip(axes.flat, names, strict=False):
        _panel(axis, table_rows, name)
        for kind, values in references.items():
            if name in values:
                style, color = LINES[kind]
                mean = metric(name).scale * values[name].mean
                axis.axvline(mean, linestyle=style, color=color, linewidth=1.2, label=kind)
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    axes[0, 0].set_yticks(range(len(labels)), labels)
    axes[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    figure.suptitle(title.replace("$", r"\$"))
    if handles:
        columns = 5 if across == PANELS else 2
        below: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False}
        figure.legend(list(handles.values()), list(handles), **below)
    with atomic_write(path, "picture") as aside:
        figure.savefig(aside, dpi=DPI, format="png")
    return path


def _panel(axis: Axes, table_rows: Sequence[Row], name: str) -> None:
    """Draw one result, or one cost."""
    described = metric(name)
    costs = [(y, row.cost[name]) for y, row in enumerate(table_rows) if name in row.cost]
    axis.plot([cost for _, cost in costs], [y for y, _ in costs], "o", color="#4477aa")
    for y, row in enumerate(table_rows):
        values = [described.scale * run[name] for run in row.runs.values() if name in run]
        axis.plot(values, [y] * len(values), "o", color="#99bbdd", markersize=4, label="a seed")
        if values:
            found = row.results[name]
            mean, error = described.scale * found.mean, described.scale * found.deviation
            bar: dict[str, Any] = {"xerr": error if found.seeds > 1 else None, "capsize": 3, "label": MEAN}
            axis.errorbar(mean, y, fmt="o", color="#225588", **bar)
    unit = f", {described.unit}" if not costs and described.unit != "ms" else ""
    better = " (lower is better)" if costs or described.lower_is_better else ""
    axis.set_xlabel(f"{name if costs else described.title}{unit}{better}")
    axis.locator_params(axis="x", nbins=6)
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
