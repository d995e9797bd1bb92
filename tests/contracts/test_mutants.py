"""The checks have teeth: a subject that keeps its promises passes all, and each seeded fault is caught."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import castssl.datasets
from castssl.errors import ContractError
from castssl.testing import (
    Check,
    Subject,
    datasets,
    encoders,
    objectives,
    parametrize,
    pooling,
    segmenters,
    superpixels,
)
from tests.contracts import (
    healthy,
    mutants_datasets,
    mutants_encoders,
    mutants_objectives,
    mutants_pooling,
    mutants_segmenters,
    mutants_superpixels,
)

ROOMS = [
    (superpixels, mutants_superpixels),
    (pooling, mutants_pooling),
    (objectives, mutants_objectives),
    (datasets, mutants_datasets),
    (encoders, mutants_encoders),
    (segmenters, mutants_segmenters),
]


@pytest.mark.parametrize(
    ("check", "mutant", "words"),
    [
        pytest.param(check, mutant, words, id=f"{check.__name__}-{mutant.__name__}")
        for _, mutants in ROOMS
        for check, mutant, words in mutants.MUTANTS
    ],
)
def test_the_fault_is_caught(check: Check, mutant: Subject, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check(mutant)


@pytest.mark.parametrize(("room", "mutants"), ROOMS)
def test_every_check_has_a_mutant_and_is_in_the_list(room: ModuleType, mutants: ModuleType) -> None:
    defined = {value for name, value in vars(room).items() if name.startswith("check_")}
    assert set(room.checks) == defined
    assert {check for check, _, _ in mutants.MUTANTS} == defined
    assert len(room.checks) == len(defined)


@parametrize(superpixels.checks, [healthy.Bands])
def test_healthy_superpixels_pass(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize(pooling.checks, [healthy.Heaviest])
def test_a_healthy_pooling_passes(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize(
    objectives.checks, [healthy.Classifier, healthy.PixelClassifier, healthy.Tagger, healthy.Attends]
)
def test_a_healthy_objective_passes(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize(datasets.checks, [healthy.Labels, healthy.Frames, healthy.Maps, healthy.Tags])
def test_healthy_data_sets_pass(check: Check, subject: Subject) -> None:
    check(subject)


@pytest.mark.parametrize("check", datasets.checks)
def test_the_example_in_the_contract_of_data_sets_passes(check: Check) -> None:
    text = inspect.getdoc(castssl.datasets.DataSet) or ""
    code = text.partition("is::\n\n")[2].partition("\n\n``castssl check")[0]
    names: dict[str, Any] = {"Path": Path, **vars(castssl.datasets)}
    exec(textwrap.dedent(code), names)
    check(type("Example", (names["Labels"],), {"example": healthy.Labels.example}))


@parametrize(encoders.checks, [healthy.Pairs, healthy.Widening])
def test_a_healthy_encoder_passes(check: Check, subject: Subject) -> None:
    check(subject)


@parametrize(segmenters.checks, [healthy.Tones])
def test_a_healthy_segmenter_passes(check: Check, subject: Subject) -> None:
    check(subject)
