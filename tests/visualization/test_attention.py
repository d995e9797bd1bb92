"""Heat maps: brighter is more attention, and a white line is around the figure."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from castssl.visualization.attention import HEAT, StageAttention, colors, draw_attention, heat
from castssl.visualization.colors import NOTHING

LABELS = torch.tensor([[0, 0, 1, 1], [2, 2, 3, -1]])


def test_colors_follow_the_share_of_the_largest() -> None:
    found = colors(LABELS, torch.tensor([0.0, 0.1, 0.2, 0.4]))
    expected = [HEAT[0], HEAT[1], HEAT[2], HEAT[4], NOTHING]
    places = [(0, 0), (0, 2), (1, 0), (1, 2), (1, 3)]
    assert [tuple(found[place].tolist()) for place in places] == expected


def test_the_line_is_around_the_figure() -> None:
    labels = torch.arange(80).expand(40, -1) // 20
    drawn = heat(Image.new("RGB", (80, 40)), labels, torch.tensor([0.1, 0.6, 0.2, 0.1]), panel=40)
    white = (np.asarray(drawn)[20].min(1) > 120).nonzero()[0]
    assert all(min(abs(x - 20), abs(x - 40)) <= 1 for x in white)
    assert {int(x > 30) for x in white} == {0, 1}


def test_a_row_a_stage_and_a_panel_a_head() -> None:
    photo = Image.new("RGB", (8, 4))
    stages = [
        StageAttention(n, LABELS.repeat_interleave(2, 0).repeat_interleave(2, 1), torch.rand(heads, 4))
        for n, heads in ((0, 2), (1, 3))
    ]
    one, two = (draw_attention(photo, stages[:count], panel=40) for count in (1, 2))
    assert two.width - one.width == 80 + 8
    assert two.height > one.height + 40
