"""Exported files that agree with their models, and that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from castssl.checkpoints import agreement as room
from castssl.checkpoints.agreement import Agreement, Difference, claim_agrees, compare, differences
from castssl.checkpoints.export import LIBRARIES, Flat, Run, example, export, load, trace
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.errors import ContractError
from castssl.models.create import create
from castssl.testing import samples

SIDE = samples.SIDE


def made(folder: Path, pooling: str = "graph", to: Any = "torch-export") -> tuple[Flat, Path]:
    """A model with one pooling and its file."""
    torch.manual_seed(0)
    encoder = create("nano", depths=(1, 0), image_size=SIDE, sizes=(16, 5), pooling=pooling)
    flat = Flat(encoder).eval()
    return flat, export(trace(flat, SIDE), folder / ("m.onnx" if to == "onnx" else "m.pt2"), to=to)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Flat, Path]:
    return made(tmp_path_factory.mktemp("made"))


def spoiled(monkeypatch: pytest.MonkeyPatch, images: int, batch: int = 1) -> None:
    """Files compute something else of so many images, in batches of this size."""
    left = [images]

    def read(path: str | Path) -> Run:
        run = load(path)

        def other(image: Tensor, segments: Tensor) -> dict[str, Tensor]:
            found = run(image, segments)
            if len(image) == batch and left[0]:
                left[0] -= 1
                found["labels0"] = found["labels0"].clone()
                found["labels0"][0, 0, 0] += 1
                found["features"] = found["features"].clone()
                found["features"][0, 0] += 1
            return found

        return other

    monkeypatch.setattr(room, "load", read)


def test_a_file_of_the_model_agrees(pair: tuple[Flat, Path]) -> None:
    found = compare(*pair, SIDE)
    assert found == Agreement(Difference(0, 0), 0, False)
    assert str(found) == "numbers within 0.0e+00, 0.00% other labels"


def test_differences_are_those_of_each_image(
    pair: tuple[Flat, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, path = pair
    spoiled(monkeypatch, 1, batch=2)
    first, second = differences(flat, vars(room)["load"](path), *example(flat, SIDE))
    assert first.values > 0.1
    assert first.labels == 1 / SIDE**2
    assert second == (0, 0)


@pytest.mark.parametrize(("images", "holds"), [(2, True), (3, False)])
def test_few_images_may_differ_at_each_batch_size(
    images: int, holds: bool, pair: tuple[Flat, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, path = pair
    spoiled(monkeypatch, images)
    found = compare(flat, path, SIDE)
    assert (found.strays, found.holds) == (images, holds)
    if holds:
        claim_agrees(found, path, exact=True)
        assert "(in 2 of 7 images, where segments are about equal)" in str(found)
    else:
        with pytest.raises(ContractError, match=r"in 3 of 7 .* equal labels in all images but 2\. .*m\.pt2"):
            claim_agrees(found, path, exact=True)


def test_numbers_are_compared_relative_to_large_ones_and_infinite_ones_exactly() -> None:
    expected = {"scores": torch.tensor([[-torch.inf, 1000.0], [1.0, 0.5]])}
    near, far = room._apart({"scores": torch.tensor([[-torch.inf, 1000.05], [1.0, 0.6]])}, expected)
    assert near.agrees
    assert near.values == pytest.approx(5e-5, rel=0.1)
    assert not far.agrees
    for other in (torch.nan, 0.0):
        assert not room._apart({"scores": torch.tensor([[other, 1000.0], [1.0, 0.5]])}, expected)[0].agrees


def test_a_model_that_draws_random_numbers_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, path = made(tmp_path, "random")
    spoiled(monkeypatch, 9)
    found = compare(flat, path, SIDE)
    assert found.random
    assert "draws random numbers" in str(found)


def test_a_pooling_that_sorts_agrees_in_onnxruntime(tmp_path: Path) -> None:
    """All cells of the noise have equal masses; tests/slow has all poolings."""
    for library in LIBRARIES["onnx"]:
        pytest.importorskip(library)
    found = compare(*made(tmp_path, "template", "onnx"), SIDE)
    assert found.strays == 0
    assert found.most.values < 1e-4


def test_the_command_keeps_a_file_that_differs_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = create("nano", depths=(1,), image_size=SIDE, sizes=(16,))
    path, out = save_encoder(encoder, tmp_path / "encoder.safetensors"), tmp_path / "model.pt2"
    draft = tmp_path / "model.unverified.pt2"
    asked = ["export", str(path), "--to", "torch-export", "--out", str(out), "--overwrite"]
    out.write_text("earlier")
    with monkeypatch.context() as patch:
        spoiled(patch, 99)
        assert main(asked) == 1
    assert "does not compute what the model does: in 7 of 7 images" in capsys.readouterr().err
    assert out.read_text() == "earlier"
    assert draft.is_file()
    assert main(asked[:-1]) == 1  # Without --overwrite neither is replaced.
    shown = capsys.readouterr().err
    assert f"exist and would be replaced: {out}, {draft}" in shown
    assert main(asked) == 0
    assert not draft.exists()
    load(out)
