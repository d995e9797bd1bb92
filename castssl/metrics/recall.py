"""Average recall of segments without classes, as COCO defines it.

https://cocodataset.org/#detection-eval: recall at 100 masks per image, averaged over the IoU thresholds 0.5,
0.55, ..., 0.95.  faster-coco-eval computes it.  UnSAM (https://arxiv.org/abs/2406.20081) reports average
recall on PartImageNet, too; compare equal limits of the number of masks.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castssl.errors import PluginError
from castssl.installer import install

LIMIT = 100
"""Masks of an image that count."""
PACKAGE = "faster-coco-eval"


class AverageRecall:
    """The share of true regions that segments of any level cover, averaged over IoU thresholds (AR@100).

    The segments of all levels are the masks of an image.  Those of coarser levels come first, larger ones
    before smaller ones, and only the first :data:`LIMIT` count.  At a threshold each mask is matched with at
    most one region, and each region with at most one mask.

    Raises:
        PluginError: with the command that installs faster-coco-eval if it is missing.
    """

    def __init__(self) -> None:
        try:
            self._library, self._codec = (
                import_module(f"faster_coco_eval{module}") for module in ("", ".core.mask")
            )
        except ImportError as error:
            raise PluginError(f"average recall needs {PACKAGE}: {install(PACKAGE)}") from error
        self._regions = 0
        self._hits = np.zeros(10)

    def update(self, segments: NDArray[np.int32], regions: NDArray[np.int32]) -> None:
        """Count an image.

        Args:
            segments: int32 (L, H, W), label maps fine to coarse; a negative label belongs to no segment.
            regions: int32 (H, W), the true regions 1, 2, ...; 0 and less belong to none.

        Raises:
            ValueError: if the sizes differ.
        """
        if segments.ndim != 3 or segments.shape[1:] != regions.shape:
            raise ValueError(
                f"expected segments (L, H, W) and regions (H, W) of one size, got {segments.shape} and"
                f" {regions.shape}"
            )
        numbers = np.unique(regions[regions > 0])
        true = self._encoded([regions == number for number in numbers])
        found = self._encoded(_first(segments))
        self._regions += len(true)
        if true and found:
            # The limit is of an image, so that hits add up over images and no mask is kept.
            self._hits += np.rint(self._recall(true, found, regions.shape) * len(true))

    def compute(self) -> float:
        """AR@100 in [0, 1]; not a number if there was no region."""
        return float(self._hits.mean() / self._regions) if self._regions else float("nan")

    def _recall(self, true: list[Any], found: list[Any], size: tuple[int, ...]) -> NDArray[np.float64]:
        """The recall of an image at each threshold, float64 (10,)."""
        image = {"id": 1, "height": size[0], "width": size[1]}
        same = {"image_id": 1, "category_id": 1}
        annotations = [
            {"id": number, "area": float(self._codec.area(mask)), "iscrowd": 0, "segmentation": mask, **same}
            for number, mask in enumerate(true, start=1)
        ]
        results = [
            {"score": 1 - rank / LIMIT, "segmentation": mask, **same} for rank, mask in enumerate(found)
        ]
        categories = [{"id": 1, "name": "region"}]
        truth = self._library.COCO({"images": [image], "categories": categories, "annotations": annotations})
        work = self._library.COCOeval_faster(truth, truth.loadRes(results), "segm")
        work.params.useCats, work.params.maxDets = 0, [LIMIT]
        work.evaluate()
        work.accumulate()
        # Thresholds, classes, areas, numbers of masks.
        return np.asarray(work.eval["recall"][:, 0, 0, -1], np.float64)

    def _encoded(self, masks: list[NDArray[np.bool_]]) -> list[Any]:
        return list(self._codec.encode(np.asfortranarray(np.stack(masks, 2), np.uint8))) if masks else []


def _first(segments: NDArray[np.int32]) -> list[NDArray[np.bool_]]:
    """The masks of the segments that count: bool (H, W) each."""
    masks: list[NDArray[np.bool_]] = []
    for level in segments[::-1]:
        labels, areas = np.unique(level[level >= 0], return_counts=True)
        largest = labels[np.argsort(-areas, kind="stable")]
        masks += [level == label for label in largest[: LIMIT - len(masks)]]
    return masks
