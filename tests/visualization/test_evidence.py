"""The image of a path: what spoke for a class is orange, what spoke against it blue."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from castssl.visualization.colors import NOTHING
from castssl.visualization.draw import CAPTION, font, truncate
from castssl.visualization.evidence import AGAINST, FOR, NEITHER, Panel, draw_path, shade

LABELS = torch.tensor([[0, 0, 1, 1], [2, 2, 3, -1]])


def test_colors_tell_sign_and_share() -> None:
    colors = shade(Panel(LABELS, torch.tensor([2.0, -2.0, 0.0, 1.0]), ""))
    assert colors.shape == (2, 4, 3)
    assert tuple(colors[0, 0]) == FOR
    assert tuple(colors[0, 3]) == AGAINST
    assert tuple(colors[1, 1]) == NEITHER
    between = (np.asarray(FOR) + np.asarray(NEITHER)) / 2
    assert np.abs(colors[1, 2] - between).max() <= 0.5
    assert tuple(colors[1, 3]) == NOTHING


def test_nothing_moved_is_grey() -> None:
    colors = shade(Panel(LABELS, torch.zeros(4), ""))
    assert (colors[LABELS >= 0] == NEITHER).all()


def test_a_panel_a_level_beside_the_photograph() -> None:
    photo = Image.new("RGB", (40, 40), (10, 200, 30))
    labels = torch.arange(40).expand(40, -1) // 20
    panels = [
        Panel(labels, torch.tensor([1.0, -1.0]), "bird 0.90"),
        Panel(labels, torch.tensor([-1.0, 1.0]), "x"),
    ]
    one, two = (draw_path(photo, panels[:count], "title", panel=80) for count in (1, 2))
    assert two.width - one.width == 80 + 8
    assert two.height == one.height > 80
    pixels = np.asarray(two).astype(int)
    row = pixels[two.height - 60]
    warm = row[:, 0] - row[:, 2]  # red less blue
    left = [8 + 8 + 88 * number for number in range(3)]
    halves = [(warm[at + 10], warm[at + 70]) for at in left]
    assert halves[0] == (-20, -20)
    assert halves[1][0] > 50 > -50 > halves[1][1]
    assert halves[2][1] > 50 > -50 > halves[2][0]


def test_long_lines_aretruncate() -> None:
    assert truncate("short", 100, CAPTION) == "short"
    cut = truncate("a very long name of a class that nobody can read", 100, CAPTION)
    assert cut.endswith("...")
    assert 80 < font(CAPTION).getlength(cut) <= 100
