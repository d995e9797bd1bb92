from __future__ import annotations

import pytest

from castssl.config import read
from castssl.errors import ConfigError
from castssl.training.hierarchy import METHODS, HierarchyConfig


def cfg(*argv: str) -> HierarchyConfig:
    return read(HierarchyConfig, list(argv))


@pytest.mark.parametrize(
    ("data", "peak", "repeats"),
    [
        ("cub:x", 2.5e-4, 1),
        ("aircraft:x", 5e-4, 1),
        ("breeds:living17:x", 1e-3, 3),
        ("inat21-mini:x", 1e-3, 3),
    ],
)
def test_the_published_settings_of_each_data_set(data: str, peak: float, repeats: int) -> None:
    made = cfg("--data", data)
    assert made.peak == pytest.approx(peak)
    assert (made.repeats, made.epochs, made.chosen().objective) == (repeats, 100, "tree-kl")


@pytest.mark.parametrize(
    ("data", "epochs", "batch", "peak", "repeats"),
    [
        ("imagenet-f:x", 200, 1024, 1e-3, 3),
        ("imagenet-3l:x", 200, 1024, 1e-3, 3),
        ("inat21-f:x?lists=y", 100, 512, 5e-4, 3),
        ("cub-f:x", 100, 256, 2.5e-4, 1),
        ("cub-real:x", 100, 256, 2.5e-4, 1),
        ("aircraft-f:x", 100, 256, 2.5e-4, 1),
    ],
)
def test_the_published_settings_of_free_grained_s_data_sets(
    data: str, epochs: int, batch: int, peak: float, repeats: int
) -> None:
    made = cfg("--data", data)
    assert (made.epochs, made.batch_size, made.repeats) == (epochs, batch, repeats)
    assert made.peak == pytest.approx(peak)
    assert (made.mixup, made.cutmix, made.smoothing, made.cosine_epochs) == (0, 0, 0, 0)
    assert (made.warmup_epochs, made.warmup_lr, made.min_lr, made.drop_path) == (5, 1e-6, 1e-5, 0.1)
    assert made.chosen().objective == "tree-kl:level_mean=labeled"


def test_the_mean_over_labels_is_a_default_of_these_data_sets_and_tree_kl_alone() -> None:
    made = cfg("--data", "cub-f:x", "--method", "hcast:level_mean=batch,tie=1")
    assert made.chosen().objective == "tree-kl:level_mean=batch,tie=1"
    made = cfg("--data", "cub-f:x", "--method", "hier-vit", "--mixup", "0.8")
    assert made.chosen().objective == "tree-kl:weight=0,norm=shared,level_mean=labeled"
    assert made.mixup == 0.8
    assert cfg("--data", "cub-f:x", "--method", "flat-cast").chosen().objective == "flat"
    assert cfg("--data", "cub:x", "--free-grain", "0.5/0.4/0.1").chosen().objective == "tree-kl"


def test_breeds_as_the_authors_say_that_they_trained() -> None:
    made = cfg("--data", "breeds:living17:x", "--preset", "as-trained")
    assert (made.batch_size, made.repeats) == (256, 1)
    assert made.peak == pytest.approx(2.5e-4)
    published = cfg("--data", "breeds:living17:x")
    same = ("model", "sizes", "superpixels", "cosine_epochs", "lr", "epochs")
    assert [getattr(made, name) for name in same] == [getattr(published, name) for name in same]
    typed = cfg("--data", "breeds:living17:x", "--preset", "as-trained", "--repeats", "3")
    assert typed.repeats == 3


def test_a_flag_overrides_the_data_set_s_setting() -> None:
    made = cfg("--data=aircraft:x", "--lr", "2e-4", "--epochs", "7")
    assert (made.lr, made.warmup_lr, made.epochs) == (2e-4, 1e-4, 7)


def test_breeds_has_256_superpixels_but_not_for_a_grid_or_another_model() -> None:
    assert cfg("--data", "breeds:living17:x").sizes == (256, 64, 32, 16, 8)
    assert cfg("--data", "breeds:living17:x", "--method", "hier-vit").backend() == "grid:cell=16"
    assert cfg("--data", "breeds:living17:x", "--model", "nano").sizes is None


@pytest.mark.parametrize("name", METHODS)
def test_the_method_brings_its_model(name: str) -> None:
    assert cfg("--data", "cub:x", "--method", name).model == METHODS[name].model
    assert cfg("--data", "demo", "--method", f"{name}:weight=1").model == METHODS[name].nano


def test_options_of_a_method_come_on_top_of_its_own() -> None:
    assert cfg("--data", "demo", "--method", "hcast:weight=0").chosen().objective == "tree-kl:weight=0"
    found = cfg("--data", "demo", "--method", "hier-vit:weight=0.5").chosen().objective
    assert found == "tree-kl:weight=0.5,norm=shared"


def test_the_resnet_baselines_mix_nothing_unless_told() -> None:
    made = cfg("--data", "cub:x", "--method", "fgn", "--smoothing", "0.2")
    assert (made.mixup, made.cutmix, made.smoothing) == (0, 0, 0.2)


def test_zero_shot_trains_nothing() -> None:
    assert cfg("--data", "demo", "--method", "clip").epochs == 0
    assert cfg("--data", "cub:x", "--method", "clip").drop_path == 0


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (("--method", "hkast"), "no method 'hkast'"),
        (("--free-grain", "1.5"), "--free-grain is a share"),
        (("--free-grain", "some"), "got 'some', expected 0.8"),
        (("--free-grain", "0.5:x"), "--free-grain is a share"),
        (("--free-grain", "0.5/1.2"), "--free-grain is a share"),
        (("--schedule", "paper", "--cosine-epochs", "300"), "needs --schedule code"),
        (("--preset", "as-trained"), "is for --data breeds"),
    ],
)
def test_what_cannot_be_is_told(flags: tuple[str, ...], output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        cfg("--data", "cub:x", *flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), (0.0, 7)),
        (("--free-grain", "0.8"), (0.8, 7)),
        (("--free-grain", "0.8:3"), (0.8, 3)),
        (("--free-grain", "0.5/0.4/0.1:0"), ((0.5, 0.4, 0.1), 0)),
    ],
)
def test_hidden_labels_have_shares_and_a_seed(flags: tuple[str, ...], expected: object) -> None:
    assert cfg("--data", "cub:x", "--seed", "7", *flags).hidden() == expected


def test_the_released_cosine_falls_to_three_quarters_only() -> None:
    released, whole = cfg("--data", "cub:x"), cfg("--data", "cub:x", "--cosine-epochs", "0")
    assert released.rate(1) * 5e-4 / 5e-4 == pytest.approx(0.76, abs=0.03)
    assert whole.rate(0.9999) < 0.06
    full = cfg("--data", "cub:x", "--batch-size", "512")
    # The reference: t = 7 of 300 gives 4.9934205e-4; the released code is one epoch late.
    assert full.rate(0.08) * full.peak == pytest.approx(4.9934205e-4, rel=1e-6)
    full = cfg("--data", "cub:x", "--batch-size", "512", "--cosine-epochs", "0")
    assert full.rate(0.08) * full.peak == pytest.approx(4.9409961e-4, rel=1e-6)


def test_the_released_settings_of_taxon_ssl() -> None:
    made = cfg("--data", "cub-f:x", "--method", "taxon-ssl:memory=9")
    assert made.chosen().objective == "taxon-ssl:memory=9"
    assert (made.optimizing()["name"], made.weight_decay, made.epochs) == ("sgd-nesterov", 5e-4, 200)
    assert (made.batch_size, made.mixup, made.cutmix, made.smoothing, made.ema) == (128, 0, 0, 0, 0)
    assert made.peak == pytest.approx(1e-3)
    assert made.model == "hier_vit_small"
    demo = cfg("--data", "demo", "--method", "taxon-ssl")
    assert (demo.optimizer, demo.batch_size, demo.model) == ("adamw", 32, "nano_vit")


def test_texts_of_the_demo_need_no_weights() -> None:
    assert cfg("--data", "demo", "--texts", "demo").text_encoder == "words:64"
    assert cfg("--data", "cub-f:x", "--texts", "x.csv").text_encoder == "clip:ViT-B-32/openai"
    with pytest.raises(ConfigError, match="--texts is for hcast, hier-vit and taxon-ssl"):
        cfg("--data", "demo", "--texts", "demo", "--method", "fgn")
