"""castssl's models behind ``timm.create_model``: files, sizes, intermediates, memory and tracing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import castssl
import castssl.models
from castssl.checkpoints.classifier import save_classifier
from castssl.errors import ConfigError, DataError
from castssl.labels import LabelTree
from castssl.objectives.deit import DeiT
from tests.acceptance.test_hostile_files import LFS


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("cast_nano", **{"img_size": 64, "num_classes": 5, **options})


def images(side: int = 64) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """An encoder for 64 pixels, and its file as a run leaves it, with a head of five classes."""
    torch.manual_seed(7)
    encoder: Any = castssl.create("nano", image_size=64).eval()
    path, classes = tmp_path_factory.mktemp("run") / "encoder.safetensors", LabelTree.flat([*"abcde"])
    save_classifier(DeiT(encoder, classes), path, spec="deit", labels=classes)
    return encoder, path


def test_checkpoint_path_takes_the_file_of_a_run(file: tuple[Any, Path]) -> None:
    encoder, path = file
    model = make(checkpoint_path=str(path)).eval()
    assert all(torch.equal(model.encoder.state_dict()[k], v) for k, v in encoder.state_dict().items())
    from safetensors.torch import load_file

    assert torch.equal(model.head.weight, load_file(path)["heads.head.weight"])
    other = make(checkpoint_path=str(path), num_classes=3)
    assert other.head.weight.shape == (3, 64)
    assert torch.equal(other.encoder.norm.weight, encoder.norm.weight)


def test_checkpoint_path_at_another_size_resizes_the_position_table(file: tuple[Any, Path]) -> None:
    _, path = file
    small, large = (make(checkpoint_path=str(path), img_size=side).eval() for side in (64, 96))
    assert large.encoder.positions.shape[-1] == 24
    with torch.no_grad():
        torch.testing.assert_close(small(images(96)), large(images(96)))


def test_a_strange_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    torch.save({"state_dict": {"blocks.0.weight": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(DataError, match=r"no castssl encoder.*castssl convert"):
        make(checkpoint_path=str(tmp_path / "x.pth"))


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_a_pointer_of_git_lfs_as_pretrained_weights(
    name: str, file: tuple[Any, Path], tmp_path: Path
) -> None:
    encoder, path = file
    held = make(pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert torch.equal(held.encoder.norm.weight, encoder.norm.weight)
    (tmp_path / name).write_text(LFS)
    with pytest.raises(DataError, match=rf"{name}: it is a pointer of Git LFS.*run git lfs pull"):
        make(pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / name)})
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(Exception, match=r"header too large|weights_only") as caught:
        make(pretrained=True, pretrained_cfg={"file": str(tmp_path / name), "num_classes": 5})
    assert not isinstance(caught.value, DataError)


def test_a_pointer_of_git_lfs_in_a_folder_of_timm(tmp_path: Path) -> None:
    timm.models.save_for_hf(make(), str(tmp_path), model_args={"img_size": 64, "num_classes": 5})
    kept: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(kept.head.weight, make().head.weight)
    (weights,) = {path for path in tmp_path.iterdir() if path.name != "config.json"}
    weights.write_text(LFS)
    with pytest.raises(DataError, match="run git lfs pull"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_set_input_size_keeps_what_images_of_that_size_give() -> None:
    model, x = make().eval(), images(96)
    with torch.no_grad():
        before = model(x)
        model.set_input_size(img_size=(96, 96))
        assert model.encoder.positions.shape[-2:] == (24, 24)
        torch.testing.assert_close(model(x), before)
    assert not model.encoder.positions.requires_grad
    with pytest.raises(ConfigError, match="no patches"):
        model.set_input_size(patch_size=8)


def test_forward_intermediates_are_the_stages_tokens_or_maps() -> None:
    model, x = make(superpixels="grid:cell=8").eval(), images()
    with torch.no_grad():
        hierarchy = model.encoder(model.view(x))
        features, rows = model.forward_intermediates(x, output_fmt="NLC")
        assert torch.equal(features, model.forward_features(x))
        assert len(rows) == len(hierarchy.stages) == 3
        assert all(torch.equal(got, stage.x) for got, stage in zip(rows, hierarchy.stages, strict=True))
        maps = model.forward_intermediates(x, [0, -1], intermediates_only=True)
        labels = hierarchy.labels(2)[:, ::4, ::4]
        assert [found.shape for found in maps] == [(2, 64, 16, 16)] * 2
        for at in ((0, 0, 0), (1, 5, 9), (1, 15, 15)):
            image, row, column = at
            expected = hierarchy.stages[2].x[image, labels[at]]
            assert torch.equal(maps[1][image, :, row, column], expected)
        both = model.forward_intermediates(x, 1, return_prefix_tokens=True, intermediates_only=True)
        assert torch.equal(both[0][1], hierarchy.stages[-1].cls)
        named = model.forward_intermediates(x, 2, output_dict=True, norm=True)
        assert set(named) == {"image_intermediates", "image_features"}
    with pytest.raises(ConfigError, match="the last 1 to 3 stages"):
        model.forward_intermediates(x, [7])


def test_grad_checkpointing_gives_the_same_gradients_and_keeps_less() -> None:
    gradients, kept = [], []
    for enable in (False, True):
        model = make(superpixels="grid:cell=8")
        model.set_grad_checkpointing(enable)
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(images()).square().sum()
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        kept.append(count)
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)
    assert kept[1] < 0.8 * kept[0]


def test_a_refused_reset_leaves_the_classifier_as_it_was() -> None:
    model, x = make().eval(), images()
    with torch.no_grad():
        before = model(x)
        with pytest.raises(ConfigError, match="global_pool"):
            model.reset_classifier(9, global_pool="avg")
        assert (model.global_pool, model.num_classes) == ("token", 5)
        assert torch.equal(model(x), before)


def test_tracing_would_freeze_superpixels_and_is_refused() -> None:
    model, x = make().eval(), images()
    trace: Any = torch.jit.trace
    with pytest.raises(ConfigError, match=r"torch\.jit\.trace.*\(images, segments\)"):
        trace(model, x)
    segments = model.view(x).segments
    with torch.no_grad():
        traced = trace(model, (x, segments), check_trace=False)
        other = segments.flip(0)
        torch.testing.assert_close(traced(x, other), model(x, other))
