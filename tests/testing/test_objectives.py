from __future__ import annotations

from copy import deepcopy

import pytest

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.testing.objectives import build, trained
from tests.contracts.healthy import Classifier


class TwoLevels(Classifier):
    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        if labels.levels != 2:
            raise ConfigError(f"needs two label levels, got {labels.levels}")
        super().__init__(encoder, labels)


class Refuses(Classifier):
    def __init__(self, encoder: Encoder, labels: LabelTree) -> None:
        raise ConfigError("never fits")


def test_the_first_tree_that_fits_is_taken() -> None:
    assert build("moco:hidden=8,out=4").tree.levels == 0
    assert build(Classifier).tree.levels == 1
    assert build(TwoLevels).tree.levels == 2


def test_a_refusal_of_all_trees_is_told() -> None:
    with pytest.raises(ConfigError, match="never fits"):
        build(Refuses)


def test_training_moves_weights_and_state() -> None:
    before, after = build(Classifier).objective.state_dict(), trained(Classifier).objective.state_dict()
    moved = {name for name in before if not before[name].equal(after[name])}
    assert {"model.head.weight", "average.weight", "progress"} <= moved
    assert deepcopy(after).keys() == before.keys()
