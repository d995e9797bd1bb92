"""The site is built without network and without a warning, and its links lead somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.built_pages import Page, broken
from tests.house import source

OFFLINE = """
import runpy, socket, sys
def refuse(*arguments, **options):
    raise SystemExit(f"a connection is asked for: {arguments}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""A program that runs a module to which all connections are refused."""


def offline(*words: str) -> subprocess.CompletedProcess[str]:
    """The finished run of a module without network."""
    command = [sys.executable, "-c", OFFLINE, *words]
    return subprocess.run(command, cwd=source.ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    states = ["-d", str(folder / "doctrees"), "-W", "--keep-going"]
    done = offline("sphinx", "-q", "-b", "html", "-c", "docs", *states, ".", str(folder / "html"))
    assert done.returncode == 0, done.stderr[-5000:]
    assert "WARNING" not in done.stderr
    return folder / "html"


def test_a_connection_is_refused() -> None:
    """By a module of the standard library that opens one."""
    done = offline("poplib", "localhost", "user", "password")
    assert done.returncode != 0
    assert "a connection is asked for" in done.stderr


def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    assert not broken(site)


def test_every_document_is_a_page(site: Path) -> None:
    tops = {"docs", "recipes", "plugins"}
    documents = [path for path in source.files() if path.suffix == ".md" and path.parts[0] in tops]
    assert documents
    lost = [str(path) for path in documents if not (site / path.with_suffix(".html")).is_file()]
    assert not lost
    assert (site / "README.html").is_file()


def test_the_address_of_the_site_leads_to_its_first_page(site: Path) -> None:
    assert "docs/index.html" in Page(site / "index.html").links


def test_docstrings_are_on_the_pages(site: Path) -> None:
    assert "castssl.load" in Page(site / "docs" / "api" / "castssl.html").places
    assert "castssl.types.Hierarchy.labels" in Page(site / "docs" / "api" / "types.html").places
