"""Between the published files and ours: the way there and back changes no bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from castssl import load_official
from castssl.checkpoints import load_encoder, read
from castssl.checkpoints.checkpoint import Which
from castssl.checkpoints.convert import convert
from castssl.checkpoints.native import save_encoder, write
from castssl.cli import main
from castssl.encoder_config import EncoderConfig
from castssl.errors import DataError
from castssl.models.create import create
from castssl.types import View
from tests.checkpoints import checkpoints
from tests.checkpoints.checkpoints import SIZES, VARIANTS, state
from tests.parity import filler


@pytest.fixture(scope="module")
def view() -> View:
    torch.manual_seed(0)
    return View(torch.randn(2, 3, 32, 32), torch.arange(1024).view(1, 32, 32).expand(2, -1, -1) // 64 % 16)


def bits(value: Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert value.dtype == b[key].dtype, key
        assert bits(value) == bits(b[key]), key


@pytest.mark.parametrize("blocks", [11, 15])
@pytest.mark.parametrize("variant", ["cast", "cast_seg"])
@pytest.mark.parametrize("which", ["base", "momentum"])
def test_moco_there_and_back(which: Which, variant: str, blocks: int, tmp_path: Path) -> None:
    content = checkpoints.moco(variant, blocks=blocks)
    content["state_dict"]["module.base_encoder.cls_token"][0, 0, 0] = -0.0
    torch.save(content, tmp_path / "in.pth.tar")
    convert(tmp_path / "in.pth.tar", tmp_path / "ours.safetensors", sizes=SIZES, which=which)
    convert(tmp_path / "ours.safetensors", tmp_path / "out.pth.tar", layout="official", which=which)
    again = torch.load(tmp_path / "out.pth.tar", weights_only=True)
    identical(again["state_dict"], content["state_dict"])
    assert again["arch"].startswith(variant)
    assert {p.name for p in tmp_path.iterdir()} == {"in.pth.tar", "ours.safetensors", "out.pth.tar"}


@pytest.mark.parametrize(
    ("variant", "classes"),
    [("cast_deit", (4,)), ("cast_deit_hier", (5, 4, 3)), ("cast_deit_hier", (5, 3)), ("cast_seg_deit", (4,))],
)
def test_the_others_there_and_back(variant: str, classes: tuple[int, ...], tmp_path: Path) -> None:
    bare = state(variant, *classes)
    torch.save({"model": bare, "epoch": 3, "optimizer": {}}, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "ours.safetensors", sizes=SIZES)
    convert(tmp_path / "ours.safetensors", tmp_path / "out.pth", layout="official")
    identical(torch.load(tmp_path / "out.pth", weights_only=True)["model"], bare)
    convert(tmp_path / "out.pth", tmp_path / "flat.safetensors", layout="official")
    identical(load_file(tmp_path / "flat.safetensors"), bare)


@pytest.mark.parametrize(
    ("variant", "stage"),
    [*((variant, None) for variant in VARIANTS), ("cast_seg", "segmentation"), ("cast_deit", "segmentation")],
)
def test_our_file_is_the_same_model(variant: str, stage: Any, view: View, tmp_path: Path) -> None:
    classes = (5, 4, 3) if variant == "cast_deit_hier" else (4,)
    torch.save({"model": state(variant, *classes)}, tmp_path / "in.pth")
    torch.manual_seed(0)
    expected = load_official(tmp_path / "in.pth", sizes=SIZES, stage=stage)
    torch.manual_seed(0)
    convert(tmp_path / "in.pth", tmp_path / "ours.safetensors", sizes=SIZES, stage=stage)
    again = load_official(tmp_path / "ours.safetensors", sizes=SIZES)
    assert (again.variant, again.stage) == (expected.variant, expected.stage)
    identical(again.state_dict(), expected.state_dict())
    encoder = load_encoder(tmp_path / "ours.safetensors")
    assert encoder.config == expected.encoder.config
    assert encoder.config.padding == "reference"
    assert encoder.sizes == SIZES
    with torch.no_grad():
        torch.testing.assert_close(encoder(view).stages[-1].cls, expected.encoder(view).stages[-1].cls)


def test_published_sizes_have_their_names(tmp_path: Path) -> None:
    torch.save({"model": state("cast_deit", 4, dim=384, side=28)}, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "a.safetensors")
    config = read(tmp_path / "a.safetensors").config
    assert config.name == "cast_small"
    assert (config.sizes, config.image_size) == ((196, 64, 32, 16, 8), 224)
    assert read(state("cast_deit", 4)).config.name == "cast_deit"  # No preset is so narrow.


def test_one_branch_stands_first(tmp_path: Path) -> None:
    content = checkpoints.moco()
    torch.save(content, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "m.safetensors", which="momentum", sizes=SIZES)
    momentum = content["state_dict"]["module.momentum_encoder.norm.bias"]
    encoder = load_encoder(tmp_path / "m.safetensors")
    assert torch.equal(encoder.state_dict()["norm.bias"], momentum)
    other = load_official(tmp_path / "m.safetensors", which="momentum", sizes=SIZES)
    base = content["state_dict"]["module.base_encoder.norm.bias"]
    assert torch.equal(other.encoder.state_dict()["norm.bias"], base)
    convert(tmp_path / "m.safetensors", tmp_path / "out.pth", layout="official")
    swapped = {"base_encoder": "momentum_encoder", "momentum_encoder": "base_encoder"}
    parts = {name: name.split(".")[1] for name in content["state_dict"]}
    expected = {
        name.replace(part, swapped.get(part, part)): content["state_dict"][name]
        for name, part in parts.items()
    }
    identical(torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"], expected)


@pytest.mark.parametrize("learned", [False, True])
def test_what_castssl_pretrained_in_the_published_layout(learned: bool, view: View, tmp_path: Path) -> None:
    """The released code would give the same features: read back as published, they agree."""
    positions: Any = "learned" if learned else "sincos"
    mine = EncoderConfig("mine", sizes=SIZES, dim=48, image_size=32, positions=positions)
    encoder: Any = create(mine)
    encoder.eval()
    folder = tmp_path / "run"
    folder.mkdir()
    save_encoder(encoder, folder / "encoder.safetensors")
    report = convert(folder, tmp_path / "out.pth", layout="official")
    assert "trained with padding='mask'" in str(report)
    assert ("trained with superpixels seeds; the released code has seeds:bins=5" in str(report)) is learned
    model = load_official(tmp_path / "out.pth", sizes=SIZES)
    assert model.variant == ("cast_deit" if learned else "cast")
    with torch.no_grad():
        whole = View(view.image, filler.grid(32, 8).expand(2, -1, -1))  # no token is empty
        expected = encoder(whole).stages[-1].cls[:, 0]
        torch.testing.assert_close(model(*whole), expected, atol=1e-5, rtol=1e-5)


def test_an_encoder_that_was_trained_on_keeps_its_sum(tmp_path: Path) -> None:
    torch.save({"model": state("cast_deit", 4)}, tmp_path / "in.pth")
    official = load_official(tmp_path / "in.pth", sizes=SIZES)
    convert(tmp_path / "in.pth", tmp_path / "a.safetensors", sizes=SIZES)
    with torch.no_grad():
        official.encoder.cls_token.add_(1)
    trained = replace(read(tmp_path / "a.safetensors"), encoder=official.encoder.state_dict())
    write(trained, tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth", layout="official")
    again = load_official(tmp_path / "c.pth", sizes=SIZES)
    torch.testing.assert_close(again.encoder.cls_token, official.encoder.cls_token)
    table = torch.load(tmp_path / "c.pth", weights_only=True)["model"]["pos_embed"]
    assert torch.equal(table, state("cast_deit", 4)["pos_embed"])


SHALLOW = {"depths": (1, 1, 1, 1, 0), "image_size": 32}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nano", {"image_size": 32, "sizes": (16, 8, 4)}, "depths .* 2 heads .* stride 4"),
        ("cast_small", {"pooling": "random"}, "pooling random, expected graph"),
        (
            "cast_small",
            {"pooling": "graph:centroids=random", **SHALLOW},
            "expected graph with centroids",
        ),
        (
            "cast_small",
            {"pooling": "graph:cls=keep", **SHALLOW},
            "graph:cls=keep, .*cls=mlp",
        ),
        ("cast_small", {"pooling": "graph:kappa=6", **SHALLOW}, "kappa=5.0"),
        ("cast_small", {"pooling": "graph:average=output", **SHALLOW}, "average=hidden"),
        ("vit_small", {}, "expected four stages"),
    ],
)
def test_what_the_released_code_could_not_run(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_encoder(create(name, **options), tmp_path / "e.safetensors")
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "e.safetensors", tmp_path / "out.pth", layout="official")
    assert not (tmp_path / "out.pth").exists()


def test_the_report_of_a_published_file_written_anew_has_all_that_became_of_it(tmp_path: Path) -> None:
    content = {"model": state("cast_deit", 4), "epoch": 3, "optimizer": {}}
    torch.save(content, tmp_path / "in.pth")
    report = convert(tmp_path / "in.pth", tmp_path / "out.pth", layout="official", image_size=64)
    assert report.ignored.keys() == {"epoch", "optimizer"}
    assert report.changed == {"pos_embed": "grid 4 x 4 -> 8 x 8, bicubic"}
    assert report.merged["blocks2.4.norm1.bias"] == "blocks.4.norm1.bias"
    assert report.notes[-1].startswith("356 tensors in the published layout")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(checkpoints.moco(), tmp_path / "in.pth.tar")
    source, ours, back = (str(tmp_path / n) for n in ("in.pth.tar", "ours.safetensors", "back.pth.tar"))
    assert main(["convert", source, ours, "--sizes", "16", "9", "6", "4", "2"]) == 0
    shown = capsys.readouterr().out
    assert "variant cast" in shown
    assert "ignored: optimizer" in shown
    assert f"wrote {ours}" in shown
    assert main(["convert", ours, back, "--layout", "official"]) == 0
    assert main(["convert", source, str(tmp_path / "ours.pth")]) == 1
    assert "files of castssl end in .safetensors" in capsys.readouterr().err
    assert main(["convert", source, back, "--overwrite", "--layout", "official", "--sizes", "9"]) == 1
    assert main(["convert", ours, back, "--overwrite", "--layout", "official", "--ema"]) == 1
    assert "no moving average" in capsys.readouterr().err
