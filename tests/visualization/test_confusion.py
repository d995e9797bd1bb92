"""The picture of a confusion matrix: each cell has the shade of its share of the row, and 0 is the paper."""

from __future__ import annotations

import numpy as np
import torch

from castssl.visualization.confusion import BLUE, MARGIN, draw_confusion
from castssl.visualization.draw import PAPER


def test_cells_have_the_shade_of_their_share() -> None:
    counts = torch.zeros(90, 90, dtype=torch.int64)
    counts[0, 0], counts[1, 0], counts[1, 89] = 4, 1, 3
    pixels = np.array(draw_confusion(counts, ["name"] * 90))
    cells = pixels[MARGIN + 4 :: 8, MARGIN + 4 :: 8][:90, :90]
    quarter, rest = ([round(255 + (ink - 255) * share) for ink in BLUE] for share in (0.25, 0.75))
    assert cells[0, 0].tolist() == list(BLUE)
    assert (cells[1, 0].tolist(), cells[1, 89].tolist()) == (quarter, rest)
    assert int((cells != PAPER).any(-1).sum()) == 3
    grouped = np.array(draw_confusion(counts, ["name"] * 90, 7))
    assert (grouped != pixels)[: MARGIN - 1].any(), "the heading names the size of groups"
    assert np.array_equal(grouped[MARGIN:], pixels[MARGIN:])
