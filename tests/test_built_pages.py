"""Broken links of a site are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.built_pages import broken, main


def write(folder: Path, link: str) -> Path:
    """A site of two pages and a picture, with one more link."""
    (folder / "sub").mkdir()
    (folder / "a b.png").write_bytes(b"")
    targets = ("sub/two.html#here", "#top", "https://nowhere/x", "a%20b.png")
    good = "".join(f'<a href="{target}">x</a>' for target in targets) + '<img src="a%20b.png">'
    (folder / "one.html").write_text(f'<p id="top">{good}{link}</p>')
    (folder / "sub" / "two.html").write_text('<h1 id="here"><a href="../one.html">x</a></h1>')
    return folder


def test_a_site_whose_links_hold_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write(tmp_path, "")) == 0
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "target", ["three.html", "#nothing", "sub/two.html#nothing", "sub", "b.png", "../one.html"]
)
def test_a_link_that_leads_nowhere_is_named(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site").mkdir()
    site = write(tmp_path / "site", f'<a href="{target}">x</a>')
    assert broken(site) == [f"one.html: {target}"]
    assert main(site) == 1
    assert target in capsys.readouterr().out


def test_a_folder_without_pages_does_not_pass(tmp_path: Path) -> None:
    assert main(tmp_path) == 1
