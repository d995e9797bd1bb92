"""The pages of docs/ name what there is: the stable names, the presets, the terms."""

from __future__ import annotations

import re

import pytest

from castssl.models.presets import ALIASES, PRESETS
from tests.house import source
from tests.house.test_documents import anchors

DOCS = source.ROOT / "docs"
API = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.md")))
MODELS = (DOCS / "models.md").read_text(encoding="utf-8")
SURFACE = (source.ROOT / "plugins" / "README.md").read_text(encoding="utf-8").partition("may import\n")[2]
STABLE = sorted(set(re.findall(r"`(castssl(?:\.\w+)+)`", re.sub(r"(?m)\|[^|]*\|$", "|", SURFACE))))
SHOWN = set(re.findall(r"(?m)^\.\. auto(?:module|class|function|data):: (castssl[\w.]*)$", API))


@pytest.mark.parametrize("name", STABLE)
def test_a_stable_name_has_its_docstring_on_the_site(name: str) -> None:
    assert any(shown == name or shown.startswith(f"{name}.") for shown in SHOWN)


def test_there_are_stable_names() -> None:
    assert {"castssl.types", "castssl.metrics.iou", "castssl.models.blocks.Stage"} <= set(STABLE)


def test_the_page_of_models_names_presets_alone() -> None:
    named = {name for name in re.findall(r"`(\w+)`", MODELS) if re.search(r"_|^nano$", name)}
    assert len(named) > 5
    assert named <= PRESETS.keys() | ALIASES.keys()


def test_the_page_of_models_has_the_rows_of_table_10() -> None:
    """The preset of each model that the paper names has its width."""
    rows = re.findall(r"(?m)^\| [^|]+ \| [^|]*(?:Fig|Table)[^|]+ \| [^|]+ \| CAST-(\w) \| ([^|]+) \|", MODELS)
    assert len(rows) == 9
    for letter, presets in rows:
        widths = {PRESETS[name].dim for name in re.findall(r"`(\w+)`", presets)}
        assert widths == {{"S": 384, "B": 768}[letter]}


@pytest.mark.parametrize("term", ["segment", "mass", "assign", "stage", "level", "size", "hierarchy"])
def test_the_glossary_has_the_term(term: str) -> None:
    assert term in anchors((DOCS / "glossary.md").read_text(encoding="utf-8"))
