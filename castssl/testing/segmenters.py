"""The contract of segmenters (:class:`castssl.segmenter.Segmenter`) as checks.

Each check takes a spec as :func:`castssl.registry.build_segmenter` does, such as ``"cast:runs/demo"``, or a
factory ``factory(source) -> Segmenter``, which gets the source "".  It raises ContractError with what the
author should change.
"""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from castssl.registry import build_segmenter
from castssl.segmenter import Segmenter
from castssl.testing.claims import (
    Check,
    Subject,
    checks_of,
    claim,
    claim_inherits,
    claim_refused,
    seed_all,
)
from castssl.testing.faults import described
from castssl.testing.samples import pixels

SIZES = ((64, 64), (65, 81), (96, 64))
"""Height and width of small images: square, odd and tall."""
Levels = NDArray[np.int32]


def images() -> dict[str, NDArray[np.uint8]]:
    """The images of the checks, uint8 (H, W, 3), by the names that the checks call them by.

    Three with regions and noise, and one each of black, gray and white.
    """
    found = {f"sample-{n}.png": pixels(1, *size, seed=n)[0].numpy() for n, size in enumerate(SIZES)}
    flat = {f"flat-{value}.png": np.full((3, *SIZES[0]), value, np.uint8) for value in (0, 128, 255)}
    return {name: np.ascontiguousarray(image.transpose(1, 2, 0)) for name, image in (found | flat).items()}


def _make(subject: Subject) -> Segmenter:
    seed_all(0)
    built = build_segmenter(subject) if isinstance(subject, str) else subject("")
    claim_inherits(built, Segmenter)
    return built


def _claim_equal(maps: Levels, expected: Levels, message: str) -> None:
    claim(maps.shape == expected.shape and bool((maps == expected).all()), message)


def check_conforms(subject: Subject) -> None:
    """It is a Segmenter that declares whether its levels are nested."""
    nested = _make(subject).nested
    claim(isinstance(nested, bool), f"set nested to True or False, got {nested!r}")


def check_label_maps(subject: Subject) -> None:
    """Label maps are int32 (L, H, W), at square and odd sizes, and L is the same for all images."""
    segmenter, levels = _make(subject), set()
    for name, image in images().items():
        maps: object = segmenter(image, name)
        kind = f"{maps.dtype}" if isinstance(maps, np.ndarray) else type(maps).__name__
        claim(kind == "int32", f"return a numpy array of int32, not {kind}: end with .astype(np.int32)")
        assert isinstance(maps, np.ndarray)
        fits = maps.ndim == 3 and len(maps) > 0 and maps.shape[1:] == image.shape[:2]
        claim(fits, f"return label maps of shape (L, {image.shape[0]}, {image.shape[1]}), not {maps.shape}")
        levels.add(len(maps))
    claim(len(levels) == 1, f"return one number of levels for all images, not {sorted(levels)}")


def check_ids_have_no_gaps(subject: Subject) -> None:
    """The K segments of a level have the ids 0 to K - 1."""
    segmenter = _make(subject)
    for name, image in images().items():
        for number, level in enumerate(segmenter(image, name)):
            ids = np.unique(level).tolist()
            fault = f"level {number} of {name} has the ids {ids[:9]}, expected 0 to {len(ids) - 1}"
            remedy = "end with castssl.segmenter.consecutive(maps)"
            claim(ids == list(range(len(ids))), f"{fault}: {remedy}")


def check_flat_images(subject: Subject) -> None:
    """Images of one color have segments, too: at least one at each level."""
    segmenter = _make(subject)
    for name, image in images().items():
        if name.startswith("flat"):
            try:
                maps = segmenter(image, name)
            except Exception as fault:
                message = f"an image of one color raises {described(fault)}; return one segment"
                claim(False, message)
            claim(maps.size > 0, "an image of one color has no levels: return one segment")


def check_fine_to_coarse(subject: Subject) -> None:
    """Over the images together, no level has more segments than the one before it."""
    segmenter = _make(subject)
    counts = sum(segmenter(image, name).max((1, 2)) + 1 for name, image in images().items())
    found = np.asarray(counts).tolist()
    claim(
        found == sorted(found, reverse=True), f"the levels have {found} segments: order them from many to few"
    )


def check_nested_as_declared(subject: Subject) -> None:
    """If ``nested`` is True, each segment lies within one segment of the next level."""
    segmenter = _make(subject)
    if not segmenter.nested:
        return
    for name, image in images().items():
        for number, (fine, coarse) in enumerate(pairwise(segmenter(image, name))):
            pairs = np.unique(np.stack([fine.ravel(), coarse.ravel()]), axis=1)
            parts, lists = np.unique(pairs[0], return_counts=True)
            split = parts[lists > 1].tolist()
            fault = f"in {name} segments {split[:5]} of level {number} lie in several of level {number + 1}"
            claim(not split, f"{fault}: set nested = False, or derive each level from the one before")


def check_remembers_nothing(subject: Subject) -> None:
    """The label maps of an image depend on no earlier call."""
    used, fresh = _make(subject), _make(subject)
    (first, image), (second, other), *_ = images().items()
    before = used(image, first).copy()
    message = "an image gets other segments after another one: keep no state between calls"
    _claim_equal(used(other, second), fresh(other, second), message)
    _claim_equal(used(image, first), before, message)


def check_draws_nothing(subject: Subject) -> None:
    """Global random generators change nothing, and are left as they are."""
    segmenter = _make(subject)
    name, image = next(iter(images().items()))
    before = segmenter(image, name)
    seed_all(1)
    _claim_equal(segmenter(image, name), before, "other seeds change the segments: seed a generator")
    drawn = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
    seed_all(1)
    expected = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
    claim(drawn == expected, "a call moves a global random generator: draw from a generator of its own")


def check_leaves_input_alone(subject: Subject) -> None:
    """The image is not written to."""
    segmenter = _make(subject)
    name, image = next(iter(images().items()))
    before = image.copy()
    segmenter(image, name)
    claim(bool((image == before).all()), "the image was changed in place: work on a copy")


def check_refuses_wrong_input(subject: Subject) -> None:
    """Anything but uint8 (H, W, 3) is a ValueError that names what was got."""
    segmenter = _make(subject)
    name, image = next(iter(images().items()))
    image = image[:48]
    claim_refused(lambda: segmenter(image / 255, name), "floats", ("uint8", "float64"))  # type: ignore[arg-type]
    claim_refused(lambda: segmenter(image[..., 0], name), "one channel", ("48, 64",))
    claim_refused(lambda: segmenter(image[None], name), "a batch", ("1, 48, 64, 3",))


checks: list[Check] = checks_of(globals())
"""All checks of segmenters."""
