from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from castssl.config import differences, measured_with, plain
from castssl.errors import ConfigError
from castssl.shipped import recipe
from castssl.training.configs import ImageConfig

CONFIG = ImageConfig(data="demo", batch_size=12, accumulate=3, workers=2, seed=5)


def test_loading_gives_what_the_loader_takes(tmp_path: Path) -> None:
    assert CONFIG.loading() == {"batch_size": 4, "workers": 2, "seed": 5, "cache": None}
    cached = replace(CONFIG, superpixel_cache=str(tmp_path / "a"), superpixel_cache_gb=0.5)
    cache = cached.loading()["cache"]
    assert cache.folder == tmp_path / "a"
    assert cache.folder.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        replace(CONFIG, superpixel_cache=str(tmp_path / "file")).loading()


def test_a_run_goes_on_with_its_cache_elsewhere_but_not_without_it() -> None:
    cached = replace(CONFIG, superpixel_cache="here")
    assert not differences(plain(cached), replace(CONFIG, superpixel_cache="there", superpixel_cache_gb=1.0))
    assert "--superpixel-cache: the run has 'here'" in differences(plain(cached), CONFIG)[0]
    assert "--superpixel-cache: the run has None" in differences(plain(CONFIG), cached)[0]


def test_a_cache_of_no_size_is_a_problem() -> None:
    assert not CONFIG.problems()
    assert "--superpixel-cache-gb" in replace(CONFIG, superpixel_cache_gb=0.0).problems()[0]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("probe_in1k", {"val": "folder:x", "knn_images": 5}),
        ("retrieve_voc", {"val": "voc:x", "longer": 16}),
        ("segment", {"window": 512, "stride": 256, "superpixels_once": True}),
        ("moco_in1k", {"eval_size": 64, "knn_branch": "momentum"}),
        ("pretrain", {"branch": "momentum"}),
        ("hcast", {"branch": "ema", "masks": "masks.json"}),
        ("multilabel", {"branch": "ema"}),
    ],
)
def test_results_of_other_settings_are_others(name: str, changes: dict[str, object]) -> None:
    """A run may be repeated with these flags, which must not show the results of before."""
    config = runpy.run_path(str(recipe(name)))["Config"]()
    for key, value in changes.items():
        changed = replace(config, **{key: value})
        assert not differences(plain(config), changed)
        assert measured_with(changed) == f" --{key.replace('_', '-')} {value}"
    other = replace(config, workers=1, out="run", preset="tiny", keep=9, log_every=3, compile=True)
    assert measured_with(other) == ""
