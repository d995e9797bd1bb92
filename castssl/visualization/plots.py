"""Charts by matplotlib, which is an optional package: an empty figure, and a scatter of before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from castssl.errors import PluginError
from castssl.installer import install

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#888888", "#cc3311", "#4477aa")
"""Of what stays, rises and falls."""
BINS = 10
"""Of the line of means."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no display.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        PluginError: if matplotlib is not installed; with the command.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PluginError(f"a chart needs matplotlib: {install('matplotlib')}") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_before_after(
    before: Tensor, after: Mapping[str, Tensor], measure: str, *, threshold: float = 0.8
) -> Figure:
    """A panel for each kind of "after", with a point for each image, as CAST's Fig. 9.

    A point above the diagonal is an image whose value rose; the line is the mean after, in bins of before.

    Args:
        before: float (n,) in [0, 1].
        after: float (n,) in [0, 1] by title.
        measure: the label of the axes.
        threshold: a vertical line.

    Raises:
        PluginError: if matplotlib is not installed; with the command.
    """
    figure = new_figure(4 * len(after), 4.9)
    panels = figure.subplots(1, len(after), sharex=True, sharey=True, squeeze=False)
    low = min(float(values.min()) for values in (before, *after.values())) - 0.02
    panels[0, 0].set(xlim=(low, 1.02), ylim=(low, 1.02))
    for axis, (title, values) in zip(panels.flat, after.items(), strict=True):
        _panel(axis, before, values, threshold)
        axis.set_title(f"{title}: {float((values - before).mean()) * 100:+.1f} points", fontsize=10)
        axis.set_xlabel(f"{measure}, before")
    panels[0, 0].set_ylabel(f"{measure}, after")
    return figure


def _panel(axis: Axes, before: Tensor, after: Tensor, threshold: float) -> None:
    colors = [COLORS[sign] for sign in (after - before).sign().int().tolist()]
    axis.scatter(before.tolist(), after.tolist(), s=10, c=colors, alpha=0.6, linewidths=0)
    axis.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    axis.axvline(threshold, color="#888888", linewidth=0.8, linestyle=":")
    place = (before * BINS).long().clamp(0, BINS - 1)
    used = place.unique()
    middles = [[float(values[place == one].mean()) for one in used] for values in (before, after)]
    axis.plot(*middles, color="black", linewidth=1.5)
    axis.set_aspect("equal")
