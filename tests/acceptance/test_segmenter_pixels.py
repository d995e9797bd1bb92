"""What the published Segmenter code's SEEDS sees of each value."""

from __future__ import annotations

import numpy as np
import torch

import castssl

FAST = "seeds:count=196,bins=5,iterations=15"
LOWERED = (2, 1, 3)
"""How many of the 256 values of red, green and blue come back from mmsegmentation's float32 round trip
lowered by one (measured with mmseg 0.14.1 and OpenCV 4.9 and 5.0)."""


def round_trip() -> list[set[int]]:
    """The values of each channel that are lowered: the numbers of mmsegmentation, step by step."""
    values = np.arange(256, dtype=np.float32)
    lowered = []
    for mean, std in zip((123.68, 116.28, 103.53), (58.40, 57.12, 57.38), strict=True):
        single = np.float32(mean), np.float32(std)
        scaled = ((values - single[0]).astype(np.float64) * (1 / np.float64(single[1]))).astype(np.float32)
        back = (scaled * single[1] + single[0]).astype(np.uint8)
        lowered.append({int(value) for value in values[back != values]})
    return lowered


def test_the_segmenter_mode_equals_seeds_on_the_inverted_round_trip() -> None:
    lowered = round_trip()
    assert tuple(map(len, lowered)) == LOWERED
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (16, 16, 3)).repeat(8, 0).repeat(8, 1)
    image = np.clip(coarse + draw.integers(-20, 20, (128, 128, 3)), 0, 255).astype(np.uint8)
    for channel, values in enumerate(lowered):  # so that each value that changes is there
        image[channel::7, ::5, channel] = sorted(values)[0]
    seen = image.copy()
    for channel, values in enumerate(lowered):
        seen[..., channel] -= np.isin(image[..., channel], sorted(values)).astype(np.uint8)
    inverted = (256 - seen.astype(np.int32)).astype(np.uint8)
    raw, expected = (torch.from_numpy(x).permute(2, 0, 1)[None].contiguous() for x in (image, inverted))
    assert torch.equal(
        castssl.build("superpixels", f"{FAST},mode=segmenter")(raw),
        castssl.build("superpixels", FAST)(expected),
    )
