"""Risk-coverage curves of answers that stop where the classes are sure: a chart and a table."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from castssl import distributed
from castssl.errors import PluginError
from castssl.files import atomic_write
from castssl.metrics.free_grained import Curve
from castssl.visualization.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("risk-coverage.csv", "risk-coverage.png")
POINTS = 1000
"""Of a curve in the files, at most."""
COLORS = {"both": "#cc3311", "confidence": "#4477aa"}


def draw_risk_coverage(curves: Mapping[str, Curve]) -> Figure:
    """The share of wrong labels among those answered, against the share of labels that are answered.

    A line is a rule, and a point of it a threshold; the dot at its end is the threshold 0, which is
    ``consistency`` for the rule ``both``.

    Args:
        curves: by rule, of :func:`castssl.metrics.free_grained.risk_coverage`.

    Raises:
        PluginError: if matplotlib is not installed; with the command.
    """
    figure = new_figure(5, 3.8)
    axis = figure.subplots()
    for rule, curve in curves.items():
        thin = curve.thinned(POINTS)
        coverage, risk = (100 * thin.coverage).tolist(), (100 * thin.risk).tolist()
        label = f"{rule}: area {100 * curve.area:.1f} %"
        axis.plot(coverage, risk, color=COLORS[rule], linewidth=1.5, label=label)
        axis.plot(coverage[-1:], risk[-1:], "o", color=COLORS[rule], markersize=5)
    axis.set(xlabel="coverage: labels answered, %", ylabel="risk: of these wrong, %", xlim=(0, 102))
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    return figure


def write_risk_coverage(curves: Mapping[str, Curve], folder: Path) -> None:
    """Write :data:`FILES`, the curves with at most :data:`POINTS` points each, in the main process only.

    Nothing is written without curves.  Without matplotlib there is no chart, and a line on stderr says so.

    Raises:
        CastError: if a file cannot be written.
    """
    if not curves or not distributed.is_main():
        return
    with (
        atomic_write(folder / FILES[0], "table") as aside,
        open(aside, "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(("rule", *Curve._fields))
        for rule, curve in curves.items():
            points = zip(*(column.tolist() for column in curve.thinned(POINTS)), strict=True)
            table.writerows((rule, *(f"{number:.6f}" for number in point)) for point in points)
    try:
        figure = draw_risk_coverage(curves)
    except PluginError as error:
        print(f"castssl: no {FILES[1]}: {error}", file=sys.stderr)
        return
    with atomic_write(folder / FILES[1], "picture") as aside:
        figure.savefig(aside, dpi=120, format="png")
