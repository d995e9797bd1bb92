"""The checks of data sets beyond the healthy and faulty ones of tests/contracts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from castssl.datasets import Item, Turn
from castssl.errors import ContractError
from castssl.testing.datasets import check_order, check_targets
from tests.contracts.healthy import Frames, Reel


class SomeUnlabeled(Reel):
    """Every second image has a new NaN as its label, as readers of tables give; the others have ``first``."""

    def items(self, turn: Turn) -> Iterator[Item]:
        for number, item in enumerate(super().items(turn)):
            yield item._replace(label=float("nan") if number % 2 else self.first)


class Reported(Frames):
    """The stream of these items; ``step`` is added to the labels at each opening."""

    step = 0
    opened = 0

    def open(self, location: str, split: str) -> Reel:
        reel = SomeUnlabeled(*super().open(location, split))
        self.opened += 1
        reel.first = self.step * self.opened
        return reel


def test_unknown_labels_that_are_nan_are_in_the_same_order() -> None:
    check_targets(Reported)
    check_order(Reported)


class Renumbered(Reported):
    step = 1


def test_other_labels_beside_nan_are_another_order() -> None:
    with pytest.raises(ContractError, match="another order"):
        check_order(Renumbered)
