from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from castssl.checkpoints import export
from castssl.checkpoints.export import Flat, example
from castssl.errors import ConfigError, ContractError
from castssl.testing import samples
from castssl.types import Batch, View
from castssl.verification.measure import (
    Gradients,
    Inapplicable,
    Measurement,
    agree,
    claim_close,
    independent,
    same_file,
    several,
)
from tests.verification.faulty import Encoder, Fault

ONE = Gradients([1.0, 2.0], {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0])}, ["x"], 0.0, True)


def flat(fault: Fault) -> Flat:
    torch.manual_seed(0)
    return Flat(Encoder(fault)).eval()


def run(model: Flat, view: View) -> dict[str, Tensor]:
    with torch.no_grad():
        outputs: dict[str, Tensor] = model(*view)
        return outputs


def test_equal_gradients_agree_with_their_tolerances() -> None:
    near = ONE._replace(losses=[1.0, 2.0 + 1e-5], gradients={**ONE.gradients, "b": torch.tensor([1e-3])})
    assert (
        agree(ONE, near, "two", "one")
        == "loss within 5.0e-06 (tolerance 1e-04), gradients within 2.0e-04 (1e-03)"
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ONE._replace(losses=[1.0, 2.1]), r"two has the loss 2.1 and one 2 \(batch 1\)"),
        (ONE._replace(losses=[1.0, float("nan")]), "two has the loss nan"),
        (
            ONE._replace(gradients={**ONE.gradients, "b": torch.tensor([0.1])}),
            "another gradient: .* most in b",
        ),
        (
            ONE._replace(gradients={**ONE.gradients, "b": torch.tensor([float("nan")])}),
            "another gradient: nan",
        ),
        (ONE._replace(gradients={"a": ONE.gradients["a"]}), "a gradient of other parameters than one: b"),
        (ONE._replace(losses=[1.0]), "two has another number of losses: 1 in the first step, and one 2"),
    ],
)
def test_other_losses_and_gradients_are_named(found: Gradients, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        agree(ONE, found, "two", "one")


def test_what_says_nothing_does_not_pass() -> None:
    with pytest.raises(Inapplicable, match="draws random numbers"):
        agree(ONE._replace(random=0.1), ONE, "two", "one")
    zero = ONE._replace(gradients={name: torch.zeros_like(part) for name, part in ONE.gradients.items()})
    with pytest.raises(Inapplicable, match="all gradients of the first step are 0"):
        agree(zero, zero, "two", "one")
    with pytest.raises(Inapplicable, match="the recipe reports no loss"):
        agree(ONE._replace(losses=[]), ONE._replace(losses=[]), "two", "one")
    strange = ONE._replace(gradients={**ONE.gradients, "b": torch.tensor([float("nan")])})
    with pytest.raises(ContractError, match="one has a gradient that is not finite: b"):
        agree(strange, strange, "two", "one")
    infinite = ONE._replace(losses=[1.0, float("inf")])
    with pytest.raises(ContractError, match=r"one has the losses \[1\.0, inf\], expected finite"):
        agree(infinite, infinite, "two", "one")


def test_images_are_independent_unless_the_encoder_looks_at_neighbors() -> None:
    view = samples.view(7)
    assert "alone and among 7 images: numbers within" in independent(
        lambda part: run(flat("none"), part), view
    )
    with pytest.raises(ContractError, match="image 0 of 7 alone has another features: the largest"):
        independent(lambda part: run(flat("neighbors"), part), view)


def test_a_file_with_a_frozen_batch_size_is_found() -> None:
    model, view = flat("none"), samples.view(7)

    def frozen(image: Tensor, segments: Tensor) -> dict[str, Tensor]:
        if len(image) != 2:
            raise RuntimeError(f"expected a batch of 2, got {len(image)}")
        return run(model, View(image, segments))

    def padded(image: Tensor, segments: Tensor) -> dict[str, Tensor]:
        pair = several(View(image, segments), 2)
        return {name: value[: len(image)] for name, value in run(model, pair).items()}

    assert same_file(model, lambda *view: run(model, View(*view)), view).startswith("batches of 1, 2, 7")
    with pytest.raises(ContractError, match=r"fails on a batch of 1: RuntimeError: expected a batch of 2"):
        same_file(model, frozen, view)
    with pytest.raises(ContractError, match=r"on a batch of 7 the exported model has another shape of"):
        same_file(model, padded, view)


def test_labels_are_compared_exactly_and_outputs_by_name() -> None:
    labels = {"labels": torch.tensor([1, 2])}
    with pytest.raises(ContractError, match=r"got another labels: 50\.00% of its numbers differ; look there"):
        claim_close({"labels": torch.tensor([1, 3])}, labels, "got another", "look there")
    with pytest.raises(ContractError, match="set of outputs: labels"):
        claim_close({}, labels, "got another")


def test_infinite_numbers_must_be_equal_and_set_no_scale() -> None:
    def close(found: list[float], expected: list[float]) -> float:
        return claim_close({"x": torch.tensor(found)}, {"x": torch.tensor(expected)}, "got another")

    inf, nan = float("inf"), float("nan")
    assert close([1.0, -inf, nan], [1.0, -inf, nan]) == 0
    for found, expected in (([555.0, 2.0], [1.0, inf]), ([1.0, inf], [1.0, -inf]), ([nan, 1.0], [1.0, 1.0])):
        with pytest.raises(ContractError, match="x: 1 of 2 numbers are infinite or not a number on one side"):
            close(found, expected)
    with pytest.raises(ContractError, match="x: the largest difference is 5"):
        close([6.0, inf], [1.0, inf])


def test_few_images_are_repeated() -> None:
    view = samples.view(2)
    found = several(View(view.image, torch.empty(2, 0, 0)), 7)
    assert torch.equal(found.image[6], view.image[0])
    assert found.segments.shape == (7, samples.SIDE, samples.SIDE)


def test_a_model_that_onnx_cannot_hold_is_not_applicable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*args: Any, **kwargs: Any) -> None:
        raise ConfigError("no translation of the operator aten.x; give --to torch-export")

    image, segments = example(flat("none"), 32)
    parts = SimpleNamespace(model=flat("none")), Batch([View(image, segments)], torch.zeros(2, 0))
    measurement: Any = SimpleNamespace(_parts=lambda: parts, _job=SimpleNamespace(folder=str(tmp_path)))
    monkeypatch.setattr(export, "require", lambda to: None)
    monkeypatch.setattr(export, "export", lacking)
    with pytest.raises(Inapplicable, match=r"operator aten\.x; give --to torch-export"):
        Measurement._exported(measurement, "onnx")
