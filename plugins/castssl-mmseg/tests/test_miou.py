"""castssl's mIoU against mmsegmentation's own metric."""

from __future__ import annotations

import pytest
import torch
from mmseg.evaluation.metrics import IoUMetric

from castssl.metrics.iou import MeanIoU


@pytest.mark.parametrize("seed", range(8))
def test_it_equals_mmsegmentations_in_the_decimals_that_it_prints(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    classes = int(torch.randint(2, 12, (), generator=draw))
    theirs, ours = IoUMetric(), MeanIoU(classes)
    theirs.dataset_meta = {"classes": [str(number) for number in range(classes)]}
    samples = []
    for _ in range(3):
        height, width = (int(side) for side in torch.randint(5, 40, (2,), generator=draw))
        truth = torch.randint(classes, (1, height, width), generator=draw)
        # Some classes occur nowhere, others in one of the two maps only.
        predicted = torch.randint(max(classes - 2, 1), (1, height, width), generator=draw)
        truth[truth == 1] = 0
        truth[torch.rand(truth.shape, generator=draw) < 0.2] = 255
        predicted = predicted.where(torch.rand(truth.shape, generator=draw) < 0.5, truth % 255 % classes)
        ours.update(predicted, truth)
        samples.append({"pred_sem_seg": {"data": predicted}, "gt_sem_seg": {"data": truth}})
    theirs.process({}, samples)
    expected, scores = theirs.compute_metrics(theirs.results), ours.compute()
    named = {"mIoU": scores.mean_iou, "mAcc": scores.class_accuracy, "aAcc": scores.pixel_accuracy}
    for name, value in named.items():
        assert round(100 * float(value), 2) == pytest.approx(float(expected[name]), abs=0.0051)
