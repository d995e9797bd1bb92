from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from castssl.metrics.free_grained import Curve
from castssl.visualization.risk_coverage import FILES, draw_risk_coverage, write_risk_coverage

STEPS = torch.arange(1, 5, dtype=torch.float64)
CURVES = {
    "both": Curve(1 - STEPS / 5, STEPS / 5, STEPS / 10),
    "confidence": Curve(1 - STEPS / 4, STEPS / 4, STEPS / 8),
}


def test_a_rule_is_a_line_that_ends_in_a_dot() -> None:
    axes: list[Any] = draw_risk_coverage(CURVES).axes
    line, dot, *_ = axes[0].lines
    assert list(line.get_xdata()) == pytest.approx([20, 40, 60, 80])
    assert list(line.get_ydata()) == pytest.approx([10, 20, 30, 40])
    assert [*dot.get_xdata(), *dot.get_ydata()] == pytest.approx([80, 40])
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels == ["both: area 25.0 %", "confidence: area 31.2 %"]


def test_the_table_holds_the_points(tmp_path: Path) -> None:
    write_risk_coverage(CURVES, tmp_path)
    with open(tmp_path / FILES[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[1] == {"rule": "both", "threshold": "0.600000", "coverage": "0.400000", "risk": "0.200000"}
    assert Image.open(tmp_path / FILES[1]).width > 300


def test_nothing_without_curves_and_no_chart_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_risk_coverage({}, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_risk_coverage(CURVES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILES[0]]
    assert "no risk-coverage.png: a chart needs matplotlib" in capsys.readouterr().err
