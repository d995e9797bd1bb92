"""How well segments cut out the true regions of an image: region mIoU (H-CAST's poster).

The poster shows "region accuracy on BREEDS with ground truth segmentation" and defines no measure.  CAST's
part-to-whole evaluation (https://arxiv.org/abs/2210.00314, appendix E.3) names each segment by CLIP and takes
the mean IoU of the regions of each image, background included, then the mean over images.
:func:`region_iou` is that without CLIP: each segment gets the best name, so that only the partition counts.

It mostly grows with the number of segments: compare equal numbers only, and with segments merged at random.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.metrics.partition import shared_pixels


def region_iou(labels: Tensor, truth: Tensor) -> Tensor:
    """Mean IoU of an image's regions if each segment is given to the region that it shares most pixels with.

    Args:
        labels: integer (B, H, W), the segments; a negative label belongs to no segment, and so to no region.
        truth: integer (B, H, W), the true regions, the background being one of them; pixels with a negative
            number are left out of everything.  Of two regions that share equally much, the one of the
            smaller number gets the segment.

    Returns:
        float32 (B,) in [0, 1], over the regions that the image has; not a number if no pixel of it is known.

    Raises:
        ValueError: if the shapes differ.
    """
    # Pixels without a segment are a row of their own: they count in the area of their region.
    shared = shared_pixels("region_iou", labels.long().clamp(min=-1) + 1, truth)
    area = shared.sum(1)
    shared[:, 1:2] = 0
    assigned = F.one_hot(shared.argmax(2), shared.shape[2])
    inside = (shared * assigned).sum(1)
    reached = (shared.sum(2, keepdim=True) * assigned).sum(1)
    iou, present = inside / (area + reached - inside).clamp(min=1), area > 0
    return torch.where(present, iou, 0).sum(1) / present.sum(1)
