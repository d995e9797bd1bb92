"""A model card for each preset, docs/cards/NAME.md, and their table, docs/cards/index.md.

python docs/write_cards.py                      # all of them: a minute
python docs/write_cards.py cast_nano            # one
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

from castssl import create
from castssl.checkpoints.card import gflops, intended_use, make_card
from castssl.models.presets import PRESETS

FOLDER = Path(__file__).parent / "cards"
NUMBERS: Any = runpy.run_path(str(Path(__file__).with_name("write_numbers.py")))
SUMMARY = """A preset of castssl: `castssl.create({call})` builds it with new weights. This card
describes the preset, and no trained weights; `castssl.checkpoints.hub.save_pretrained` writes such a card
beside the weights of a run."""
OPTIONS = {"tome_small": {"pooling": "tome"}}
"""What a preset needs to be what it is for."""
LARGE = 512
"""Side in pixels of the images that the dense presets are for."""
INDEX = """# Model cards

<!-- Written by `python docs/write_cards.py`; changes here are lost. -->

Parameters, GFLOPs (multiply-adds of one image of 224 pixels, by `castssl flops`; of dense presets also of one
of 512 pixels) and tokens are computed from the code. castssl comes without weights. A card names the weights
that others have released for its preset, and their license.

| preset | parameters | GFLOPs | tokens, fine to coarse | intended use |
| --- | --: | --: | --- | --- |
"""


class Card(NamedTuple):
    """A card, and its line in the table."""

    text: str
    line: str


def card(name: str) -> Card:
    """The card of a preset."""
    about = NUMBERS["_toml"](NUMBERS["DATA"] / "about.toml")
    options = OPTIONS.get(name, {})
    call = ", ".join([f'"{name}"', *(f'{key}="{value}"' for key, value in options.items())])
    encoder = create(name, **options)
    config = encoder.config
    licence = "none come with castssl, and those of your runs are yours"
    if released := about["cards"].get(name):
        files = "\n".join(f"- `snapshots/{file}`" for file in released)
        licence += (
            f". Others have released these:\n\n{files}\n\n{about['weights']['cast']['text'].rstrip('.')}"
        )
    fields = {
        "summary": SUMMARY.format(call=call),
        "load": f'castssl.create({call})  # new weights; castssl.load_encoder("RUN") has those of a run',
        "numbers": "[docs/numbers.md](../numbers.md)",
        "licence": licence,
    }
    cost = gflops(encoder).split()[0]
    if config.dense:
        side, large = config.image_size, gflops(create(name, image_size=LARGE, **options)).split()[0]
        fields["image_size"] = f"{side} or, with `image_size={LARGE}`, {LARGE}"
        sides = f"{cost} for {side} pixels, {large} for {LARGE}"
        fields["gflops"] = f"{sides} (`castssl flops --image-size`), without heads"
        cost = f"{cost}; {LARGE} pixels: {large}"
    text = f"{make_card(encoder, **fields)}".rstrip("\n") + "\n"
    count = sum(p.numel() for p in encoder.parameters())
    cells = [f"[{name}]({name}.md)", f"{count:,}", cost]
    cells += [", ".join(map(str, config.sizes)), intended_use(config)]
    return Card(text, f"| {' | '.join(cells)} |\n")


def main(arguments: list[str]) -> None:
    """Write the cards and their lines in the table."""
    parser = argparse.ArgumentParser(description="Write the model cards of presets, and their table.")
    known = ", ".join(PRESETS)
    parser.add_argument("names", nargs="*", metavar="PRESET", help=f"default: all of {known}")
    names: list[str] = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in PRESETS]:
        parser.error(f"got {', '.join(unknown)}, expected names of presets: {known}")
    FOLDER.mkdir(exist_ok=True)
    made = {name: card(name) for name in names or PRESETS}
    for name, of_name in made.items():
        (FOLDER / f"{name}.md").write_text(of_name.text, encoding="utf-8")
    index = FOLDER / "index.md"
    there = index.read_text(encoding="utf-8").splitlines(keepends=True) if names else []
    old = {line.split("]")[0].removeprefix("| ["): line for line in there if line.startswith("| [")}
    lines = {**old, **{name: of_name.line for name, of_name in made.items()}}
    index.write_text(INDEX + "".join(lines[name] for name in PRESETS), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
