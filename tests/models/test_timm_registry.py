"""castssl's models as timm's users meet them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
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
        ({"features_only": True}, r"call \.hierarchy"),
        ({"in_chans": 1}, "in_chans is 3, got 1"),
        ({"global_pool": "avg"}, "global_pool is 'token'"),
    ],
)
def test_what_cannot_be_served_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        nano(**options)


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
