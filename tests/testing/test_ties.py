from __future__ import annotations

import torch

from castssl.testing.ties import Ties

EQUAL = torch.tensor([[1.0, 3.0, 1.0, 3.0, 2.0]])


def test_topk_and_plain_sorts_return_equal_values_in_both_orders() -> None:
    for last, most, order in ((False, [1, 3, 4], [0, 2, 4, 1, 3]), (True, [3, 1, 4], [2, 0, 4, 3, 1])):
        with Ties(last=last):
            values, index = EQUAL.topk(3)
            assert (values[0].tolist(), index[0].tolist()) == ([3, 3, 2], most)
            assert EQUAL.T.topk(3, dim=0).indices[:, 0].tolist() == most
            assert EQUAL.topk(2, largest=False).indices[0].tolist() == order[:2]
            assert EQUAL.argsort(1)[0].tolist() == order
            assert EQUAL.sort(dim=1, stable=False).indices[0].tolist() == order
            assert torch.tensor(5).topk(1).indices.shape == ()


def test_promised_orders_stay() -> None:
    with Ties(last=True):
        assert EQUAL.argsort(dim=1, stable=True)[0].tolist() == [0, 2, 4, 1, 3]
        assert EQUAL.sort(dim=1, descending=True, stable=True).indices[0].tolist() == [1, 3, 4, 0, 2]
        assert int(EQUAL.argmax()) == int(EQUAL.max(1).indices) == 1
