"""Balanced accuracy: the mean of the recall of classes."""

from __future__ import annotations

import pytest
import torch

from castssl.metrics.balanced import BalancedAccuracy


def test_batches_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of one length, got \(1,\) and \(3,\)"):
        BalancedAccuracy(2).update(torch.tensor([1]), torch.tensor([1, 1, 1]))
