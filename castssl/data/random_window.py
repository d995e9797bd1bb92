"""A random crop's window by torchvision's law, in half of the time."""

from __future__ import annotations

from math import sqrt

import torch

Window = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""

_RATIO = (3 / 4, 4 / 3)
_LOGARITHMS = torch.log(torch.tensor(_RATIO)).tolist()
_TRIES = 10


def random_window(width: int, height: int, least: float) -> Window:
    """The window that ``torchvision.transforms.RandomResizedCrop`` draws, from the same random numbers.

    Each small operation of torch takes microseconds.  This function uses half as many as torchvision.

    Args:
        width: of the image in pixels.
        height: likewise.
        least: the smallest share of the area; the largest is 1.  The aspect ratio is from 3/4 to 4/3.
    """
    number = torch.empty(1)
    for _ in range(_TRIES):
        area = width * height * number.uniform_(least, 1.0).item()
        ratio = number.uniform_(*_LOGARITHMS).exp_().item()
        wide, high = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top, left = (int(torch.randint(room + 1, (1,))) for room in (height - high, width - wide))
            return left, top, left + wide, top + high
    # No draw fits a strip: its middle.
    wide, high = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
