"""What a split leaves out, in words: by folder, by extension, and by damage, before it is trained on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from PIL import Image

from castssl.contracts import Unreadable
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream

LOOKED = 20_000
"""So many images of a split are opened; all if there are no more."""
SECONDS = 5.0
"""After this time no further images are opened."""
THREADS = 16
"""Files that are opened at a time: a network drive answers many questions at once."""
DECODED = 256
"""So many images of a split are decoded, spread evenly."""
NAMED = 3
"""So many images are named."""
_CHUNK = 64


def left_out(images: Images | Stream, *, decoded: bool = False) -> Iterator[str]:
    """Sentences about what is left out: by folder, by extension, and by damage; one for each that there is.

    Images are opened, all or of many a sample that is spread evenly, but their pixels are not read: this
    finds what is empty, cut within its header or no image.  Of a stream, whose files are not known, nothing
    is said.

    Args:
        images: a split.
        decoded: read the pixels of :data:`DECODED` images, too.
    """
    if isinstance(images, Stream):
        return
    yield from images.left_out
    looked, found = _opened(images)
    of = f" (of {len(images):,})" if looked < len(images) else ""
    yield from _told(found, f"{looked:,} images that were looked at{of}")
    if decoded:
        count = min(DECODED, len(images))
        chosen = [number * len(images) // count for number in range(count)]
        whole = [index for index in chosen if images.inspect(index) is None]
        found = [bad for index in whole if (bad := images.inspect(index, decoded=True)) is not None]
        yield from _told(found, f"{count} images that were decoded")


def _told(found: Sequence[Unreadable], of: str) -> Iterator[str]:
    if found:
        names = ", ".join(f"{bad.name} ({bad.reason})" for bad in found[:NAMED])
        yield (
            f"{len(found):,} of {of} cannot be read, such as {names}; others stand in for them in training,"
            " up to --max-bad: repair, replace or remove them"
        )


def _opened(images: Images) -> tuple[int, list[Unreadable]]:
    """How many images were opened, and those that cannot be, in the order of the data set."""
    Image.init()  # A thread may take a format that another one just registers for one that it has tried.
    order, looked, found = islice(_spread(len(images)), LOOKED), 0, dict[int, Unreadable]()
    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(THREADS) as threads:
        while time.monotonic() < end and (chunk := list(islice(order, _CHUNK))):
            seen = zip(chunk, threads.map(images.inspect, chunk), strict=True)
            found |= {index: bad for index, bad in seen if bad is not None}
            looked += len(chunk)
    return looked, [bad for _, bad in sorted(found.items())]


def _spread(count: int) -> Iterator[int]:
    """Every number below ``count`` once; those up to any place are spread evenly.

    Multiples of the golden section, modulo one, leave gaps of at most three lengths (Sós 1958).
    """
    stride = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, count) > 1:
        stride += 1
    return (number * stride % count for number in range(count))
