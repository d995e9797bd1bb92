"""Sphinx builds the site from the repository's own Markdown files, where they are: no text is copied.

The source folder is the root of the repository (``make docs``), so that a relative link between two files is
the same link on the site.  Nothing is downloaded: inventories of other projects are not used.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "castssl"
author = copyright = "the authors of castssl"
version = release = installed("castssl")
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "changelog/README.md",
    "docs/**",
    "recipes/**",
    "plugins/README.md",
    "plugins/*/README.md",
    "castssl/visualization/photographs/SOURCES.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "demo", "tests", "**/tests", "**/src", "**/__pycache__"]

myst_heading_anchors = 4  # Those of GitHub, so that a link to a heading works in both places.
myst_enable_extensions = ["attrs_block"]
suppress_warnings = [
    "ref.python",  # Two classes are named Segmentation; an annotation has the bare name.
]
nitpicky = True
nitpick_ignore_regex = [
    # Documented elsewhere: inventories would be downloaded.
    (r"py:.*", r"(torch|torchmetrics|numpy|PIL|rich|pytest|collections|pathlib|typing|atexit|nn|np)\..*"),
    (r"py:.*", r"(Tensor|Path|Image\.Image|NDArray|Self|T)"),
    # Modules that may change between versions have no page; docstrings and annotations may name them.
    (r"py:.*", r"castssl\.(inference|registry|superpixel_labels|datasets|models\.(presets|channels))(\..*)?"),
    (r"py:.*", r"castssl\.checkpoints\.(card|segmenter|report|classifier)\..*"),
    (r"py:.*", r"castssl\.objectives\.(moco|mixing|mask_classification)\..*"),
    (r"py:.*", r"castssl\.objectives\.segmentation\.SegmentationModel"),
    (r"py:.*", r"castssl\.objectives\.(classification\.ClassifierModel|averaged\.[AM])"),
    (r"py:.*", r"castssl\.(evaluation\.windows\.Windows|testing\.claims\.T|models\.segmentation_heads)"),
    (r"py:(func|data|meth|attr|mod)", r"(_?[a-z_]+|KINDS|Segmenter\.__call__)"),
    # The module that a name comes from has the entry.
    (r"py:class", r"castssl\.(View|EncoderConfig)"),
    # What stands before a colon in "Returns:" is taken for a type: shapes and dtypes.
    (r"py:class", r"[^.]*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "castssl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_additional_pages = {"index": "home.html"}  # The address of the folder leads to the first page.
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"

linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False  # GitHub and others make their anchors by scripts.


class FolderLinks(SphinxTransform):
    """Links to folders, which a code hosting page shows with their README, lead to that README.

    A folder without one is not part of the site: its name stays, without a link.
    """

    default_priority = 5

    def apply(self, **_: object) -> None:
        """Change each such link of a document in place."""
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("reftype") != "myst" or node.get("refdomain"):
                continue
            _, path = self.env.relfn2path(node["reftarget"].split("#")[0], self.env.docname)
            folder = Path(path)
            if folder.is_dir() and (folder / "README.md").is_file():
                node["refdomain"] = "doc"
                node["reftarget"] = self.env.path2doc(str(folder / "README.md"))
                node["reftargetid"] = None
            elif folder.is_dir():
                node.replace_self(nodes.inline("", "", *node.children))


class Attributes:
    """Docstrings of attributes as they are: napoleon takes what stands before a colon in them for a type."""

    def __init__(self) -> None:
        self._kept: dict[str, list[str]] = {}

    def keep(self, *arguments: Any) -> None:
        """Before napoleon."""
        _, what, name, _, _, lines = arguments
        if what in {"attribute", "data", "property"}:
            self._kept[name] = [line for line in lines if not line.startswith("Alias for field number")]

    def put_back(self, *arguments: Any) -> None:
        """After it."""
        _, _, name, _, _, lines = arguments
        lines[:] = self._kept.pop(name, lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what is done to links and docstrings."""
    attributes = Attributes()
    app.add_transform(FolderLinks)
    app.connect("autodoc-process-docstring", attributes.keep, priority=100)
    app.connect("autodoc-process-docstring", attributes.put_back, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
