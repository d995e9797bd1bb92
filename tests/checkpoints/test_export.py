"""Exported files beside the encoders that they came from."""

from __future__ import annotations

import zipfile
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import import_module
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from filelock import FileLock
from torch import nn

import castssl
from castssl.checkpoints import Checkpoint, read
from castssl.checkpoints import export as room
from castssl.checkpoints.agreement import difference
from castssl.checkpoints.export import (
    LIBRARIES,
    Flat,
    FlatSegmenter,
    Run,
    about,
    example,
    export,
    load,
    trace,
)
from castssl.checkpoints.native import save_encoder, write
from castssl.checkpoints.official_model import classifiers
from castssl.checkpoints.segmenter import load_segmenter, segmenter_weights
from castssl.cli import main
from castssl.contracts import Encoder
from castssl.encoder_config import GRAY_MEAN
from castssl.errors import ConfigError, DataError, PluginError
from castssl.models.create import create
from castssl.models.presets import PRESETS
from castssl.models.sizes import with_sizes
from castssl.objectives.segmentation import Segmentation
from castssl.testing import samples
from castssl.types import Hierarchy, View
from tests.checkpoints.test_segmenter import PALETTE, TREE
from tests.conftest import shared

SIZES = (16, 5, 3)
"""Few tokens, because tracing takes a while for each that is sampled; and never one of two, which both lie
equally far from their mean."""
STAGES: dict[str, Any] = {"depths": (1, 1, 0), "image_size": 32}
"""Of the smallest model: each further stage is traced for a second, and written to ONNX for three."""


RUN = "exported-run"
"""The folder of the model that the command exports."""


class Exported(NamedTuple):
    """A model with a classifier, the folder with its files, and what they compute."""

    flat: Flat
    folder: Path
    runs: dict[str, Run]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    for library in LIBRARIES["onnx"]:
        pytest.importorskip(library)
    torch.manual_seed(0)
    encoder = create(replace(PRESETS["cast_nano"], **STAGES, sizes=SIZES, superpixels="seeds"))
    head = nn.Linear(encoder.dim, 5)
    flat = Flat(encoder, [head]).eval()
    folder = shared(tmp_path_factory) / "exported"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            export(trace(flat, 32), folder / "model.pt2", to="torch-export", about={"superpixels": "seeds"})
            run = tmp_path_factory.mktemp(RUN, numbered=False)
            write(with_head(encoder, head), run / "encoder.safetensors")
            with redirect_stdout(StringIO()) as output:
                assert main(["export", str(run), "--out", str(folder / "model.onnx")]) == 0
            assert "0.00% other labels" in output.getvalue()
    return Exported(flat, folder, {path.name: load(path) for path in folder.iterdir()})


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_exported_file_computes_what_the_encoder_does(exported: Exported, name: str, batch: int) -> None:
    torch.manual_seed(batch)
    image, segments = example(exported.flat, 32, batch)
    if batch > 1:
        # A superpixel that is not there, and one that the stem's grid does not meet.
        segments[0, segments[0] == 3] = 2
        segments[1, segments[1] == 9] = 8
        segments[1, 1, 1] = 9
    found = exported.runs[name](image, segments)
    with torch.no_grad():
        expected = exported.flat(image, segments)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-4, rtol=0)
    assert found["labels0"].dtype == torch.int64


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_all_of_the_hierarchy_is_in_the_file(exported: Exported, name: str) -> None:
    encoder: Any = exported.flat.encoder
    found = exported.runs[name](*example(exported.flat, 32, 2))
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    expected: dict[str, tuple[int, ...]] = {"features": (2, encoder.dim), "logits": (2, 5)}
    for i, size in enumerate(encoder.sizes):
        expected |= {f"tokens{i}": (2, size, encoder.dim), f"mass{i}": (2, size), f"labels{i}": (2, 32, 32)}
    for i, pair in enumerate(pairwise(encoder.sizes)):
        expected[f"assign{i}"] = (2, *pair)
    assert shapes == expected


def test_the_files_know_what_their_images_look_like(exported: Exported, tmp_path: Path) -> None:
    for name in exported.runs:
        known = about(exported.folder / name)
        assert (known["superpixels"], known["image_size"]) == ("seeds", 32)
        assert known["sizes"] == [16, 5, 3]
        assert known["mean"] == [0.485, 0.456, 0.406]
    assert {path.name for path in exported.folder.iterdir()} == {"model.onnx", "model.pt2"}
    torch.save({}, tmp_path / "other.pt2")
    with pytest.raises(DataError, match="not written by castssl export"):
        about(tmp_path / "other.pt2")


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_no_path_of_this_machine_is_in_the_file(exported: Exported, name: str) -> None:
    path = exported.folder / name
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content = b"".join(map(archive.read, archive.namelist()))
    assert b"aten.lt" in content, "the operators are not compressed"
    code = [Path(module.__file__ or "").parent for module in (castssl, torch)]
    for folder in (*code, Path.cwd(), Path.home(), exported.folder):
        assert str(folder).encode() not in content, folder
    if name == "model.onnx":
        assert about(path)["model"] == RUN


def test_the_axis_that_may_vary_is_named(exported: Exported) -> None:
    onnx: Any = import_module("onnx")
    model = onnx.load(exported.folder / "model.onnx")
    dimensions = {each.name: each.type.tensor_type.shape.dim[0].dim_param for each in model.graph.input}
    assert dimensions == {"image": "batch", "segments": "batch"}


def test_flat_outputs_are_the_encoders() -> None:
    encoder = create("cast_small_seg", image_size=32, sizes=(16, 4, 3, 2))
    flat = Flat(encoder, [nn.Linear(384, 3), nn.Linear(384, 2)]).eval()
    image, segments = example(flat, 32)
    with torch.no_grad():
        found = flat(image, segments)
        served = encoder(View(image, segments))
    assert torch.equal(found["features"], served.stages[-1].cls[:, 0])
    assert torch.equal(found["logits1"], flat.heads[1](found["features"]))
    assert torch.equal(found["logits0"], flat.heads[0](served.stages[-2].cls[:, 0]))
    assert "tokens4" in found


def with_head(encoder: Encoder, head: nn.Linear) -> Checkpoint:
    """An encoder and its classifier, as DeiT's recipe writes them."""
    heads = {f"head.{name}": value for name, value in head.state_dict().items()}
    return Checkpoint(encoder.config, dict(encoder.state_dict()), heads, objective="deit")


def test_the_command_exports_a_trained_file_with_its_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"sizes": (16, 4, 3), "pooling": "random", "superpixels": "grid:cell=8"}
    encoder, head = create(replace(PRESETS["cast_nano"], **STAGES, **settings)), nn.Linear(64, 7)
    write(with_head(encoder, head), tmp_path / "encoder.safetensors")
    out = tmp_path / "made" / "model.pt2"
    asked = [
        "export",
        str(tmp_path),
        "--to",
        "torch-export",
        "--out",
        str(out),
        "--sizes",
        "20",
        "5",
        "4",
    ]
    assert main(asked) == 0
    assert "logits, tokens0" in capsys.readouterr().out
    flat = Flat(encoder, [head])
    found = load(out)(*example(flat, 32))
    assert (found["logits"].shape, found["tokens0"].shape) == ((2, 7), (2, 20, 64))


def test_the_command_exports_the_classes_of_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a pooling, which would take seconds; tests/slow has sizes, heads and whole models."""
    for library in LIBRARIES["onnx"]:
        pytest.importorskip(library)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"depths": (1,), "sizes": (16,), "superpixels": "grid:cell=8"}
    objective = Segmentation(
        create(replace(PRESETS["cast_nano"], **settings, image_size=32)), TREE, head="queries"
    )
    path = tmp_path / "encoder.safetensors"
    segmenter_weights(objective, head="queries", labels=TREE, palette=PALETTE, shorter=32).write(path)
    arguments = ["export", str(tmp_path), "--classes", "--out", str(tmp_path / "classes.onnx")]
    assert main([*arguments, "--image-size", "48", "--sizes", "36"]) == 0
    assert "segment_logits, logits, labels" in capsys.readouterr().out
    described = about(tmp_path / "classes.onnx")
    assert (described["classes"], described["palette"]) == (["sky", "sea"], [[*color] for color in PALETTE])
    model = FlatSegmenter(load_segmenter(tmp_path).model)
    model.model.encoder = with_sizes(model.encoder, (36,))
    run = load(tmp_path / "classes.onnx")
    for batch in (1, 3):
        image, segments = example(model, 48, batch)
        segments[0, segments[0] == 3] = 2
        outputs = run(image, segments)
        assert outputs["logits"].shape == (batch, 2, 48, 48)
        with torch.no_grad():
            expected = model(image, segments)
        torch.testing.assert_close(outputs, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(expected["logits"], model.model(View(image, segments)).detach())
        index = outputs["labels"].flatten(1)[:, None].expand(-1, 2, -1)
        painted = outputs["segment_logits"].mT.gather(2, index).view(batch, 2, 48, 48)
        torch.testing.assert_close(outputs["logits"], painted)


def test_classes_of_an_encoder_without_a_head_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_encoder(create("nano"), tmp_path / "encoder.safetensors")
    arguments = ["--classes", "--to", "torch-export", "--out", str(tmp_path / "model.pt2")]
    assert main(["export", str(path), *arguments]) == 1
    assert "without a head for segmentation" in capsys.readouterr().err


def test_heads_are_found_where_there_are_some(tmp_path: Path) -> None:
    path = save_encoder(create("nano"), tmp_path / "encoder.safetensors")
    assert classifiers(read(path)) == []
    head = nn.Linear(64, 7)
    for objective in ("deit", "probe"):
        write(replace(with_head(create("nano"), head), objective=objective), path)
        (found,) = classifiers(read(tmp_path))
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), head.parameters(), strict=True))


def test_a_missing_library_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(room.LIBRARIES, "onnx", ("library_that_nobody_has",))
    with pytest.raises(PluginError, match=r"library_that_nobody_has.*pip install onnx"):
        room.require("onnx")


def test_wrong_wishes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="cannot export to 'coreml'"):
        room.require("coreml")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no exported model"):
        load(tmp_path / "no.onnx")
    assert main(["export", "nano", "--to", "torch-export", "--out", str(tmp_path / "model.onnx")]) == 1
    assert "ends in .pt2" in capsys.readouterr().err
    assert main(["export", "nanno", "--to", "torch-export", "--out", str(tmp_path / "model.pt2")]) == 1
    assert "did you mean 'nano'" in capsys.readouterr().err


def test_stages_of_several_widths_and_numbered_parents_are_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = samples.SamplePyramid()
    flat = Flat(encoder, [nn.Linear(16, 3), nn.Linear(32, 2)]).eval()
    image, segments = example(flat, 32)
    traced = trace(flat, 32)
    path = export(traced, tmp_path / "pyramid.pt2", to="torch-export")
    assert difference(flat, path, image, segments) == (0, 0)
    outputs = load(path)(image, segments)
    assert outputs["assign0"].tolist() == [[token // 2 for token in range(16)]] * 2
    assert [outputs[f"tokens{stage}"].shape[-1] for stage in range(3)] == [8, 16, 32]
    assert traced.channels == encoder.config.channels == 3
    export(traced._replace(channels=5), tmp_path / "five.pt2", to="torch-export")
    assert about(tmp_path / "five.pt2")["mean"] == [GRAY_MEAN] * 5


class Bessel(samples.SampleEncoder):
    """With an operator that ONNX lacks."""

    def forward(self, view: View) -> Hierarchy:
        hierarchy = super().forward(view)
        *finer, last = hierarchy.stages
        return hierarchy._replace(stages=(*finer, last._replace(x=torch.special.bessel_j0(last.x))))


class Branches(samples.SampleEncoder):
    """With a Python branch on a value."""

    def forward(self, view: View) -> Hierarchy:
        if float(view.image.sum()) > 0:
            view = View(view.image + 1, view.segments)
        return super().forward(view)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    for library in LIBRARIES["onnx"]:
        pytest.importorskip(library)
    traced = trace(Flat(Bessel()), 32)
    with pytest.raises(ConfigError, match=r"operator \S*bessel_j0\S*; .*give --to torch-export"):
        export(traced, tmp_path / "model.onnx", to="onnx")
    assert not [*tmp_path.iterdir()]


def test_a_model_that_cannot_be_traced_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"cannot trace this model, in no format: .*data-dependent"):
        trace(Flat(Branches()), 32)
    assert "def forward" not in capfd.readouterr().err


def test_a_file_that_onnxruntime_cannot_run_is_named(tmp_path: Path) -> None:
    for library in LIBRARIES["onnx"]:
        pytest.importorskip(library)
    (tmp_path / "model.onnx").write_text("no model")
    with pytest.raises(DataError, match=r"onnxruntime cannot run .*model\.onnx"):
        load(tmp_path / "model.onnx")
