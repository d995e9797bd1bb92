from __future__ import annotations

from importlib import resources

from castssl.visualization.photographs import photographs


def test_four_photographs_with_named_sources() -> None:
    shown = photographs()
    assert [name for name, _ in shown] == ["astronaut", "chelsea", "coffee", "rocket"]
    sources = resources.files("castssl.visualization.photographs").joinpath("SOURCES.md").read_text()
    for name, image in shown:
        assert (image.mode, min(image.size)) == ("RGB", 256)
        assert len(image.getcolors(2**24) or []) > 5_000  # a photograph, not a drawing
        assert f"`{name}.jpg`" in sources
