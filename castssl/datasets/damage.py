"""Sentences about what a split leaves out: by folder, by extension, and by damage, before training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from PIL import Image

from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.feed import Unreadable

LOOKED = 20_000
"""The largest number of images of a split that are opened."""
SECONDS = 5.0
"""After this time no further images are opened."""
THREADS = 16
"""The number of files that are opened at a time: a network drive answers many requests at once."""
DECODED = 256
"""The number of images of a split that are decoded, spread evenly."""
NAMED = 3
"""The number of images that a sentence names."""


def left_out(images: Images | Stream, *, decoded: bool = False) -> Iterator[str]:
    """Sentences about what is left out: by folder, by extension, and by damage.

    All images, or of many an evenly spread sample, are opened, but their pixels are not read: this finds
    empty files, files that end within their header, and files that are not images.  There are none about a
    stream, whose files are not known.

    Args:
        images: a split.
        decoded: read the pixels of :data:`DECODED` images, too.
    """
    if isinstance(images, Stream):
        return
    yield from images.left_out
    looked, bad = _open(images)
    of = f" (of {len(images):,})" if looked < len(images) else ""
    yield from _sentence(bad, f"{looked:,} images that were looked at{of}")
    if decoded:
        count = min(DECODED, len(images))
        chosen = [number * len(images) // count for number in range(count)]
        readable = [index for index in chosen if images.inspect(index) is None]
        bad = [fault for index in readable if (fault := images.inspect(index, decoded=True)) is not None]
        yield from _sentence(bad, f"{count} images that were decoded")


def _sentence(bad: Sequence[Unreadable], of: str) -> Iterator[str]:
    if bad:
        names = ", ".join(f"{fault.name} ({fault.reason})" for fault in bad[:NAMED])
        yield (
            f"{len(bad):,} of {of} cannot be read, such as {names}; others replace them in training, up to"
            " --max-bad: repair, replace or remove them"
        )


def _open(images: Images) -> tuple[int, list[Unreadable]]:
    """The number of images that were opened, and the unreadable ones, in the order of the data set."""
    Image.init()  # Else a thread may see the formats while another one registers them.
    order = islice(_spread(len(images)), LOOKED)
    looked, bad = 0, dict[int, Unreadable]()
    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(THREADS) as threads:
        while time.monotonic() < end and (chunk := list(islice(order, 64))):
            faults = zip(chunk, threads.map(images.inspect, chunk), strict=True)
            bad |= {index: fault for index, fault in faults if fault is not None}
            looked += len(chunk)
    return looked, [fault for _, fault in sorted(bad.items())]


def _spread(count: int) -> Iterator[int]:
    """Every number below ``count`` once; those up to any point are spread evenly.

    Multiples of the golden section, modulo one, leave gaps of at most three lengths (Sós 1958).
    """
    stride = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, count) > 1:
        stride += 1
    return (number * stride % count for number in range(count))
