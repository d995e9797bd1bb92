"""castssl's models as timm's users meet them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models._manipulate import adapt_input_conv
from torch import Tensor
from torchvision.transforms.functional import normalize as torch_normalize
from torchvision.transforms.functional import to_tensor

import castssl.models  # noqa: F401 - registers the names
from castssl.checkpoints.native import save_encoder
from castssl.data.normalize import normalize, to_views
from castssl.errors import ConfigError
from castssl.models.presets import PRESETS
from castssl.models.timm_registry import NAMES, to_pixels
from castssl.registry import build
from castssl.types import Batch, RawView
from castssl.visualization.photographs import photographs

data: Any = import_module("timm.data")
optim: Any = import_module("timm.optim")


def nano(**options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("cast_nano", pretrained=False, **options).eval()


def make_image(batch: int = 2, side: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 8, 8, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (side, side)) * 255).to(torch.uint8)


def test_timm_lists_every_cast() -> None:
    assert set(timm.list_models("cast*")) == set(NAMES)
    assert set(NAMES) == {name for name in PRESETS if name.startswith("cast")}
    assert not timm.list_models("cast*", pretrained=True)


def test_cast_small_has_the_published_parameters_but_for_the_zeros() -> None:
    model = timm.create_model("cast_small", pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == 28_339_864 - 384


def test_every_pixel_comes_back_from_the_normalisation() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    model = nano()
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    assert torch.equal(to_pixels(normalize(every), mean, std), every)
    image = every[0].permute(1, 2, 0).numpy()
    assert torch.equal(to_pixels(torch_normalize(to_tensor(image), mean, std)[None], mean, std), every)


@pytest.mark.parametrize("spec", ["seeds:count=64,bins=5,iterations=4", "grid:cell=8"])
def test_an_image_alone_gives_what_the_framework_gives(spec: str) -> None:
    model, backend, raw = (
        nano(superpixels=spec, num_classes=0, img_size=64),
        build("superpixels", spec),
        make_image(),
    )
    segments = backend(raw) if backend.runs_on == "worker" else torch.empty(2, 0, 0, dtype=torch.int32)
    view = to_views(Batch([RawView(raw, segments)], torch.empty(2, 0)), backend).views[0]
    with torch.no_grad():
        hierarchy = model.encoder(view)
        assert torch.equal(model(view.image), hierarchy.stages[-1].cls[:, 0])
        assert torch.equal(model.view(view.image).segments, view.segments)
        assert torch.equal(model(view.image, view.segments), model(view.image))
        assert len(model.hierarchy(view.image).stages) == 4


def test_features_head_and_classifiers_fit_together() -> None:
    model, x = nano(num_classes=7, drop_rate=0.5), normalize(make_image())
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape == (2, 1 + 16, model.num_features)
        assert torch.equal(model(x), model.forward_head(features))
        before = model.forward_head(features, pre_logits=True)
        assert torch.equal(model.get_classifier()(before), model(x))
        model.reset_classifier(5)
        assert (model(x).shape, model.num_classes) == ((2, 5), 5)
        model.reset_classifier(0)
        assert torch.equal(model(x), before)
        model.reset_classifier(0, global_pool="")
        assert torch.equal(model(x), features)
        assert torch.equal(nano(num_classes=0)(x), before)


def test_options_of_timm_and_of_castssl_arrive() -> None:
    model = nano(
        img_size=32, drop_path_rate=0.3, sizes=(16, 8, 4), pooling="random", superpixels="grid:cell=8"
    )
    assert model.encoder.sizes == (16, 8, 4, 2)
    assert model.encoder.positions.shape[-1] == 8
    assert model.encoder.stages[2].blocks[0].drop_path1.drop_prob == pytest.approx(0.3)
    with pytest.raises(ConfigError, match="may give 64 superpixels of 64 x 64 pixels"):
        model(normalize(make_image()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_only": True, "out_indices": (0, 3)}, "numbers 0 to 2"),
        ({"global_pool": "avg"}, "global_pool is 'token'"),
    ],
)
def test_what_cannot_be_served_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        nano(**options)


def test_feature_maps_are_means_of_the_tokens_of_pixels() -> None:
    """The oracle goes through the cells; the tokens of the last stage are normed."""
    model = nano(features_only=True, superpixels="grid:cell=8")
    x = normalize(make_image(side=64))[..., :48]
    with torch.no_grad():
        maps, hierarchy = model(x), model.model.hierarchy(x)
        last = model.model.encoder.norm(hierarchy.stages[2].x)
    for stage, rows in enumerate([hierarchy.stages[0].x, hierarchy.stages[1].x, last]):
        side, labels = 4 * 2**stage, hierarchy.labels(stage)
        assert maps[stage].shape == (2, 64, 64 // side, 48 // side)
        for image, row, column in ((0, 0, 0), (1, 3, 2), (0, 2, 1)):
            cell = labels[image, row * side : (row + 1) * side : 4, column * side : (column + 1) * side : 4]
            expected = rows[image, cell.flatten()].mean(0)
            torch.testing.assert_close(maps[stage][image, :, row, column], expected)


def test_feature_maps_follow_timms_protocol(tmp_path: Path) -> None:
    """What segmentation_models_pytorch reads of a model of timm and asks of it."""
    model: Any = timm.create_model("cast_small", features_only=True)
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert model.feature_info.channels() == [384] * 4
    with torch.device("meta"):
        assert nano(features_only=True).feature_info.reduction() == [4, 8, 16]
    options: dict[str, Any] = {"in_chans": 3, "pretrained": False, "out_indices": (0, 1)}
    few: Any = timm.create_model("cast_nano", features_only=True, **options)
    maps = few(normalize(make_image(side=50)))
    assert [m.shape[2:] for m in maps] == [(13, 13), (7, 7)], "sides are rounded up"
    assert (few.feature_info.reduction(), few.out_indices) == ([4, 8], (0, 1))
    sum(m.mean() for m in maps).backward()
    assert not [n for n, p in few.named_parameters() if p.requires_grad and p.grad is None]
    source = nano(superpixels="grid:cell=8").encoder
    save_encoder(source, tmp_path / "encoder.safetensors")
    loaded: Any = timm.create_model("cast_nano", features_only=True, checkpoint_path=str(tmp_path))
    assert loaded.model.spec == "grid:cell=8"
    assert torch.equal(loaded.model.encoder.positions, source.positions)
    assert torch.equal(loaded.model.encoder.cls_token, source.cls_token)


def test_segmentation_models_pytorch_takes_it_as_an_encoder() -> None:
    smp: Any = pytest.importorskip(
        "segmentation_models_pytorch", reason="pip install segmentation-models-pytorch"
    )
    options: dict[str, Any] = {"encoder_depth": 4, "decoder_channels": (32, 16, 8, 8), "img_size": 64}
    model = smp.Unet("tu-cast_nano", encoder_weights=None, classes=5, **options)
    out = model(normalize(make_image()))
    out.mean().backward()
    assert out.shape == (2, 5, 64, 64)
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_timms_transform_optimizer_and_layer_decay_work() -> None:
    model = nano(num_classes=3)
    settings = data.resolve_model_data_config(model)
    assert settings["input_size"] == (3, 224, 224)
    photo = next(photo for _, photo in photographs())
    x = data.create_transform(**settings)(photo)[None]
    assert model(x).shape == (1, 3)
    decayed = optim.create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in decayed.param_groups for p in g["params"]}
    spared = {id(p) for g in decayed.param_groups for p in g["params"] if g["weight_decay"] == 0}
    path = [
        "stem.layers.0",
        "stages.0.blocks.0.mlp.fc1",
        "poolings.0.fc1.1",
        "stages.1.blocks.0.mlp.fc1",
        "norm",
    ]
    order = [scale[id(model.encoder.get_submodule(name).weight)] for name in path] + [
        scale[id(model.head.weight)]
    ]
    assert order == sorted(set(order)), "later layers learn faster"
    assert id(model.encoder.cls_token) in spared


def test_a_castssl_file_is_a_pretrained_file(tmp_path: Path) -> None:
    source = nano().encoder
    torch.nn.init.normal_(source.norm.weight)
    path = save_encoder(source, tmp_path / "encoder.safetensors")
    model: Any = timm.create_model("cast_nano", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    loaded = model.encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items())


def test_superpixels_stay_outside_of_the_graph() -> None:
    # Few tokens: tracing takes a while for each that is sampled.
    model, x = nano(img_size=32, sizes=(64, 4, 3, 2)), normalize(make_image())
    with torch.no_grad():
        expected = model(x)
        compiled: Any = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(x), expected)
        segments = model.view(x).segments
        whole: Any = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(whole(x, segments), expected)
    torch.compiler.reset()


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_have_their_constants_and_adapted_weights(channels: int, tmp_path: Path) -> None:
    source = nano(img_size=64).encoder
    path = save_encoder(source, tmp_path / "encoder.safetensors")
    options: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    model: Any = timm.create_model("cast_nano", in_chans=channels, img_size=64, **options).eval()
    stem = "stem.layers.0.weight"
    adapted = adapt_input_conv(channels, source.state_dict()[stem])
    assert torch.equal(model.encoder.state_dict()[stem], adapted)
    settings = data.resolve_model_data_config(model)
    assert len(settings["mean"]) == len(settings["std"]) == settings["input_size"][0] == channels
    pixels = make_image().repeat(1, 2, 1, 1)[:, :channels]
    x = normalize(pixels)
    assert torch.equal(to_pixels(x, settings["mean"], settings["std"]), pixels)
    rgb = pixels[:, :3] if channels > 1 else pixels.expand(-1, 3, -1, -1)
    segments = build("superpixels", model.spec)(rgb)
    with torch.no_grad():
        assert torch.equal(model(x), model(x, segments))
        assert torch.isfinite(model(x)).all()
