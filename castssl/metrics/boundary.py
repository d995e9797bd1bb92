"""How well the boundaries of class maps are placed: boundary F-score and boundary IoU.

CAST (https://arxiv.org/abs/2210.00314) reports a boundary F-score and defines neither tolerance nor average.
The tolerance here is that of Csurka et al., "What is a good evaluation measure for semantic segmentation?",
BMVC 2013: 0.75 % of the image's diagonal.  Boundary and matching are those of DAVIS (Perazzi et al., CVPR
2016).  Boundary IoU is that of Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562.

Boundary F-score:

- A boundary point of a mask is a corner where four pixels meet, some of them in the mask and some not.  An
  image of H x W pixels has (H - 1) x (W - 1) corners, so the image's border is not a boundary.
- A point is matched if the other map has a boundary point of the same class within the tolerance (Euclidean
  distance).  Several points may be matched to one.
- Precision is the matched share of the predicted points, recall that of the true points, and F is
  2 P R / (P + R).  Without points in both maps there is no score.  With points in one map alone, F is 0.

Pixels without a label often form a band around objects, as in PASCAL VOC.  So the boundary F-score gives such
a pixel the class of the nearest labeled pixel if that lies within the tolerance.  Other pixels without a
label stay unknown.  A corner of an unknown pixel is not a boundary point of either map, and points within the
tolerance of such a corner are not counted, although others may be matched to them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torchmetrics import Metric

from castssl.errors import DataError
from castssl.metrics.iou import check_maps

WORDS = {torch.int32: 30, torch.int64: 62}
"""Classes whose bits share an integer; the smaller one is half of the memory that is read."""
ONE = 2**40
"""An F-score of 1 in a sum of integers, which does not depend on the order of its terms as floats do."""


class BoundaryScores(NamedTuple):
    """Boundary F-scores in [0, 1], float64; not a number where neither map has a boundary.

    ``class`` scores match the boundary of each class's mask with that of the same class.  ``any`` scores
    match changes of the label, whatever the classes.
    """

    class_image: Tensor
    """Scalar: mean over the classes with a boundary in an image, then over images with such classes."""
    class_pooled: Tensor
    """Scalar: points of all images counted together, then the mean over classes with a boundary."""
    any_image: Tensor
    """Scalar: mean over the images with a boundary."""
    any_pooled: Tensor
    """Scalar: points of all images counted together."""
    f: Tensor
    """(C,), pooled, by class."""
    points: Tensor
    """(C,), how many true boundary points each class has."""
    tolerance: Tensor
    """Scalar: mean over images of the tolerance in pixels."""


def tolerance_pixels(height: int, width: int, ratio: float = 0.0075) -> int:
    """The tolerance in pixels: ``ratio`` of the image's diagonal, rounded up to whole pixels as in DAVIS."""
    return math.ceil(ratio * math.hypot(height, width) - 1e-9)


def extend_labels(truth: Tensor, labeled: Tensor, distance: int) -> tuple[Tensor, Tensor]:
    """Give the class of the nearest labeled pixel to pixels without a label.

    Args:
        truth: int64 (H, W).
        labeled: bool (H, W).
        distance: how far the nearest labeled pixel may be, in pixels (Euclidean).

    Returns:
        int64 (H, W), of equally near pixels one; and bool (H, W), False where none is near enough.
    """
    if labeled.all() or not labeled.any():
        return truth, labeled
    indices = distance_transform_edt(~labeled.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(indices).long()
    down, right = rows - torch.arange(len(rows))[:, None], columns - torch.arange(rows.shape[1])
    near = down.square() + right.square() <= distance**2
    return truth[rows.to(truth.device), columns.to(truth.device)], near.to(truth.device)


def count_boundaries(
    predicted: Tensor, truth: Tensor, classes: int, *, ratio: float = 0.0075, ignore_index: int = 255
) -> Tensor:
    """Boundary points of an image and how many of them are matched.

    The classes are bits of an integer at each corner, and one dilation by a disk matches all of them.  So the
    time hardly depends on the number of classes and of points.  It waits for a device.

    Args:
        predicted: integer (H, W), each a class.
        truth: integer (H, W), each a class, -1 or ``ignore_index``, which are pixels without a label.
        classes: C.
        ratio: the tolerance as a share of the diagonal; see :func:`tolerance_pixels`.
        ignore_index: see ``truth``.

    Returns:
        int64 (C + 1, 4): predicted points, how many of them are matched, true points, how many of them are
        matched.  The last row is of changes of the label, whatever the classes.

    Raises:
        ValueError: as :func:`castssl.metrics.iou.check_maps`, or if the maps are not (H, W).
        DataError: if a label is neither a class nor ignored.
    """
    predicted, truth, labeled = _labeled(predicted, truth, classes, ignore_index)
    radius = tolerance_pixels(truth.shape[0], truth.shape[1], ratio)
    truth, known = extend_labels(truth, labeled, radius)
    usable = known[:-1, :-1] & known[:-1, 1:] & known[1:, :-1] & known[1:, 1:]
    counted = usable if usable.all() else ~_dilate(~usable, radius)
    maps = [_points(labels, usable, classes) for labels in (predicted, truth)]
    slots = torch.cat([point for point, _ in maps]).bincount(minlength=classes + 1).bool().cumsum(0) - 1
    used = int(slots[-1]) + 1
    dtype = torch.int32 if used <= WORDS[torch.int32] else torch.int64
    word = WORDS[dtype]
    words = -(-used // word)
    found = []
    for (label, at), (others, theirs) in (maps, maps[::-1]):
        bits = torch.zeros(words * usable.numel(), dtype=dtype, device=truth.device)
        slot = slots[others]
        # Each class occurs once at a corner, so the sum of its bits has them all.
        bits.index_add_(0, slot // word * usable.numel() + theirs, (1 << slot % word).to(dtype))
        near = _dilate(bits.view(words, *usable.shape), radius).flatten(1)
        slot = slots[label]
        matched = near[slot // word, at] >> slot % word & 1
        pairs = (2 * label + matched)[counted.flatten()[at]].bincount(minlength=2 * classes + 2).view(-1, 2)
        found += [pairs.sum(1), pairs[:, 1]]
    return torch.stack(found, 1)


def _labeled(
    predicted: Tensor, truth: Tensor, classes: int, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Both maps, int64 (H, W), and which pixels have a label, bool (H, W)."""
    check_maps(predicted, truth, classes, ignore_index)
    if truth.dim() != 2:
        raise ValueError(
            f"class maps of shape {tuple(truth.shape)}, expected both (H, W), those of one image"
        )
    # In uint8, torch takes 255 for -1, and 44 for 300.
    predicted, truth = predicted.long(), truth.long()
    labeled = (truth != -1) & (truth != ignore_index)
    for name, labels in (("truth", truth.where(labeled, 0)), ("prediction", predicted)):
        least, most = labels.aminmax()
        if least < 0 or most >= classes:
            wrong = int(((labels < 0) | (labels >= classes)).sum())
            raise DataError(
                f"{wrong:,} pixels of the {name} have labels outside 0 to {classes - 1}, expected these, -1"
                f" or the ignore index {ignore_index}; check the number of classes and the label files"
            )
    return predicted, truth, labeled


def _points(labels: Tensor, usable: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Class and corner of each boundary point, int64; the class ``classes`` is a change of the label."""
    upper, lower = labels[:-1], labels[1:]
    changed = (upper[:, 1:] != upper[:, :-1]) | (lower[:, 1:] != lower[:, :-1]) | (upper != lower)[:, 1:]
    corners = (changed & usable).flatten().nonzero()[:, 0]
    pixel, width = corners + corners // usable.shape[1], labels.shape[1]
    four = labels.flatten()[torch.stack([pixel, pixel + 1, pixel + width, pixel + width + 1])].sort(0).values
    first = torch.ones_like(four, dtype=torch.bool)
    first[1:] = four[1:] != four[:-1]
    changes = torch.full_like(corners, classes)
    return torch.cat([four[first], changes]), torch.cat([corners.expand(4, -1)[first], corners])


def _dilate(bits: Tensor, radius: int) -> Tensor:
    """The bitwise "or" over a disk around each position of (..., H, W): rows of growing width, shifted."""
    height, width = bits.shape[-2:]
    result, row, half = torch.zeros_like(bits), bits.clone(), 0
    for down in range(radius, -1, -1):
        while half < math.isqrt(radius**2 - down**2):
            half += 1
            # Not ``|=``, which copies each slice once more.
            row[..., half:].bitwise_or_(bits[..., : max(width - half, 0)])
            row[..., : max(width - half, 0)].bitwise_or_(bits[..., half:])
        result[..., down:, :].bitwise_or_(row[..., : max(height - down, 0), :])
        if down:
            result[..., : max(height - down, 0), :].bitwise_or_(row[..., down:, :])
    return result


def f_scores(counts: Tensor) -> Tensor:
    """F of counts (..., 4) of :func:`count_boundaries`: float64 (...), not a number without any point."""
    predicted, right, true, reached = counts.cpu().double().unbind(-1)
    precision, recall = right / predicted.clamp(min=1), reached / true.clamp(min=1)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return f.where(predicted + true > 0, math.nan)


class BoundaryF(Metric):
    """Boundary F-scores of a data set, exact for any number of processes: integers are summed.

    An image's own score is rounded to 2^-40.

    Args:
        classes: C.
        ratio: the tolerance as a share of an image's diagonal.
        ignore_index: a label besides -1 of pixels without a label.
        options: of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor
    sums: Tensor
    images: Tensor
    tolerance: Tensor

    def __init__(
        self, classes: int, *, ratio: float = 0.0075, ignore_index: int = 255, **options: object
    ) -> None:
        super().__init__(**options)
        self.classes, self.ratio, self.ignore_index = classes, ratio, ignore_index
        shapes = {"counts": (classes + 1, 4), "sums": (2,), "images": (2,), "tolerance": (2,)}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count a batch of images of one size.

        Args:
            predicted: integer (B, H, W), each a class.
            truth: integer (B, H, W), each a class, -1 or the ignore index.

        Raises:
            ValueError: if the shapes differ or are not (B, H, W).
            DataError: if a label is neither a class nor ignored.
        """
        for ours, true in _pairs(predicted, truth):
            counts = count_boundaries(
                ours, true, self.classes, ratio=self.ratio, ignore_index=self.ignore_index
            )
            by_class = f_scores(counts)
            f = torch.stack([by_class[:-1].nanmean(), by_class[-1]])
            self.counts = self.counts + counts
            self.sums = self.sums + (f.nan_to_num() * ONE).round().long().to(self.sums.device)
            self.images = self.images + (~f.isnan()).long().to(self.images.device)
            pixels = tolerance_pixels(true.shape[0], true.shape[1], self.ratio)
            self.tolerance = self.tolerance + torch.tensor([pixels, 1], device=self.tolerance.device)

    def compute(self) -> BoundaryScores:
        """The scores of the images of all processes, on the processor."""
        by_class = f_scores(self.counts)
        image = (self.sums.cpu().double() / ONE) / self.images.cpu()
        pixels, points = self.tolerance.cpu().double(), self.counts[:-1, 2].cpu()
        return BoundaryScores(
            class_image=image[0],
            class_pooled=by_class[:-1].nanmean(),
            any_image=image[1],
            any_pooled=by_class[-1],
            f=by_class[:-1],
            points=points,
            tolerance=pixels[0] / pixels[1],
        )


def _pairs(predicted: Tensor, truth: Tensor) -> zip[tuple[Tensor, Tensor]]:
    """The images of a batch."""
    if predicted.shape != truth.shape or truth.dim() != 3:
        raise ValueError(
            f"predicted classes of shape {tuple(predicted.shape)} and labels of shape {tuple(truth.shape)},"
            " expected both (B, H, W); resize the logits to the labels' size before argmax"
        )
    return zip(predicted, truth, strict=True)


def band(labels: Tensor, labeled: Tensor, distance: int) -> Tensor:
    """The pixels of each class's mask that are at its boundary (Cheng et al.'s inner boundary region).

    These are the labeled pixels with a labeled pixel of another class, or the outside of the image, in the
    square window of 2 ``distance`` + 1 pixels around them.  Erosion by a 3 x 3 square, ``distance`` times,
    takes the same pixels from the mask.

    Args:
        labels: integer (H, W), at least 0 where labeled.
        labeled: bool (H, W).
        distance: at least 1.

    Returns:
        bool (H, W).
    """
    window, known = np.ones((2 * distance + 1,) * 2, np.uint8), labeled.cpu().numpy()
    dtype = np.uint8 if int(labels.max()) < 256 else np.float32  # Exact up to 2^24.
    values = labels.cpu().numpy().astype(dtype)
    # What is put in place of pixels without a label changes neither extreme beside a labeled pixel.
    smallest = cv2.erode(np.where(known, values, values.max()), window)
    largest = cv2.dilate(np.where(known, values, values.min()), window)
    found = smallest != largest
    for edge in (found[:distance], found[-distance:], found[:, :distance], found[:, -distance:]):
        edge[:] = True
    return torch.from_numpy(found & known).to(labels.device)


def count_bands(
    predicted: Tensor, truth: Tensor, classes: int, *, ratio: float = 0.02, ignore_index: int = 255
) -> Tensor:
    """Pixels of an image near the boundaries of each class: predicted, true, and both.

    Pixels without a label belong to no band and put no other pixel into one, in both maps.

    Args:
        predicted: integer (H, W), each a class.
        truth: integer (H, W), each a class, -1 or ``ignore_index``, which are pixels without a label.
        classes: C.
        ratio: the width of a band as a share of the diagonal, rounded to the nearest whole pixel, at least 1.
        ignore_index: see ``truth``.

    Returns:
        int64 (C, 3).

    Raises:
        ValueError, DataError: as :func:`count_boundaries`.
    """
    predicted, truth, labeled = _labeled(predicted, truth, classes, ignore_index)
    distance = max(round(ratio * math.hypot(*truth.shape)), 1)
    ours, true = (band(labels, labeled, distance) for labels in (predicted, truth))
    both = ours & true & (predicted == truth)
    regions = ((ours, predicted), (true, truth), (both, truth))
    # Several times as fast as a selection of the pixels.
    slots = (labels.where(inside, classes).flatten() for inside, labels in regions)
    return torch.stack([slot.bincount(minlength=classes + 1)[:-1] for slot in slots], 1)


class BoundaryIoU(Metric):
    """IoU of the bands along the boundaries of class maps; pixels of all images are counted together.

    The result is float64 (C,), on the processor: by class, not a number for a class that occurs nowhere.  Its
    mean over classes is to mIoU as Cheng et al.'s boundary AP is to AP.  The image's border is a boundary, as
    in their code.

    Args:
        classes: C.
        ratio: the width of a band as a share of an image's diagonal.
        ignore_index: a label besides -1 of pixels without a label.
        options: of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(
        self, classes: int, *, ratio: float = 0.02, ignore_index: int = 255, **options: object
    ) -> None:
        super().__init__(**options)
        self.classes, self.ratio, self.ignore_index = classes, ratio, ignore_index
        self.add_state("counts", torch.zeros(classes, 3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count a batch of images of one size; see :meth:`BoundaryF.update`."""
        for ours, true in _pairs(predicted, truth):
            self.counts = self.counts + count_bands(
                ours, true, self.classes, ratio=self.ratio, ignore_index=self.ignore_index
            )

    def compute(self) -> Tensor:
        """By class, of the images of all processes."""
        predicted, true, both = self.counts.cpu().double().unbind(1)
        return both / (predicted + true - both)
