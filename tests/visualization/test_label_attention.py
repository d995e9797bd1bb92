"""Pictures of what labels attend to: which panel shows which label and stage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from castssl.types import Hierarchy, LabelAttention, Tokens
from castssl.visualization.attention import HEAT
from castssl.visualization.draw import GAP
from castssl.visualization.label_attention import draw_label_attention

SIDE = 40


def attention() -> LabelAttention:
    """Two images of four quarters, which become a left and a right half; three labels."""
    cells = torch.arange(2).repeat_interleave(SIDE // 2)
    segments = (2 * cells[:, None] + cells).int().expand(2, -1, -1)
    stages = tuple(Tokens(torch.zeros(2, n, 1), torch.zeros(2, 1, 1), torch.ones(2, n)) for n in (4, 2))
    halves = torch.eye(2).repeat(2, 1).expand(2, -1, -1)
    fine, coarse = torch.zeros(2, 3, 4), torch.zeros(2, 3, 2)
    for image in range(2):
        for label in range(3):
            fine[image, label, (label + image) % 4] = 1
            coarse[image, label, label % 2] = 1
    return LabelAttention(Hierarchy(segments, stages, (halves,)), (fine, coarse))


def quarters(drawn: Image.Image, row: int, column: int) -> list[bool]:
    """Which quarters of a panel are bright: upper left and right, lower left and right."""
    pixels = np.asarray(drawn.convert("RGB")).astype(int)
    height = (drawn.height - GAP) // 2
    top, left = GAP + row * height + GAP, 2 * GAP + column * (SIDE + GAP)
    panel = pixels[top : top + SIDE, left : left + SIDE]
    bright = np.abs(panel - HEAT[-1]).sum(2) < np.abs(panel - HEAT[0]).sum(2)
    return [bool(bright[y, x]) for y in (10, 30) for x in (10, 30)]


def test_a_panel_shows_a_label_s_attention_in_a_stage() -> None:
    photo = Image.new("RGB", (SIDE, SIDE))
    drawn = draw_label_attention(photo, attention(), {2: "owl", 0: "cat"}, 1, panel=SIDE)
    assert drawn.width == 3 * (SIDE + GAP) + 3 * GAP
    assert quarters(drawn, 0, 1) == [False, False, False, True]  # the fourth quarter: label 2 in image 1
    assert quarters(drawn, 1, 1) == [False, True, False, False]
    assert quarters(drawn, 0, 2) == quarters(drawn, 1, 2) == [True, False, True, False]
    assert quarters(drawn, 0, 0) == [False] * 4
    other = draw_label_attention(photo, attention(), {2: "owl", 0: "cat"}, 0, panel=SIDE)
    assert quarters(other, 1, 1) == [True, False, False, False]


def test_other_sizes_and_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="image is 40 x 20"):
        draw_label_attention(Image.new("RGB", (20, 40)), attention(), {0: "cat"})
    photo = Image.new("RGB", (SIDE, SIDE))
    for titles in ({3: "none"}, {-1: "none"}, {}):
        with pytest.raises(ValueError, match="expected some of 0 to 2"):
            draw_label_attention(photo, attention(), titles)
