from __future__ import annotations

import runpy
from dataclasses import dataclass, fields, replace

import pytest

from castssl.shipped import recipe
from castssl.training.configs import ImageConfig
from castssl.training.ranges import MOST, out_of_range
from castssl.training.supervised import SupervisedConfig

IMAGES = ImageConfig(data="demo")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"workers": -1}, "--workers: got -1, expected a whole number from 0"),
        ({"batch_size": 0}, "--batch-size: got 0, expected a whole number from 1"),
        ({"accumulate": 0}, "--accumulate: got 0, expected at least 1"),
        ({"epochs": 10**30}, f"--epochs: got {10**30}, expected a whole number up to {MOST}"),
        ({"batch_size": 5, "accumulate": 2}, "--batch-size: got 5, expected a multiple of --accumulate, 2"),
    ],
)
def test_a_wrong_number_is_one_problem(changed: dict[str, int], expected: str) -> None:
    assert replace(IMAGES, **changed).problems() == [expected]  # type: ignore[arg-type]


def test_a_wrong_batch_size_says_nothing_of_the_learning_rate() -> None:
    problems = SupervisedConfig(data="demo", batch_size=0).problems()
    assert problems == ["--batch-size: got 0, expected a whole number from 1"]
    assert SupervisedConfig(data="demo", lr=0.0).problems() == ["--lr: got 0, expected a number above 0"]


@dataclass(frozen=True)
class Some:
    crop_min: float = 0.5
    ema: float = 0.9
    erase: float = 0.5
    blur: float = 2.0
    temperature: float = 0.2
    image_size: int = 0
    compile: bool = False


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("crop_min", 0.0, "a number above 0 to 1"),
        ("ema", 1.0, "a number from 0 to below 1"),
        ("erase", 1.5, "a number from 0 to 1"),
        ("blur", float("nan"), "a number from 0"),
        ("blur", float("inf"), "a number from 0"),
        ("temperature", 0.0, "a number above 0"),
    ],
)
def test_numbers_with_a_point_are_finite_and_in_their_range(name: str, value: float, expected: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    changed = replace(Some(), **{name: value})  # type: ignore[arg-type]
    assert out_of_range(changed) == [f"{flag}: got {value}, expected {expected}"]


def test_ends_that_belong_to_a_range_and_a_zero_that_stands_for_another_value_fit() -> None:
    assert not out_of_range(Some())
    assert not out_of_range(Some(crop_min=1.0, ema=0.0, erase=1.0, blur=0.0))
    assert not out_of_range(IMAGES)


NAMES = ("deit_in1k", "finetune_voc", "hcast", "moco_in1k", "multilabel", "pretrain", "probe_in1k")


@pytest.mark.parametrize("name", [*NAMES, "retrieve_voc", "segment"])
def test_every_number_of_a_recipe_has_a_smallest_value(name: str) -> None:
    base = runpy.run_path(str(recipe(name)))["Config"](data="demo")
    numbers = [part.name for part in fields(base) if type(getattr(base, part.name)) in (int, float)]
    usual = base.problems()
    refused = {
        part for part in numbers if replace(base, **{part: type(getattr(base, part))(-2)}).problems() != usual
    }
    assert refused == set(numbers)
