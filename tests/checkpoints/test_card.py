"""Model cards, whose figures are computed."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from castssl.checkpoints import card
from castssl.checkpoints.card import gflops, intended_use, limits, make_card
from castssl.encoder_config import EncoderConfig
from castssl.models.create import create
from castssl.models.flops import account
from castssl.models.presets import PRESETS
from tests.house import source

CARDS = source.ROOT / "docs" / "cards"
written: Any = runpy.run_path(str(source.ROOT / "docs" / "write_cards.py"))


def test_each_preset_has_a_card_and_a_line() -> None:
    assert {path.stem for path in CARDS.glob("*.md")} == {*PRESETS, "index"}
    index = (CARDS / "index.md").read_text("utf-8")
    assert all(index.count(f"| [{name}]({name}.md) |") == 1 for name in PRESETS)


def test_a_written_card_is_what_the_code_gives() -> None:
    made = written["card"]("nano_vit")
    assert (CARDS / "nano_vit.md").read_text("utf-8") == made.text
    assert made.line in (CARDS / "index.md").read_text("utf-8")


def test_a_preset_of_another_pooling_has_that_pooling() -> None:
    """ToMe has no weights of its own."""
    text = (CARDS / "tome_small.md").read_text("utf-8")
    assert 'castssl.create("tome_small", pooling="tome")' in text
    assert "| pooling | `tome` |" in text


def test_sizes_and_gflops_are_those_of_the_encoder() -> None:
    encoder = create("nano_vit", image_size=64)
    macs = account(encoder, image_size=64, classes=()).macs
    text = str(make_card(encoder))
    assert f"| GFLOPs | {macs / 1e9:.2f} (`castssl flops`), without heads |" in text
    count = sum(p.numel() for p in encoder.parameters())
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert f"{count:,} parameters, {trained:,} of them trained" in text
    assert f"{count * 4 / 1e6:.1f} MB in float32" in text
    assert "{{" not in text


def test_an_encoder_that_cannot_be_counted_has_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a kernel without a formula")

    monkeypatch.setattr(card, "account", fail)
    encoder = create("nano_vit", image_size=40)
    assert gflops(encoder) == "not counted (RuntimeError)"


@pytest.mark.parametrize("name", PRESETS)
def test_the_intended_use_names_what_a_preset_is_for(name: str) -> None:
    expected = {
        "cast_small_dense": "Semantic segmentation",
        "cast_base_seg": "Pretraining without labels for segmentation",
        "vit_base": "The baselines of CAST's Tables 3a and 4",
        "tome_small": "Table 5a",
        "hier_vit_small": "Hier-ViT",
        "nano_vit_seg": "Demonstrations",
    }
    use = intended_use(PRESETS[name])
    assert expected.get(name, "") in use
    assert use != intended_use(EncoderConfig("timm:resnet50"))


def test_limits_are_those_of_the_shape() -> None:
    assert "a pooling that no loss reaches" in limits(PRESETS["cast_small"])
    assert "a pooling that no loss reaches" not in limits(PRESETS["cast_small_seg"])
    assert "superpixels" not in limits(PRESETS["vit_small"])
