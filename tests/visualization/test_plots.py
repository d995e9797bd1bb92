from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from castssl.errors import PluginError
from castssl.visualization.plots import COLORS, draw_before_after, new_figure


def test_each_image_is_a_point_in_each_panel() -> None:
    before, after = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.4, 0.5, 0.6])
    figure = draw_before_after(before, {"adapted": after, "same": before}, "IoU", threshold=0.7)
    axes: list[Any] = figure.axes
    first, second = axes
    points = first.collections[0]
    assert torch.allclose(torch.tensor(points.get_offsets().data), torch.stack((before, after), 1).double())
    shown = [tuple(round(255 * value) for value in color[:3]) for color in points.get_facecolors()]
    expected = [tuple(bytes.fromhex(COLORS[sign][1:])) for sign in (1, 0, -1)]
    assert shown == expected
    assert first.get_title() == "adapted: -3.3 points"
    assert second.get_title() == "same: +0.0 points"
    diagonal, threshold, means = first.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    assert list(threshold.get_xdata()) == [0.7, 0.7]
    assert list(means.get_ydata()) == pytest.approx(after.tolist())


def test_all_panels_have_the_limits_of_all_points() -> None:
    before = torch.tensor([0.5, 0.9])
    axes: list[Any] = draw_before_after(before, {"adapted": before - 0.4, "same": before}, "IoU").axes
    for axis in axes:
        assert axis.get_xlim() == axis.get_ylim() == pytest.approx((0.08, 1.02))


def test_without_matplotlib_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PluginError, match=r"install.* matplotlib"):
        new_figure(1, 1)
