"""All model cards, written again."""

from __future__ import annotations

import runpy

from castssl.models.presets import PRESETS
from tests.house import source


def test_each_card_and_their_table_are_what_the_code_gives() -> None:
    written = runpy.run_path(str(source.ROOT / "docs" / "write_cards.py"))
    cards = {name: written["card"](name) for name in PRESETS}
    texts = {name: (written["FOLDER"] / f"{name}.md").read_text("utf-8") for name in PRESETS}
    assert texts == {name: card.text for name, card in cards.items()}
    index = (written["FOLDER"] / "index.md").read_text("utf-8")
    assert index == written["INDEX"] + "".join(card.line for card in cards.values())
