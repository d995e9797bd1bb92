"""Seeded faults of segmenters, each with the check that must catch it and words of its message."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from castssl.testing import segmenters as room
from castssl.testing.claims import Check, Subject
from tests.contracts.healthy import Tones

Image = NDArray[np.uint8]
Maps = NDArray[np.int32]


class NoSegmenter:
    def __init__(self, source: str) -> None:
        self.nested = True


class Unsure(Tones):
    nested = cast(bool, None)


class Wide(Tones):
    def __call__(self, image: Image, name: str = "") -> Maps:
        return cast(Maps, super().__call__(image).astype(np.int64))


class ReturnsTensors(Tones):
    def __call__(self, image: Image, name: str = "") -> Maps:
        return cast(Maps, torch.from_numpy(super().__call__(image)))


class OneMap(Tones):
    def __call__(self, image: Image, name: str = "") -> Maps:
        return cast(Maps, super().__call__(image)[0])


class Transposed(Tones):
    def __call__(self, image: Image, name: str = "") -> Maps:
        return np.swapaxes(super().__call__(image), 1, 2)


class FewerLevelsOfTallImages(Tones):
    def __call__(self, image: Image, name: str = "") -> Maps:
        return super().__call__(image)[int(image.shape[0] > 90) :]


class KeepsGaps(Tones):
    def __call__(self, image: Image, name: str = "") -> Maps:
        return self.bands(image).astype(np.int32)


class MarksTheDark(Tones):
    """-1 where a pixel has no segment."""

    def __call__(self, image: Image, name: str = "") -> Maps:
        return super().__call__(image) - 1


class StretchesContrast(Tones):
    """Divides by a range that is 0 in an image of one color."""

    def bands(self, image: Image) -> NDArray[np.int64]:
        low, high = int(image.min()), int(image.max())
        return super().bands(((image - low) * (255 / (high - low))).astype(np.uint8))


class FindsNothing(Tones):
    """No level where nothing stands out."""

    def __call__(self, image: Image, name: str = "") -> Maps:
        return super().__call__(image)[: 3 * int(image.std() > 0)]


class CoarseToFine(Tones):
    nested = False

    def bands(self, image: Image) -> NDArray[np.int64]:
        return super().bands(image)[::-1]


class CutsAcross(Tones):
    """The coarsest level is left and right, whatever the segments."""

    def bands(self, image: Image) -> NDArray[np.int64]:
        found = super().bands(image)
        found[-1] = np.arange(image.shape[1]) * 2 // image.shape[1]
        return found


class AdaptsToTheLast(Tones):
    shift = 0

    def bands(self, image: Image) -> NDArray[np.int64]:
        found = np.stack([image.mean(2).astype(np.int64) + self.shift >> bits for bits in (5, 6, 7)])
        self.shift = int(image.mean()) % 32
        return found


class CountsCalls(Tones):
    calls = 0

    def bands(self, image: Image) -> NDArray[np.int64]:
        self.calls += 1
        return super().bands(image // self.calls)


class StartsAnywhere(Tones):
    def bands(self, image: Image) -> NDArray[np.int64]:
        state: Any = torch.get_rng_state()
        shift = int(torch.randint(32, ()))
        torch.set_rng_state(state)
        return np.stack([image.mean(2).astype(np.int64) + shift >> bits for bits in (5, 6, 7)])


class SeedsAll(Tones):
    def bands(self, image: Image) -> NDArray[np.int64]:
        random.seed(0)
        return super().bands(image)


class WritesToInput(Tones):
    def bands(self, image: Image) -> NDArray[np.int64]:
        image &= 0xF0
        return super().bands(image)


class TakesAnything(Tones):
    def __call__(self, image: Image, name: str = "") -> Maps:
        return super().__call__(np.resize(image, (48, 64, 3)).astype(np.uint8))


class MutteredRefusal(Tones):
    def __call__(self, image: Image, name: str = "") -> Maps:
        if image.dtype != np.uint8:
            raise ValueError("wrong dtype")
        return super().__call__(image)


MUTANTS: list[tuple[Check, Subject, str]] = [
    (room.check_conforms, NoSegmenter, "inherit from castssl.contracts.Segmenter"),
    (room.check_conforms, Unsure, "set nested"),
    (room.check_label_maps, Wide, r"not int64: end with \.astype"),
    (room.check_label_maps, ReturnsTensors, "not Tensor"),
    (room.check_label_maps, OneMap, r"shape \(L, 64, 64\)"),
    (room.check_label_maps, Transposed, r"shape \(L, 65, 81\)"),
    (room.check_label_maps, FewerLevelsOfTallImages, r"not \[2, 3\]"),
    (room.check_ids_have_no_gaps, KeepsGaps, r"consecutive\(maps\)"),
    (room.check_ids_have_no_gaps, MarksTheDark, "expected 0 to"),
    (room.check_flat_images, StretchesContrast, "ZeroDivisionError.*return one segment"),
    (room.check_flat_images, FindsNothing, "no levels"),
    (room.check_fine_to_coarse, CoarseToFine, "order them from many to few"),
    (room.check_nested_as_declared, CutsAcross, "of level 1 lie in several of level 2"),
    (room.check_remembers_nothing, AdaptsToTheLast, "no state"),
    (room.check_remembers_nothing, CountsCalls, "no state"),
    (room.check_draws_nothing, StartsAnywhere, "other seeds"),
    (room.check_draws_nothing, SeedsAll, "moves a global random generator"),
    (room.check_leaves_input_alone, WritesToInput, "in place"),
    (room.check_refuses_wrong_input, TakesAnything, "raise ValueError"),
    (room.check_refuses_wrong_input, MutteredRefusal, "also name uint8 and float64"),
]
