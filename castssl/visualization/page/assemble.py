"""A page of files beside this module: one HTML file with its styles, scripts and data, which loads nothing.

A policy in the page forbids it to load anything, and to run another script than its own.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from importlib import resources

DATA = "<!-- data -->"
"""The place of the data in an assembled page."""
VIEWER = "<!-- viewer -->"
"""The place of the viewer's controls."""


def assemble(body: str, styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A page with its styles and scripts, whose hashes its policy lists; :data:`DATA` is still in it.

    Args:
        body: the name of an HTML file with a place for each.
        styles: names of CSS files.
        scripts: names of JavaScript files, run one after the other.
    """
    page = source(body).replace(VIEWER, source("viewer.html"))
    for kind, names in (("style", styles), ("script", scripts)):
        texts = [source(name) for name in names]
        hashes = [f"'sha256-{base64(hashlib.sha256(text.encode()).digest())}'" for text in texts]
        page = page.replace(f"'{kind}-hash'", " ".join(hashes))
        page = page.replace(f"<!-- {kind} -->", "\n".join(f"<{kind}>{text}</{kind}>" for text in texts))
    return page


def stored(value: object, attribute: str) -> str:
    """A line that holds a value as JSON for the page's scripts; nothing in it ends the HTML script.

    Args:
        value: what JSON can hold.
        attribute: of the HTML element, such as ``id="about"``.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" {attribute}>{text}</script>\n'


def base64(data: bytes) -> str:
    """Bytes as the letters that a page can hold."""
    return b64encode(data).decode()


def source(name: str) -> str:
    """The text of a file beside this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
